# SPDX-License-Identifier: Apache-2.0
"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError

BLOCK = 1 << 20
OWNER = "run this as root, or as the owner of that place, or choose another one"
_KINDS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ErrorKind.FORBIDDEN),
    **dict.fromkeys((errno.ENOENT,), ErrorKind.NOT_FOUND),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ErrorKind.NO_SPACE),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL), ErrorKind.INVALID
    ),
}


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a reader, or a crash, sees the old bytes or the new ones, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable (a rename is only safe after this)."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file as 64 lower-case hex digits; `on_bytes` gets the bytes read so far, once a mebibyte."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            if on_bytes:
                on_bytes(done)
    return digest.hexdigest()


def require_space(directory: Path, needed: int, what: str) -> None:
    """Raise `no-space` unless `directory`'s file system has `needed` bytes free for `what`."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RookeryError(
            f"not enough space for {what}: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free in {directory}",
            kind=ErrorKind.NO_SPACE,
            hint="free some space there, or move the directory to a larger file system",
        )


def refused(error: OSError, what: str, hint: str = "") -> RookeryError:
    """The error of a place that a person named and the system refused, as in `cannot write /x: Read-only file system`.

    what: `cannot write /x`. hint: for those who may not; who names a place that is none is told to name another.
    """
    kind = _KINDS.get(error.errno or 0, ErrorKind.FAILED)
    if kind is ErrorKind.NO_SPACE:
        hint = "free some space there, or choose another place"
    elif kind is not ErrorKind.FORBIDDEN or error.errno == errno.EROFS or not hint:
        hint = "choose another place"
    return RookeryError(f"{what}: {error.strerror or error}", kind=kind, hint=hint)


def require_writable(directory: Path) -> None:
    """Make `directory` if it is not there. Raises RookeryError when that, or a file in it, is refused."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if _KINDS.get(error.errno or 0) is ErrorKind.NO_SPACE:
            return  # whoever writes tells how much is lacking
        raise refused(error, f"cannot write {directory}", OWNER) from error


@contextlib.contextmanager
def scratch_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """A directory that is gone when the block is left, whatever happened."""
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
