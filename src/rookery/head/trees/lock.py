# SPDX-License-Identifier: Apache-2.0
"""One at a time in a working tree, and who it is.

A lock of the kernel's (flock(2)) on a file beside the tree. It ends with the last process that has it, so a kill leaves
none behind; whoever works in the tree in our place (a shell in it) inherits it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rookery import codec
from rookery.errors import ErrorKind, RookeryError

NAME = "lock"
_MOST = 4096


# Not "end that process": of a job it is the head.
WAIT = "wait until that has ended, or end it with Ctrl-C where it was begun"


@dataclass(frozen=True)
class Holder:
    """Who works in a tree. what: with what (`shell`). user: its name. pid: process id. since: seconds since 1970."""

    what: str
    user: str
    pid: int
    since: float

    @property
    def shown(self) -> str:
        """For people: `shell, by root, process 4711, since 14:03:22`."""
        return (
            f"{self.what}, by {self.user}, process {self.pid}, since {time.strftime('%X', time.localtime(self.since))}"
        )


@contextlib.contextmanager
def hold(place: Path, what: str) -> Iterator[int]:
    """Hold the tree in the directory `place` until the block is left; gives the file descriptor to be inherited.

    Raises RookeryError: `conflict` with the present holder, `not-found` when the directory is not there.
    """
    handle = _take(place)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, codec.dumps(Holder(what, _user(), os.getpid(), time.time())).encode(), 0)
        yield handle
    finally:
        os.close(handle)


def holder(place: Path) -> Holder | None:
    """Who holds the tree in `place` now; None when nobody does."""
    try:
        handle = os.open(place / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared, and only for a moment: who looks must not be taken for who holds by another who looks.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(handle)
    else:
        return None
    finally:
        os.close(handle)


def _take(place: Path) -> int:
    for _ in range(20):
        try:
            handle = os.open(place / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise RookeryError(f"there is no working tree in {place}", kind=ErrorKind.NOT_FOUND) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                # Somebody may only be looking (see `holder`): then it is free at once.
                if not _is_held(handle):
                    continue
                present = _written(handle)
            finally:
                os.close(handle)
            raise RookeryError(
                f"the working tree of {place.name} is in use: {present.shown if present else 'by somebody'}",
                kind=ErrorKind.CONFLICT,
                hint=WAIT,
            ) from None
        try:
            if os.path.samestat(os.fstat(handle), os.stat(place / NAME)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the tree was removed, and perhaps made anew, while we waited
    raise RookeryError(f"the working tree of {place.name} is busy", kind=ErrorKind.CONFLICT, hint="try again")


def _is_held(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _written(handle: int) -> Holder | None:
    try:
        return codec.loads(Holder, os.pread(handle, _MOST, 0))
    except RookeryError:  # it is about to write its name
        return None


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
