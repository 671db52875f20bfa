# SPDX-License-Identifier: Apache-2.0
"""The head's resolv.conf, lent to a root while somebody works in it.

As a copy, not as a mount: package scripts replace the file. What was there before is kept beside the tree, so that it
comes back also when whoever borrowed was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from rookery.errors import RookeryError
from rookery.head.trees import beneath

HOST = Path("/etc/resolv.conf")
_LENT = "lent"  # the directory beside the root: what was lent, and what was there before
_PATH = "etc/resolv.conf"


@contextlib.contextmanager
def lent(place: Path, root: Path, host: Path = HOST) -> Iterator[str]:
    """Lend the host's file to `root` while the block runs; `place` is the directory that keeps what was there.

    Gives a path below /run when the image's own is a link there: /run is a file system of the moment, so whoever makes
    it must put the file there; otherwise empty.
    """
    give_back(place, root)
    if not host.is_file():
        yield ""
        return
    try:
        with beneath.place(root, _PATH) as at:
            found, shown = beneath.mode(at), at.shown
    except RookeryError:
        # A link into a directory that is made at boot.
        found, shown = 0, _in_run(root)
    if shown.startswith("/run/"):
        yield shown
        return
    if shown and (not found or stat.S_ISREG(found)):
        _lend(place, root, host)
    try:
        yield ""
    finally:
        give_back(place, root)


def give_back(place: Path, root: Path) -> None:
    """Put back what was there before something was lent, unless the borrower made a file of its own."""
    kept = place / _LENT
    if not kept.is_dir():
        return
    with contextlib.suppress(RookeryError), beneath.place(root, _PATH, follow=False) as at:
        now = _read(at)
        copy, before = kept / "copy", kept / "before"
        if now is None or (copy.exists() and now == copy.read_bytes()):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(at.name, dir_fd=at.directory)
            if before.exists():
                os.rename(before, at.name, dst_dir_fd=at.directory)
    shutil.rmtree(kept)


def _lend(place: Path, root: Path, host: Path) -> None:
    kept, text = place / _LENT, host.read_bytes()
    kept.mkdir()
    (kept / "copy").write_bytes(text)
    with beneath.place(root, _PATH) as at:
        with contextlib.suppress(FileNotFoundError):
            os.rename(at.name, kept / "before", src_dir_fd=at.directory)
        handle = os.open(at.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at.directory)
        with os.fdopen(handle, "wb") as file:
            file.write(text)


def _read(at: beneath.Place) -> bytes | None:
    """The file's bytes; None when there is nothing, and bytes that no resolv.conf has for what is no file."""
    found = beneath.mode(at)
    if not found:
        return None
    if not stat.S_ISREG(found):
        return b"\0"
    handle = os.open(at.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at.directory)
    with os.fdopen(handle, "rb") as file:
        return file.read(1 << 20)


def _in_run(root: Path) -> str:
    """Where the image's resolv.conf, a link, leads when that is below /run; otherwise empty."""
    try:
        target = os.readlink(root / _PATH)
    except OSError:
        return ""
    whole = os.path.normpath(os.path.join("/etc", target))
    return whole if whole.startswith("/run/") else ""
