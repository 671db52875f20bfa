# SPDX-License-Identifier: Apache-2.0
"""Published files as clients that are not ours see them: what `/files` answers as JSON, and what a ticket opens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OfferedFile:
    """A file of a version. size: bytes. url, torrent, metalink: with the ticket in them, where there is one; torrent
    is empty for a file that the swarm does not carry. mirrors: URLs of more copies, those to ask first at the top."""

    name: str
    role: str
    size: int
    sha256: str
    url: str
    torrent: str
    metalink: str
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfferedVersion:
    """A version. url: a page about it. metalink: all its files in one. size: bytes. published_at: seconds since
    1970."""

    image: str
    version: str
    kind: str
    tags: tuple[str, ...]
    size: int
    published_at: float
    url: str
    metalink: str
    files: tuple[OfferedFile, ...]


@dataclass(frozen=True)
class Offered:
    """What is open to a caller, newest versions of each image first."""

    versions: tuple[OfferedVersion, ...]
