# SPDX-License-Identifier: Apache-2.0
"""Finds the older versions that a new one can be filled from, and their chunk indexes; or the very file.

Looked at: the file that stands at the destination, those beside it that have a sidecar, and files and directories that
the caller names. The sidecar of a file NAME is `.NAME.chunks`: its chunk index, or the stub of one (wire/FORMAT.md).
Without a whole index there, the head is asked for that of the blob which the file is.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch.fill import Old
from rookery.wire import chunks
from rookery.wire.chunks import ChunkIndex
from rookery.wire.manifest import Blob

log = logger(__name__)

SUFFIX = ".chunks"
MOST_BESIDE = 32  # files of a directory that are tried
COPIED = 16 << 20  # bytes copied between two looks at whether to stop
_NO_SHORT_WAY = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}

# (SHA-256 of a blob) -> its index. Raises RookeryError.
Ask = Callable[[str], bytes]
# (file) -> its SHA-256. Raises OSError, and RookeryError `cancelled`.
Digest = Callable[[Path], str]


def sidecar_path(path: Path) -> Path:
    """Where the chunk index of a file lies."""
    return path.with_name(f".{path.name}{SUFFIX}")


def write_sidecar(path: Path, index: bytes) -> None:
    """Remember what the file `path` is made of. That it cannot be is no reason to fail: the next fetch does more."""
    try:
        files.write_atomic(sidecar_path(path), index)
    except OSError as error:
        log.info("the chunk index of %s is not kept: %s", path, error.strerror)


def candidates(to: Path, have: Iterable[Path]) -> tuple[Path, ...]:
    """The files that may be older versions, the likeliest first. Of a directory in `have`, which may hold anything, the
    one that is called as the new one, and those with a sidecar."""
    found: list[Path] = []
    for path in have:
        found += [path / to.name, *_with_sidecar(path)] if path.is_dir() else [path]
    found += [to, *_with_sidecar(to.parent)]
    return tuple(dict.fromkeys(path.absolute() for path in found if path.is_file()))


def same(blob: Blob, olds: Iterable[Path], have: Iterable[Path], digest: Digest) -> Path | None:
    """The file that is the very blob, if one of `olds` is, or any file in a directory of `have`. Only files of its size
    are read, and of these not the ones that are something else by their sidecar."""
    named = (path.absolute() for directory in have for path in sorted(directory.glob("[!.]*")))
    for path in dict.fromkeys((*olds, *named)):
        try:
            if not path.is_file() or path.stat().st_size != blob.size or _told(path) not in ("", blob.sha256):
                continue
            if digest(path) == blob.sha256:
                return path
        except OSError as error:
            log.info("%s is not looked at: %s", path, error)
    return None


def copy(source: Path, to: Path, on_bytes: Callable[[int], None]) -> None:
    """Make `to` hold the bytes of `source`, by sharing them where the file system can; on_bytes gets those copied so
    far. Raises OSError."""
    with source.open("rb", buffering=0) as old, to.open("r+b" if to.exists() else "xb", buffering=0) as new:
        done = 0
        while count := _copy_some(old.fileno(), new.fileno(), done):
            done += count
            on_bytes(done)
        new.truncate(done)


def index_beside(path: Path, sha256: str) -> bytes:
    """The chunk index in the sidecar of a file, when its SHA-256 is this; else nothing."""
    index = _sidecar(path)
    return index if hashlib.sha256(index).hexdigest() == sha256 else b""


def find(paths: Iterable[Path], ask: Ask, digest: Digest) -> Iterator[Old]:
    """Those of `paths` whose chunks are known."""
    for path in paths:
        try:
            yield Old(path, _index_of(path, ask, digest))
        except OSError as error:
            log.info("%s is not used to fill the new version: %s", path, error.strerror)
        except RookeryError as error:
            if error.kind is ErrorKind.CANCELLED:
                raise
            log.info("%s is not used to fill the new version: %s", path, error)


def _index_of(path: Path, ask: Ask, digest: Digest) -> ChunkIndex:
    known = _sidecar(path)
    if len(known) > chunks.HEADER:
        try:
            return chunks.parse(known)
        except RookeryError:
            return chunks.parse(ask(digest(path)))  # one that is damaged is as good as none
    return chunks.parse(ask(_told(path) or digest(path)))


def _sidecar(path: Path) -> bytes:
    sidecar = sidecar_path(path)
    try:
        return sidecar.read_bytes() if sidecar.stat().st_size <= chunks.MAX_INDEX else b""
    except FileNotFoundError:
        return b""


def _told(path: Path) -> str:
    """The digest of a file as its sidecar says it; empty when there is none, or a damaged one."""
    try:
        with sidecar_path(path).open("rb") as file:
            return chunks.blob_of(file.read(chunks.HEADER))[0]
    except (FileNotFoundError, RookeryError):
        return ""


def _copy_some(source: int, to: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, to, COPIED, offset, offset)
    except OSError as error:
        if error.errno not in _NO_SHORT_WAY:
            raise
    return os.pwrite(to, os.pread(source, files.BLOCK, offset), offset)


def _with_sidecar(directory: Path) -> list[Path]:
    sidecars = sorted(directory.glob(f".*{SUFFIX}"), key=_changed, reverse=True)
    return [_of_sidecar(sidecar) for sidecar in sidecars[:MOST_BESIDE]]


def _of_sidecar(sidecar: Path) -> Path:
    return sidecar.with_name(sidecar.name.removeprefix(".").removesuffix(SUFFIX))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
