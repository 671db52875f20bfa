# SPDX-License-Identifier: Apache-2.0
"""Blobs that nobody needs just now, packed: of each only the chunks are kept that no other blob here has.

A packed blob has no file of its own any more. Its index (`SHA256.chunks`) says which chunks it is made of; they lie in
other blobs' files, in other packs, and in its own pack (`SHA256.packed`). It is brought back when somebody asks for it,
checked by its SHA-256. A pack is written, the blob rebuilt from it and digested, and only then the file goes. When a
blob is removed of which packed ones have chunks, these chunks stay (`SHA256.kept`).

A pack: `RKPACK1\\n`, the number of its chunks (4 bytes, big endian), for each its digest (16 bytes, as in the index)
and its length (4 bytes), then their bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.wire.chunks import DIGEST, ChunkIndex, digest_of, parse

log = logger(__name__)

PACKED, KEPT = ".packed", ".kept"
MOST_OF_BLOB = 0.9  # a pack that is not smaller than this part of its blob is not worth it
_MAGIC = b"RKPACK1\n"
_COUNT = struct.Struct(">I")
_ENTRY = struct.Struct(f">{DIGEST}sI")


@dataclass(frozen=True)
class Found:
    """Where a chunk lies: a file, the offset in it, and its length."""

    path: Path
    offset: int
    length: int


class Packs:
    """The packs in a store's directory. Not thread-safe: the store holds its lock.

    incoming: the prefix of names that nobody looks for.
    """

    def __init__(self, directory: Path, incoming: str) -> None:
        self._directory, self._incoming = directory, incoming

    def is_packed(self, sha256: str) -> bool:
        """Whether a blob is here, and only packed."""
        return not self._whole(sha256).is_file() and self._pack(sha256).is_file()

    def packed(self) -> Iterator[str]:
        """The blobs that have a pack."""
        return (path.stem for path in self._directory.glob(f"*{PACKED}"))

    def pack(self, sha256: str) -> int:
        """Keep of a whole blob only what no other has; the bytes that were freed, 0 when it is left as it is."""
        index, whole = self._index(sha256), self._whole(sha256)
        if index is None or not whole.is_file():
            return 0
        elsewhere = self._find(set(_digests(index)), without=sha256)
        own = _of_whole(whole, index, set(_digests(index)) - elsewhere.keys())
        size = sum(found.length for found in own.values())
        if size > MOST_OF_BLOB * index.size:
            return 0
        self._write(self._pack(sha256), own)
        whole_digest = hashlib.sha256()
        try:
            for data in self._chunks(index, without_whole=sha256):
                whole_digest.update(data)
        except RookeryError as error:
            log.warning("blob %s is not packed: %s", sha256[:12], error)
        if whole_digest.hexdigest() != sha256:
            self._pack(sha256).unlink()
            return 0
        whole.unlink()
        files.sync_directory(self._directory)
        return index.size - size

    def bring_back(self, sha256: str) -> None:
        """Make the file of a packed blob again. Raises RookeryError `corrupt` when a chunk of it is gone or wrong."""
        index = self._index(sha256)
        if index is None:
            raise RookeryError(f"the chunk index of the packed blob {sha256[:12]} is gone", kind=ErrorKind.CORRUPT)
        files.require_space(self._directory, index.size, f"the packed blob {sha256[:12]}")
        with self._making() as (file, name):
            digest = hashlib.sha256()
            for data in self._chunks(index):
                digest.update(data)
                file.write(data)
            if digest.hexdigest() != sha256:
                raise RookeryError(
                    f"the packed blob {sha256[:12]} does not come out right",
                    kind=ErrorKind.CORRUPT,
                    hint="run 'rookery image verify': another blob that it has chunks of is damaged",
                )
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, 0o444)
            os.replace(name, self._whole(sha256))
        self._pack(sha256).unlink()
        files.sync_directory(self._directory)

    def digest(self, sha256: str) -> str:
        """SHA-256 of what a packed blob would come out as, read and not written. Raises as `bring_back`."""
        index = self._index(sha256)
        if index is None:
            raise RookeryError(f"the chunk index of the packed blob {sha256[:12]} is gone", kind=ErrorKind.CORRUPT)
        digest = hashlib.sha256()
        for data in self._chunks(index):
            digest.update(data)
        return digest.hexdigest()

    def part_with(self, sha256: str) -> None:
        """A blob is about to be removed: keep what packed ones have of it. Raises OSError when that cannot be written;
        the blob must stay then."""
        needed = self._needed(without=sha256)
        own = self._own(sha256)
        lost = own.keys() & needed
        lost -= self._find(lost, without=sha256).keys()
        if lost:
            self._write(self._directory / f"{sha256}{KEPT}", {digest: own[digest] for digest in sorted(lost)})
        self._pack(sha256).unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove what was kept of removed blobs and is of no use any more."""
        kept = list(self._directory.glob(f"*{KEPT}"))
        needed = self._needed() if kept else set()
        for path in kept:
            if not needed & _table(path).keys():
                path.unlink(missing_ok=True)

    # -- where chunks are

    def _needed(self, without: str = "") -> set[bytes]:
        """The chunks that packed blobs are made of."""
        indexes = [self._index(sha256) for sha256 in self.packed() if sha256 != without and self.is_packed(sha256)]
        return {digest for index in indexes if index is not None for digest in _digests(index)}

    def _own(self, sha256: str) -> dict[bytes, Found]:
        """The chunks that lie in the files of one blob."""
        found = _table(self._pack(sha256)) | _table(self._directory / f"{sha256}{KEPT}")
        index = self._index(sha256)
        if index is not None and self._whole(sha256).is_file():
            found |= _of_whole(self._whole(sha256), index, set(_digests(index)))
        return found

    def _find(self, wanted: set[bytes], without: str = "") -> dict[bytes, Found]:
        """Where the wanted chunks lie, as far as they lie anywhere; not counting the files of the blob `without`."""
        found: dict[bytes, Found] = {}
        for path in sorted(self._directory.iterdir()):
            if len(found) == len(wanted):
                break
            if path.stem == without or path.name.startswith("."):
                continue
            if path.suffix in (PACKED, KEPT):
                found |= {digest: place for digest, place in _table(path).items() if digest in wanted}
            elif not path.suffix and (index := self._index(path.name)) is not None:
                found |= _of_whole(path, index, wanted)
        return found

    def _chunks(self, index: ChunkIndex, without_whole: str = "") -> Iterator[bytes]:
        """The chunks of a blob in order, each as its digest says."""
        found = self._find(set(_digests(index)), without=without_whole)
        if without_whole:
            found |= _table(self._pack(without_whole))
        with contextlib.ExitStack() as stack:
            handles: dict[Path, int] = {}
            for digest, length in zip(_digests(index), index.lengths, strict=True):
                place = found.get(digest)
                if place is None or place.length != length:
                    raise RookeryError(f"a chunk of blob {index.sha256[:12]} is gone", kind=ErrorKind.CORRUPT)
                if place.path not in handles:
                    handles[place.path] = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, handles[place.path])
                data = os.pread(handles[place.path], length, place.offset)
                if digest_of(data) != digest:
                    raise RookeryError(
                        f"{place.path.name} is damaged, and blob {index.sha256[:12]} has chunks of it",
                        kind=ErrorKind.CORRUPT,
                    )
                yield data

    # -- files

    def _write(self, to: Path, chunks: dict[bytes, Found]) -> None:
        with self._making() as (file, name), contextlib.ExitStack() as stack:
            file.write(_MAGIC + _COUNT.pack(len(chunks)))
            for digest, found in chunks.items():
                file.write(_ENTRY.pack(digest, found.length))
            sources: dict[Path, int] = {}
            for found in chunks.values():
                if found.path not in sources:
                    sources[found.path] = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, sources[found.path])
                file.write(os.pread(sources[found.path], found.length, found.offset))
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, 0o444)
            os.replace(name, to)
        files.sync_directory(self._directory)

    @contextlib.contextmanager
    def _making(self) -> Iterator[tuple[IO[bytes], str]]:
        handle, name = tempfile.mkstemp(dir=self._directory, prefix=self._incoming)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file, name
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _whole(self, sha256: str) -> Path:
        return self._directory / sha256

    def _pack(self, sha256: str) -> Path:
        return self._directory / f"{sha256}{PACKED}"

    def _index(self, sha256: str) -> ChunkIndex | None:
        try:
            return parse((self._directory / f"{sha256}.chunks").read_bytes())
        except (OSError, RookeryError):
            return None


def _digests(index: ChunkIndex) -> Iterator[bytes]:
    return (digest for _, _, digest in index.chunks())


def _of_whole(path: Path, index: ChunkIndex, wanted: set[bytes]) -> dict[bytes, Found]:
    """The wanted chunks of a blob that is whole; the first of each."""
    found: dict[bytes, Found] = {}
    for offset, length, digest in index.chunks():
        if digest in wanted and digest not in found:
            found[digest] = Found(path, offset, length)
    return found


def _table(path: Path) -> dict[bytes, Found]:
    """What a pack has; nothing when there is none, or it is damaged."""
    found: dict[bytes, Found] = {}
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(len(_MAGIC) + _COUNT.size)
        if len(start) < len(_MAGIC) + _COUNT.size or not start.startswith(_MAGIC):
            return found
        (count,) = _COUNT.unpack_from(start, len(_MAGIC))
        table = file.read(count * _ENTRY.size)
        if len(table) != count * _ENTRY.size:
            return found
        offset = len(start) + len(table)
        for digest, length in _ENTRY.iter_unpack(table):
            found[digest] = Found(path, offset, length)
            offset += length
    return found
