# SPDX-License-Identifier: Apache-2.0
"""What is known of a working tree: `state.json` beside its root, and whether the root is as it was."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError

ROOT = "root"
STATE = "state.json"
_MOST = 1 << 24


@dataclass(frozen=True)
class Captured:
    """The last capture. source: `host:/`. at: when it ended, seconds since 1970. moved: bytes that went over the wire.
    total: bytes of all files. seconds: how long it took. left_out: mount points that were not brought along."""

    source: str
    at: float
    moved: int
    total: int
    seconds: float
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class TreeState:
    """A working tree. id: random, so that a tree is told from a later one of the same name. origin: for people.
    version: the id of the version that the root was when it was last opened or published, or empty. opened_at: when
    work on it began, seconds since 1970. started: as identity.settle_times takes it: what is newer was made here.
    architecture: as in `uname -m`. recipe: what it came from. fingerprint: of the
    root, then. complete: false while, and after, a capture that did not come to its end. captured: the last capture."""

    id: str
    origin: str
    opened_at: float
    started: float
    version: str = ""
    architecture: str = ""
    recipe: str = ""
    fingerprint: str = ""
    complete: bool = True
    captured: Captured | None = None


def load(place: Path) -> TreeState:
    """The state of the tree in the directory `place`. Raises RookeryError `not-found`."""
    try:
        return codec.loads(TreeState, (place / STATE).read_bytes(), most=_MOST, what=str(place / STATE))
    except FileNotFoundError:
        raise RookeryError(
            f"there is no working tree of {place.name}",
            kind=ErrorKind.NOT_FOUND,
            hint=f"'rookery image open {place.name}' makes one; 'rookery image trees' lists those there are",
        ) from None


def save(place: Path, state: TreeState) -> None:
    """Write the state of the tree in `place`."""
    files.write_atomic(place / STATE, codec.dumps(state, indent=2).encode(), 0o600)


def newest(root: Path) -> float:
    """The latest change of a file's content below `root`, seconds since 1970; none later than now."""
    times = (
        os.lstat(os.path.join(parent, name)) for parent, _, others in os.walk(os.fsencode(root)) for name in others
    )
    return min(max((found.st_mtime for found in times if stat.S_ISREG(found.st_mode)), default=0.0), time.time())


def fingerprint(root: Path) -> str:
    """A digest of names, modes, owners, sizes and times of everything below `root`; contents are not read.

    Any change of a file changes its ctime, which nobody can set. Times of directories do not count (to look into one
    with an editor changes them), nor those of resolv.conf, which is lent.
    """
    digest = hashlib.sha256()
    top = os.fsencode(root)
    for parent, names, others in os.walk(top):
        names.sort()
        for name in sorted([*names, *others]):
            path = os.path.join(parent, name)
            found = os.lstat(path)
            timeless = stat.S_ISDIR(found.st_mode) or path == top + b"/etc/resolv.conf"
            times = (0, 0, 0) if timeless else (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(path[len(top) :] + b"\0")
            digest.update(repr((found.st_mode, found.st_uid, found.st_gid, found.st_rdev, *times)).encode())
    return digest.hexdigest()
