# SPDX-License-Identifier: Apache-2.0
"""The chunk index: what goes in comes out, and nothing else is taken."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.wire import chunks
from rookery.wire.chunks import DIGEST, HEADER, MAX_CHUNK, ChunkIndex

SHA = hashlib.sha256(b"blob").hexdigest()


@st.composite
def indexes(draw: st.DrawFn) -> ChunkIndex:
    lengths = draw(st.lists(st.integers(1, MAX_CHUNK), max_size=40))
    digests = draw(st.binary(min_size=DIGEST * len(lengths), max_size=DIGEST * len(lengths)))
    return ChunkIndex(draw(st.binary(min_size=32, max_size=32)).hex(), sum(lengths), lengths, digests)


def made(*parts: bytes) -> ChunkIndex:
    whole = b"".join(parts)
    digests = b"".join(chunks.digest_of(part) for part in parts)
    return ChunkIndex(hashlib.sha256(whole).hexdigest(), len(whole), [len(part) for part in parts], digests)


def parsed(data: bytes) -> tuple[ErrorKind | None, ChunkIndex | None]:
    try:
        return None, chunks.parse(data)
    except RookeryError as error:
        return error.kind, None


@given(indexes())
def test_what_is_written_is_read(index: ChunkIndex) -> None:
    found = chunks.parse(chunks.dump(index))
    assert (found.sha256, found.size, list(found.lengths), found.digests) == (
        index.sha256,
        index.size,
        list(index.lengths),
        index.digests,
    )
    assert sum(length for _, length, _ in found.chunks()) == index.size
    assert [offset for offset, _, _ in found.chunks()] == [sum(index.lengths[:at]) for at in range(len(index))]


@given(indexes(), st.data())
def test_a_cut_or_longer_one_is_refused(index: ChunkIndex, data: st.DataObject) -> None:
    whole = chunks.dump(index)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + data.draw(st.binary(min_size=1, max_size=50))):
        with pytest.raises(RookeryError) as caught:
            chunks.parse(wrong)
        assert caught.value.kind is ErrorKind.INVALID


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for data in (garbage, chunks.MAGIC + garbage):
        kind, found = parsed(data)
        assert kind is ErrorKind.INVALID or (found is not None and chunks.dump(found) == data)


@given(indexes(), st.data())
def test_a_flipped_byte_gives_no_index_that_the_manifest_names(index: ChunkIndex, data: st.DataObject) -> None:
    whole = bytearray(chunks.dump(index))
    named = hashlib.sha256(whole).hexdigest()
    chunks.open_index(bytes(whole), named, index.sha256)
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RookeryError) as caught:
        chunks.open_index(bytes(whole), named, index.sha256)
    assert caught.value.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize(
    "lengths",
    [[0, 4], [MAX_CHUNK + 1], [3, 3]],
    ids=["a chunk of nothing", "a chunk too large", "another sum"],
)
def test_chunks_that_make_no_blob_are_refused(lengths: list[int]) -> None:
    size = 4 if lengths != [MAX_CHUNK + 1] else MAX_CHUNK + 1
    with pytest.raises(RookeryError) as caught:
        chunks.parse(chunks.dump(ChunkIndex(SHA, size, lengths, bytes(DIGEST * len(lengths)))))
    assert caught.value.kind is ErrorKind.INVALID


def test_one_larger_than_any_is_not_even_looked_at() -> None:
    with pytest.raises(RookeryError) as caught:
        chunks.parse(bytes(chunks.MAX_INDEX + 1))
    assert caught.value.kind is ErrorKind.TOO_LARGE


def test_the_index_of_another_blob_is_refused_though_it_is_named() -> None:
    data = chunks.dump(made(b"one", b"two"))
    with pytest.raises(RookeryError) as caught:
        chunks.open_index(data, hashlib.sha256(data).hexdigest(), SHA)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_stub_says_which_blob_it_is_of_and_no_more() -> None:
    data = chunks.stub(SHA, 7)
    assert len(data) == HEADER
    assert chunks.blob_of(data) == (SHA, 7)
    with pytest.raises(RookeryError):
        chunks.parse(data)
    assert chunks.blob_of(chunks.dump(made(b"abc"))) == (hashlib.sha256(b"abc").hexdigest(), 3)
