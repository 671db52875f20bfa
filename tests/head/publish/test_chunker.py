# SPDX-License-Identifier: Apache-2.0
"""Cutting blobs into chunks."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rookery.head.publish import chunker
from rookery.head.publish.chunker import AVERAGE, LARGE, SPREAD, Chunker, average
from rookery.wire.chunks import ChunkIndex, digest_of


def cut(data: bytes, step: int = 1 << 20) -> ChunkIndex:
    made = Chunker(len(data))
    for place in range(0, len(data), step):
        made.add(data[place : place + step])
    return made.index(hashlib.sha256(data).hexdigest())


def test_the_chunks_are_the_blob() -> None:
    data = random.Random(1).randbytes(3_000_000)
    index = cut(data)
    assert [digest_of(data[offset : offset + length]) for offset, length, _ in index.chunks()] == [
        digest for _, _, digest in index.chunks()
    ]
    assert (index.size, index.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert max(index.lengths) <= AVERAGE * SPREAD
    assert min(index.lengths[:-1]) >= AVERAGE // SPREAD
    assert AVERAGE / 2 < len(data) / len(index) < AVERAGE * 2


@pytest.mark.parametrize("data", [b"", b"x", bytes(5_000_000)], ids=["nothing", "one byte", "zeros"])
def test_odd_blobs_are_cut_too(data: bytes) -> None:
    assert sum(cut(data).lengths) == len(data)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400_000), st.integers(0, 2**32))
def test_how_the_bytes_come_does_not_show(step: int, seed: int) -> None:
    data = random.Random(seed).randbytes(600_000)
    before, chunker.BUFFER = chunker.BUFFER, 100_000  # many buffers in little data
    try:
        in_steps = cut(data, step)
    finally:
        chunker.BUFFER = before
    assert in_steps == cut(data, len(data))


def test_an_insertion_moves_few_cuts() -> None:
    data = random.Random(2).randbytes(4_000_000)
    old, new = cut(data), cut(data[:1_000_001] + b"some more" + data[1_000_001:])
    there = {digest for _, _, digest in old.chunks()}
    lacking = [length for _, length, digest in new.chunks() if digest not in there]
    assert 0 < sum(lacking) <= 4 * AVERAGE * SPREAD


def test_where_the_cuts_are_stays_from_one_release_to_the_next() -> None:
    """Other cuts would make every node fetch its next version whole."""
    index = cut(random.Random(3).randbytes(200_000))
    assert list(index.lengths) == CUTS


def test_large_blobs_have_large_chunks_in_few_steps() -> None:
    assert average(LARGE) == AVERAGE
    assert average(LARGE + 1) == average(8 * LARGE) == 8 * AVERAGE
    assert average(1 << 50) == 64 * AVERAGE
    assert LARGE // AVERAGE * 20 < 64 << 20  # the largest index of small chunks


CUTS = [19522, 6886, 18502, 23343, 12745, 26499, 18359, 32232, 6716, 18111, 17085]
