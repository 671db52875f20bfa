# SPDX-License-Identifier: Apache-2.0
"""Bodies of the routes that are about versions: their history, going back, collecting those that nobody needs.

Times are seconds since 1970 (UTC), sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rookery.api.types import Name, Short, Version
from rookery.codec import Range


@dataclass(frozen=True)
class HistoryEntry:
    """A version in the history of its image. source: what it was made from, in a few words (`recipe: debian bookworm`).
    change: what is different from the version before it, in one line; empty for the first."""

    version: Version
    source: str
    change: str


@dataclass(frozen=True)
class TagMove:
    """That a tag was made to mean a version. undone: a rollback took it back."""

    tag: str
    version: str
    at: float
    undone: bool = False


@dataclass(frozen=True)
class History:
    """An image's versions, newest first, and what its tags meant, oldest move first. Moves to versions that were
    removed are forgotten."""

    image: str
    entries: tuple[HistoryEntry, ...]
    moves: tuple[TagMove, ...]


@dataclass(frozen=True)
class Rollback:
    """A tag that is to go back. to: a version (another tag, or the first 8 digits of an id or more); empty: what the
    tag meant before its last move."""

    tag: Short = "latest"
    to: Short = ""


@dataclass(frozen=True)
class RolledBack:
    """A tag that went back. before: the id that it meant. version: what it means now."""

    tag: str
    before: str
    version: Version


@dataclass(frozen=True)
class Collect:
    """Versions that nobody needs are to go. keep: so many of each image stay, the newest, whether needed or not."""

    keep: Annotated[int, Range(0, 1_000_000)] = 0
    dry_run: bool = False


@dataclass(frozen=True)
class Staying:
    """A version that stays, and why. size: sum of its blobs, bytes. published_at: seconds since 1970."""

    image: str
    id: str
    reason: str
    size: int
    published_at: float


@dataclass(frozen=True)
class Collected:
    """What went, or with dry_run would go. size: bytes of their files that no other version has; they are free once no
    publication is under way any more. staying: every other version."""

    going: tuple[Version, ...]
    staying: tuple[Staying, ...]
    size: int
    applied: bool


@dataclass(frozen=True)
class Compare:
    """Two versions to compare: `name[:tag]`, `name@id` or an id each. files: whether files are compared as well, which
    reads both."""

    before: Name
    after: Name
    files: bool = True


@dataclass(frozen=True)
class PackageChange:
    """A package that differs. before, after: its versions; empty where it is not there."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class FileChange:
    """An entry that differs. before, after: as `ls -l` shows it (`-rw-r--r-- 0:0 812`); empty where it is not there.
    what: `added`, `removed`, or of `type`, `content`, `target`, `device`, `mode`, `owner`, `attributes`. Times do not
    count."""

    path: str
    before: str
    after: str
    what: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """What is different between two versions. files: the first 20,000; the counts are of all. transfer: bytes of the
    blobs of `after` that whoever has `before` lacks, of `size` altogether. blobs: names of those that differ. notes:
    what was not compared."""

    before: Version
    after: Version
    packages: tuple[PackageChange, ...]
    files: tuple[FileChange, ...]
    files_added: int
    files_removed: int
    files_changed: int
    transfer: int
    size: int
    blobs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
