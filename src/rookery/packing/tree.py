# SPDX-License-Identifier: Apache-2.0
"""Packs a directory into one tar archive (POSIX.1-2001 pax), the same bytes for the same tree.

Kept exactly: modes, numeric owners, times to the nanosecond, symbolic and hard links, FIFOs, devices, holes of sparse
files, and extended attributes (file capabilities, access control lists and SELinux labels are some), as
`SCHILY.xattr.*` records, which GNU tar (`--xattrs`) and libarchive read as well. Names are sorted by their bytes.
Left out: user and group names (they mean other numbers elsewhere) and access and change times.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rookery.errors import ErrorKind, RookeryError
from rookery.packing import holes

# (bytes of content done, of how many, name of the entry)
OnPacked = Callable[[int, int, str], None]
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def pack(source: Path, destination: Path, on_packed: OnPacked, cancel: threading.Event) -> None:
    """Write the directory `source` to the tar archive `destination`; its own entry is called `.`.

    Raises RookeryError: `invalid` for a socket or for a file that changed while it was read,
    `forbidden` for one that may not be read, `cancelled`; and OSError from writing.
    """
    root = os.fsencode(source)
    paths = sorted(_below(root))
    total = sum(state.st_size for _, state in paths if stat.S_ISREG(state.st_mode))
    first: dict[tuple[int, int], str] = {}
    done = 0
    with tarfile.open(destination, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for relative, state in paths:
            if cancel.is_set():
                raise RookeryError("packing files was cancelled", kind=ErrorKind.CANCELLED)
            info = _entry(os.path.join(root, relative), relative, state, first)
            if info.isreg():
                done += _add_file(tar, info, os.path.join(root, relative))
                on_packed(min(done, total), total, info.name)
            else:
                tar.addfile(info)


def _below(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    yield b".", os.lstat(root)
    for directory, names, others in os.walk(root, onerror=_raise):
        for name in [*names, *others]:
            path = os.path.join(directory, name)
            yield os.path.relpath(path, root), os.lstat(path)


def _raise(error: OSError) -> None:
    raise _unreadable(os.fsencode(error.filename), error)


def _entry(path: bytes, relative: bytes, state: os.stat_result, first: dict[tuple[int, int], str]) -> tarfile.TarInfo:
    kind = stat.S_IFMT(state.st_mode)
    shown = os.fsdecode(relative)
    if kind not in _TYPES:
        raise RookeryError(
            f"cannot publish {os.fsdecode(path)}: a socket has no content",
            kind=ErrorKind.INVALID,
            hint="stop the program that has it, or publish a directory without it",
        )
    info = tarfile.TarInfo(shown)
    info.type = _TYPES[kind]
    info.mode = stat.S_IMODE(state.st_mode)
    info.uid, info.gid = state.st_uid, state.st_gid
    seconds, rest = divmod(state.st_mtime_ns, 10**9)
    info.mtime = seconds
    records = {"mtime": f"{seconds}.{rest:09d}"} if rest else {}
    if kind != stat.S_IFDIR and state.st_nlink > 1:
        mate = first.setdefault((state.st_dev, state.st_ino), shown)
        if mate != shown:
            info.type, info.linkname = tarfile.LNKTYPE, mate
            return info
    if kind == stat.S_IFLNK:
        info.linkname = os.fsdecode(os.readlink(path))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        info.devmajor, info.devminor = os.major(state.st_rdev), os.minor(state.st_rdev)
    elif kind == stat.S_IFREG:
        info.size = state.st_size
    info.pax_headers = {**records, **_attributes(path)}
    return info


def _attributes(path: bytes) -> dict[str, str]:
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        # tarfile writes text; bytes that are not UTF-8 go through it as surrogates (and a header that says so).
        return {
            f"SCHILY.xattr.{name}": os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape")
            for name in names
        }
    except OSError as error:
        if error.errno in (95, 61):  # EOPNOTSUPP: a file system without them; ENODATA: gone since it was listed
            return {}
        raise _unreadable(path, error) from error


def _add_file(tar: tarfile.TarFile, info: tarfile.TarInfo, path: bytes) -> int:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise _unreadable(path, error) from error
    with os.fdopen(handle, "rb") as file, contextlib.suppress(_EndedEarlyError):
        before = os.fstat(handle)
        if before.st_size == info.size:
            member, content = holes.sparse(info, file, tar.offset) or (info, file)
            file.seek(0)
            tar.addfile(member, _Whole(content))
            after = os.fstat(handle)
            if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
                return info.size
    raise RookeryError(
        f"{os.fsdecode(path)} changed while it was read",
        kind=ErrorKind.INVALID,
        hint="publish a directory that nobody is writing to",
    )


class _EndedEarlyError(Exception):
    """A file was shorter than it had been."""


class _Whole:
    """Reads a file for tarfile, which asks for no more than the size that it was told."""

    def __init__(self, file: IO[bytes] | holes.Part) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise _EndedEarlyError
        return data


def _unreadable(path: bytes, error: OSError) -> RookeryError:
    kind = ErrorKind.FORBIDDEN if isinstance(error, PermissionError) else ErrorKind.FAILED
    return RookeryError(f"cannot read {os.fsdecode(path)}: {error.strerror}", kind=kind)
