# SPDX-License-Identifier: Apache-2.0
"""What operator and head say to each other about mirrors. Times are seconds since 1970 (UTC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rookery.codec import Length, Range


@dataclass(frozen=True)
class AddMirror:
    """A mirror to register, once it was found right. url: where it has the files, or a pattern with {image}, {version},
    {name} and {sha256}. priority: 1 is asked first. location: a country's two small letters, or empty. whole: read its
    files whole, not only samples."""

    name: Annotated[str, Length(128)]
    url: Annotated[str, Length(2048)]
    priority: Annotated[int, Range(1, 999_999)] = 10
    location: Annotated[str, Length(2)] = ""
    whole: bool = False


@dataclass(frozen=True)
class CheckMirror:
    """A check that is asked for. whole: as in AddMirror."""

    whole: bool = False


@dataclass(frozen=True)
class Mirror:
    """A mirror and what its last check said. state: `good`; `bad` or `unreachable`, with the reason: then none of its
    URLs is handed out. good, missing, bad: how many files it has rightly, not (yet), and wrongly."""

    name: str
    url: str
    priority: int
    location: str
    state: str
    reason: str
    added_at: float
    checked_at: float | None
    good: int
    missing: int
    bad: int


@dataclass(frozen=True)
class MirrorFile:
    """A file on a mirror. etag: the mirror answers by a strong ETag, so clients can ask whether it has changed."""

    url: str
    sha256: str
    state: str
    reason: str
    etag: bool
    checked_at: float


@dataclass(frozen=True)
class Mirrors:
    """All mirrors, those that are asked first at the top."""

    mirrors: tuple[Mirror, ...]


@dataclass(frozen=True)
class MirrorDetails:
    """A mirror with its files."""

    mirror: Mirror
    files: tuple[MirrorFile, ...]
