# SPDX-License-Identifier: Apache-2.0
"""Cuts a blob into content-defined chunks: FastCDC (2020), by PyPI's pyfastcdc.

Where a cut is depends only on the bytes before it, so the same content is cut alike wherever it lies in a file. How the
cuts are made may change with any version of Rookery; blobs that were cut in different ways have few chunks in common,
and an update between them fetches much. The tests hold them in place.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Literal

from pyfastcdc import FastCDC

from rookery.wire.chunks import DIGEST, ChunkIndex

AVERAGE = 16 << 10  # bytes; measured in docs/benchmarks/differences.md
LARGE = 16 << 30  # bytes of a blob above which its chunks are larger
GROWTH = 8
SPREAD = 4  # a chunk has a quarter of the average at least, and four times as much at most
NORMALIZATION: Literal[2] = 2
BUFFER = 8 << 20  # bytes in which cuts are looked for at once


def average(size: int) -> int:
    """Bytes of a chunk on average in a blob of `size` bytes. Few steps: between blobs on two sides of one nothing is
    saved. An index has 20 bytes for a chunk, and so a thousandth of the blob; 20 MB at most up to 1 TiB."""
    found, large = AVERAGE, LARGE
    while size > large and found < 1 << 20:
        found, large = found * GROWTH, large * GROWTH
    return found


class Chunker:
    """Cuts bytes that come one after the other; `size` is what they will be together. mean: bytes of a chunk on average
    (0: as the size says)."""

    def __init__(self, size: int, mean: int = 0) -> None:
        mean = mean or average(size)
        self._most = mean * SPREAD
        self._cutter = FastCDC(mean, min_size=mean // SPREAD, max_size=self._most, normalized_chunking=NORMALIZATION)
        self._held = bytearray()
        self._lengths = array("I")
        self._digests: list[bytes] = []

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes."""
        self._held += data
        if len(self._held) >= BUFFER + self._most:
            self._cut(self._most)

    def index(self, sha256: str) -> ChunkIndex:
        """The index of all that came, whose SHA-256 is `sha256`."""
        self._cut(0)
        return ChunkIndex(sha256, sum(self._lengths), self._lengths, b"".join(self._digests))

    def _cut(self, keep: int) -> None:
        """Cut what is held, but not so near to its end that more bytes could move the cut."""
        done = 0
        with memoryview(self._held) as held:
            for length in [chunk.length for chunk in self._cutter.cut_buf(held)]:
                if len(held) - done < keep:
                    break
                self._lengths.append(length)
                self._digests.append(hashlib.sha256(held[done : done + length]).digest()[:DIGEST])
                done += length
        del self._held[:done]
