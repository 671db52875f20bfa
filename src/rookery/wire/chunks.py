# SPDX-License-Identifier: Apache-2.0
"""The chunk index of a blob: where its content-defined chunks begin, and the digest of each (see FORMAT.md).

Who holds an older version copies the chunks that both have, and fetches the rest. An index is a hint: whoever fills a
file by it checks the result by the signed digests, so a wrong one costs bytes and never lets a wrong byte in.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rookery.errors import ErrorKind, RookeryError
from rookery.wire.manifest import MAX_BLOB, require_sha256

MAGIC = b"RKCHNK1\n"
DIGEST = 16  # bytes kept of a chunk's SHA-256
MAX_CHUNK = 16 << 20  # bytes of one chunk
MAX_INDEX = 64 << 20  # bytes of an index
_HEADER = struct.Struct(">8s32sQI")
HEADER = _HEADER.size
_ENTRY = 4 + DIGEST


@dataclass(frozen=True)
class ChunkIndex:
    """The chunks of one blob in the order in which they follow each other, without a gap.

    sha256: of the blob, 64 hex digits. size: of the blob in bytes. lengths: bytes of each chunk. digests: one after the
    other, the first 16 bytes of each chunk's SHA-256.
    """

    sha256: str
    size: int
    lengths: Sequence[int]
    digests: bytes

    def __len__(self) -> int:
        return len(self.lengths)

    def digest(self, chunk: int) -> bytes:
        """The digest of one chunk, 16 bytes."""
        return self.digests[chunk * DIGEST : (chunk + 1) * DIGEST]

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """Offset, length and digest of each chunk."""
        offset = 0
        for chunk, length in enumerate(self.lengths):
            yield offset, length, self.digest(chunk)
            offset += length


def digest_of(data: bytes | memoryview) -> bytes:
    """The digest of a chunk, as an index has it."""
    return hashlib.sha256(data).digest()[:DIGEST]


def dump(index: ChunkIndex) -> bytes:
    """The bytes of an index."""
    lengths = array("I", index.lengths)
    if sys.byteorder == "little":
        lengths.byteswap()
    header = _HEADER.pack(MAGIC, bytes.fromhex(index.sha256), index.size, len(lengths))
    return header + lengths.tobytes() + index.digests


def stub(sha256: str, size: int) -> bytes:
    """The first bytes of an index: which blob it is of, and nothing about its chunks."""
    return _HEADER.pack(MAGIC, bytes.fromhex(sha256), size, 0)


def parse(data: bytes) -> ChunkIndex:
    """The index in `data`. Raises RookeryError `invalid` for anything that `dump` does not write, `too-large`."""
    if len(data) > MAX_INDEX:
        raise RookeryError(f"a chunk index is larger than {MAX_INDEX} bytes", kind=ErrorKind.TOO_LARGE)
    sha256, size, count = _head(data)
    if len(data) != HEADER + count * _ENTRY:
        raise _invalid(f"{count} chunks take {HEADER + count * _ENTRY} bytes, there are {len(data)}")
    lengths = array("I", data[HEADER : HEADER + 4 * count])
    if sys.byteorder == "little":
        lengths.byteswap()
    if count and (min(lengths) == 0 or max(lengths) > MAX_CHUNK):
        raise _invalid(f"a chunk has no bytes, or more than {MAX_CHUNK}")
    if sum(lengths) != size:
        raise _invalid(f"its chunks have {sum(lengths)} bytes together, the blob has {size}")
    return ChunkIndex(sha256, size, lengths, data[HEADER + 4 * count :])


def open_index(data: bytes, sha256: str, blob: str) -> ChunkIndex:
    """The index of `blob` (its SHA-256) in `data`, whose own SHA-256 must be `sha256`, as the manifest says.

    Raises RookeryError `corrupt` when it is another one, and as `parse`.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise RookeryError(
            "the chunk index is not the one that the signed manifest names",
            kind=ErrorKind.CORRUPT,
            details=f"signed: sha256 {sha256}\nfound: sha256 {found}",
            hint="publish the version again; until then everything of it is fetched",
        )
    index = parse(data)
    if index.sha256 != blob:
        raise RookeryError(f"the chunk index is that of blob {index.sha256[:12]}", kind=ErrorKind.CORRUPT)
    return index


def blob_of(data: bytes) -> tuple[str, int]:
    """SHA-256 and size of the blob that an index, or a stub of one, is of. Raises RookeryError `invalid`."""
    return _head(data)[:2]


def _head(data: bytes) -> tuple[str, int, int]:
    if len(data) < HEADER:
        raise _invalid(f"it has {len(data)} bytes")
    magic, sha256, size, count = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _invalid("it does not begin as one")
    if size > MAX_BLOB:
        raise _invalid(f"a blob of {size} bytes is too large")
    return require_sha256(sha256.hex(), "blob digest"), size, count


def _invalid(reason: str) -> RookeryError:
    return RookeryError(f"this is no chunk index: {reason}", kind=ErrorKind.INVALID)
