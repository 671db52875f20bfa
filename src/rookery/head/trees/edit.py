# SPDX-License-Identifier: Apache-2.0
"""One file of a working tree in an editor: written back whole or not at all, and still the same owner's."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import stat
import tempfile
from pathlib import Path

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.trees import beneath

EDITORS = ("sensible-editor", "nano", "vi")
_NEW_MODE = 0o644


def edit(root: Path, path: str) -> str:
    """Let the user edit `path`, of the tree `root`, in $VISUAL or $EDITOR. Returns the path that was written, or an
    empty text when nothing was changed.

    Owner, mode and extended attributes stay; a new file belongs to root. Raises RookeryError: `invalid` for a path that
    leads outside, or to something else than a file; `not-found`; `failed` when the editor did not end well: the tree is
    as before then.
    """
    with beneath.place(root, path) as at, tempfile.TemporaryDirectory(prefix="rookery-edit.") as scratch:
        found = beneath.mode(at)
        if found and not stat.S_ISREG(found):
            raise RookeryError(f"{at.shown} is not a file", kind=ErrorKind.INVALID)
        copy = Path(scratch) / at.name
        before = _read(at) if found else b""
        copy.write_bytes(before)
        words = _editor()
        code = run.foreground([*words, str(copy)])
        if code != 0:
            raise RookeryError(
                f"{words[0]} ended with exit code {code}; nothing was changed", hint="name your editor in $EDITOR"
            )
        after = copy.read_bytes()
        if after == before and found:
            return ""
        if not found and not after:
            return ""
        replace(at, after)
        return at.shown


def replace(at: beneath.Place, data: bytes) -> None:
    """Write a file anew under its own name, with the owner, mode and attributes of the one that is there."""
    name = f".{at.name[:200]}.{secrets.token_hex(4)}"
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at.directory)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            _like(at, file.fileno())
            os.fsync(file.fileno())
        os.rename(name, at.name, src_dir_fd=at.directory, dst_dir_fd=at.directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at.directory)
        raise
    os.fsync(at.directory)


def _like(at: beneath.Place, handle: int) -> None:
    try:
        old = os.open(at.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at.directory)
    except FileNotFoundError:
        os.fchmod(handle, _NEW_MODE)
        os.fchown(handle, 0, 0)
        return
    try:
        found = os.fstat(old)
        os.fchown(handle, found.st_uid, found.st_gid)
        os.fchmod(handle, stat.S_IMODE(found.st_mode))  # after the owner, whose change takes set-user-ID away
        for name in os.listxattr(old):
            os.setxattr(handle, name, os.getxattr(old, name))
    finally:
        os.close(old)


def _read(at: beneath.Place) -> bytes:
    handle = os.open(at.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at.directory)
    with os.fdopen(handle, "rb") as file:
        return file.read()


def _editor() -> list[str]:
    """The user's editor, which may be given with options."""
    chosen = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not chosen:
        chosen = [next((name for name in EDITORS if shutil.which(name)), "")]
    if not chosen[0] or not shutil.which(chosen[0]):
        raise RookeryError(
            f"there is no editor {chosen[0]}".rstrip(), kind=ErrorKind.MISSING, hint="name one in $EDITOR"
        )
    return chosen
