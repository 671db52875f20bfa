# SPDX-License-Identifier: Apache-2.0
"""Unpacks a version of kind `tree`: a tar archive (POSIX pax) into one new directory, whole or not at all.

The archive is signed, yet nothing in it can reach outside of the directory: names are relative and without `..`, no
member is written through a symbolic link, and none twice. Owner, mode (set-user-id as well), times and extended
attributes are restored as far as this user may.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import threading
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import IO

from rookery import files
from rookery.errors import ErrorKind, RookeryError

_XATTR = "SCHILY.xattr."


def require_free(target: Path) -> None:
    """Raise RookeryError `conflict` when something is at `target` that unpacking would have to replace."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise RookeryError(
            f"{target} is there already",
            kind=ErrorKind.CONFLICT,
            hint="remove it, or fetch to another directory",
        )


def unpack_tree(archive: Path, target: Path, stop: threading.Event | None = None) -> None:
    """Unpack `archive` into a new directory beside `target` and give it that name when everything is there.

    Raises RookeryError: `conflict` when `target` is there already, `corrupt` for an archive that is none or reaches
    outside, `cancelled`, `no-space`. Nothing is left behind then.
    """
    require_free(target)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        try:
            with tarfile.open(archive, "r:", encoding="utf-8", errors="surrogateescape") as tar:
                _extract(tar, scratch, stop)
        except tarfile.TarError as error:
            raise RookeryError(f"{archive.name} is not a tar archive: {error}", kind=ErrorKind.CORRUPT) from error
        if target.is_dir():
            target.rmdir()
        os.rename(scratch, target)
        files.sync_directory(target.parent)
    finally:
        _remove(scratch)


def _extract(tar: tarfile.TarFile, top: Path, stop: threading.Event | None) -> None:
    directories: list[tuple[tarfile.TarInfo, Path]] = [(_plain_directory(), top)]
    made: dict[str, Path] = {}
    for member in tar:
        if stop is not None and stop.is_set():
            raise RookeryError("unpacking was cancelled", kind=ErrorKind.CANCELLED)
        path = _place(member.name, top)
        if path == top:
            directories[0] = (member, top)
            continue
        _require_inside(path, top, member.name)
        if os.path.lexists(path):
            raise RookeryError(f"the archive has {member.name!r} twice", kind=ErrorKind.CORRUPT)
        if member.isdir():
            path.mkdir(mode=0o700)
            directories.append((member, path))
            continue
        _make(tar, member, path, made)
        made[_normal(member.name)] = path
    # Directories last, innermost first: a read-only one could not be filled, and filling changes times.
    for member, path in sorted(directories, key=lambda pair: len(pair[1].parts), reverse=True):
        _restore(member, path)


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, made: dict[str, Path]) -> None:
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        first = made.get(_normal(member.linkname))
        if first is None:
            raise RookeryError(f"{member.name!r} links to what is not in the archive", kind=ErrorKind.CORRUPT)
        os.link(first, path, follow_symlinks=False)
        return  # one inode: restored with its first name
    elif member.isfile():
        source = tar.extractfile(member)
        assert source is not None
        with source, path.open("xb") as file:
            _fill(member, source, file)
    elif member.isfifo():
        os.mkfifo(path)
    elif member.ischr() or member.isblk():
        kind = 0o020000 if member.ischr() else 0o060000
        os.mknod(path, 0o600 | kind, os.makedev(member.devmajor, member.devminor))
    else:
        raise RookeryError(f"the archive has {member.name!r} of an unknown kind", kind=ErrorKind.CORRUPT)
    _restore(member, path)


def _fill(member: tarfile.TarInfo, source: IO[bytes], file: IO[bytes]) -> None:
    """Write a member's content; the holes of a sparse file stay holes."""
    # Of a sparse file tarfile keeps (offset, length) of what there is; the stubs know of a flag only.
    extents: list[tuple[int, int]] = getattr(member, "sparse", None) or [(0, member.size)]
    for offset, length in extents:
        source.seek(offset)
        file.seek(offset)
        left = length
        while left > 0:
            block = source.read(min(left, files.BLOCK))
            if not block:
                raise RookeryError(f"the archive ends within {member.name[:200]!r}", kind=ErrorKind.CORRUPT)
            file.write(block)
            left -= len(block)
    file.truncate(member.size)


def _restore(member: tarfile.TarInfo, path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        os.chmod(path, member.mode & 0o7777)
    for name, value in member.pax_headers.items():
        if name.startswith(_XATTR):
            # Not every file system and user may: what may not be set is left out, as tar does.
            with contextlib.suppress(OSError):
                attribute = name.removeprefix(_XATTR)
                os.setxattr(path, attribute, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    nanoseconds = int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * 10**9)
    os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def _normal(name: str) -> str:
    return str(PurePosixPath(name))


def _place(name: str, top: Path) -> Path:
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or "\0" in name:
        raise RookeryError(f"the archive's {name[:200]!r} reaches outside of the directory", kind=ErrorKind.CORRUPT)
    return top.joinpath(*plain.parts)


def _require_inside(path: Path, top: Path, name: str) -> None:
    for parent in path.relative_to(top).parents:
        here = top / parent
        if here.is_symlink():
            raise RookeryError(f"the archive's {name[:200]!r} lies below a symbolic link", kind=ErrorKind.CORRUPT)
        if not here.is_dir():
            raise RookeryError(f"the archive's {name[:200]!r} lies in no directory of it", kind=ErrorKind.CORRUPT)


def _plain_directory() -> tarfile.TarInfo:
    plain = tarfile.TarInfo(".")
    plain.mode, plain.uid, plain.gid, plain.type = 0o755, os.geteuid(), os.getegid(), tarfile.DIRTYPE
    return plain


def _remove(scratch: Path) -> None:
    """Remove a half-made tree, read-only directories included."""
    if not scratch.exists():
        return
    for folder, _, _ in os.walk(scratch):
        os.chmod(folder, 0o700)
    shutil.rmtree(scratch, ignore_errors=True)
