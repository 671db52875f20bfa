# SPDX-License-Identifier: Apache-2.0
"""Finds the older versions that a new one can be filled from, and their chunk indexes.

Looked at: the file that stands at the destination, those beside it that have a sidecar, and files that the caller
names. The sidecar of a file NAME is `.NAME.chunks`: its chunk index, or the stub of one (wire/FORMAT.md). Without a
whole index there, the head is asked for that of the blob which the file is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch.fill import Old
from rookery.wire import chunks
from rookery.wire.chunks import ChunkIndex

log = logger(__name__)

SUFFIX = ".chunks"
MOST_BESIDE = 32  # files in the destination's directory that are tried

# (SHA-256 of a blob) -> its index. Raises RookeryError.
Ask = Callable[[str], bytes]


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
    """The files that may be older versions, the likeliest first."""
    found = [path for path in have if path.is_file()]
    found += [to] if to.is_file() else []
    beside = sorted(to.parent.glob(f".*{SUFFIX}"), key=_changed, reverse=True)[:MOST_BESIDE]
    found += [path for path in (_of_sidecar(sidecar) for sidecar in beside) if path.is_file()]
    return tuple(dict.fromkeys(path.absolute() for path in found))


def find(paths: Iterable[Path], ask: Ask, on_bytes: Callable[[int], None]) -> Iterator[Old]:
    """Those of `paths` whose chunks are known; on_bytes is called while a file is read to learn what it is."""
    for path in paths:
        try:
            yield Old(path, _index_of(path, ask, on_bytes))
        except OSError as error:
            log.info("%s is not used to fill the new version: %s", path, error.strerror)
        except RookeryError as error:
            if error.kind is ErrorKind.CANCELLED:
                raise
            log.info("%s is not used to fill the new version: %s", path, error)


def _index_of(path: Path, ask: Ask, on_bytes: Callable[[int], None]) -> ChunkIndex:
    sidecar, sha256 = sidecar_path(path), ""
    try:
        known = sidecar.read_bytes() if sidecar.stat().st_size <= chunks.MAX_INDEX else b""
        # One that is damaged is as good as none.
        if len(known) > chunks.HEADER:
            return chunks.parse(known)
        sha256, _ = chunks.blob_of(known)
    except (FileNotFoundError, RookeryError):
        sha256 = files.sha256_file(path, on_bytes)
    return chunks.parse(ask(sha256))


def _of_sidecar(sidecar: Path) -> Path:
    return sidecar.with_name(sidecar.name.removeprefix(".").removesuffix(SUFFIX))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
