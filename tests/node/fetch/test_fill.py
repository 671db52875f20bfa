# SPDX-License-Identifier: Apache-2.0
"""Filling a file from older ones: what comes of it is right whatever they hold."""

import contextlib
import errno
import hashlib
import os
import random
import threading
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.files import sha256_file
from rookery.head.progress import silent
from rookery.head.publish.chunker import Chunker
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fill import NOWHERE, Old, Sources, Start, fill, look_through
from rookery.node.fetch.metainfo import Metainfo, open_torrent
from rookery.node.fetch.olds import candidates, copy, find, same, sidecar_path
from rookery.wire import chunks
from rookery.wire.chunks import ChunkIndex
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob, Role

PIECE = 64 << 10
OLD = random.Random(1).randbytes(1_500_000)


def cut(data: bytes) -> ChunkIndex:
    made = Chunker(len(data))
    made.add(data)
    return made.index(hashlib.sha256(data).hexdigest())


def metainfo_of(data: bytes, folder: Path) -> Metainfo:
    path = folder / "blob"
    path.write_bytes(data)
    made = make_torrent(path, "blob", silent, threading.Event())
    digest = hashlib.sha256(data).hexdigest()
    return open_torrent(made.torrent, Blob(Role.DATA, "blob", len(data), digest, made.info_hash, made.info_hash_v1))


class Filled:
    """A file that was filled from old ones, each with what its index says that it is."""

    def __init__(self, new: bytes, folder: Path, *olds: tuple[bytes, ChunkIndex], start: Start | None = None) -> None:
        self.new, self.metainfo = new, metainfo_of(new, folder)
        self.start = start or Start.empty(self.metainfo)
        self.told: list[int] = []
        self.path = folder / "part"
        found = []
        for number, (data, index) in enumerate(olds):
            path = folder / f"old{number}"
            path.write_bytes(data)
            found.append(Old(path, index))
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(handle, len(new))
            fill(handle, self.metainfo, cut(new), found, self.start, self.told.append, threading.Event())
        finally:
            os.close(handle)

    def require_right(self) -> None:
        """What is said to be there is there, and right."""
        there = self.path.read_bytes()
        for piece in range(self.metainfo.pieces):
            first, length = piece * PIECE, self.metainfo.length(piece)
            if self.start.pieces[piece]:
                assert there[first : first + length] == self.new[first : first + length]
            for block in range(0, length, BLOCK):
                if self.start.parts.blocks[(first + block) // BLOCK]:
                    end = min(first + block + BLOCK, first + length)
                    assert there[first + block : end] == self.new[first + block : end]

    @property
    def lacking(self) -> int:
        """Bytes that have to be fetched, by whole blocks."""
        pieces = [piece for piece in range(self.metainfo.pieces) if not self.start.pieces[piece]]
        spans = {piece: self.start.parts.lacking(piece) or [(0, self.metainfo.length(piece))] for piece in pieces}
        return sum(length for found in spans.values() for _, length in found)


def test_the_same_content_is_there_whole(tmp_path: Path) -> None:
    filled = Filled(OLD, tmp_path, (OLD, cut(OLD)))
    assert all(filled.start.pieces)
    assert filled.start.filled == len(OLD) == filled.told[-1]
    assert filled.path.read_bytes() == OLD


def test_a_small_change_lacks_a_few_blocks(tmp_path: Path) -> None:
    new = OLD[:700_000] + b"changed" + OLD[700_000:]
    filled = Filled(new, tmp_path, (OLD, cut(OLD)))
    filled.require_right()
    assert 0 < filled.lacking <= 160_000
    lacking_pieces = filled.start.pieces.count(0)
    assert filled.lacking < lacking_pieces * PIECE  # part of a piece is of use


def test_nothing_in_common_fills_nothing(tmp_path: Path) -> None:
    filled = Filled(random.Random(2).randbytes(300_000), tmp_path, (OLD, cut(OLD)))
    assert (filled.start.filled, sum(filled.start.pieces), sum(filled.start.parts.blocks)) == (0, 0, 0)


def test_two_old_files_give_what_each_has(tmp_path: Path) -> None:
    other = random.Random(5).randbytes(800_000)
    filled = Filled(OLD[:800_000] + other, tmp_path, (OLD, cut(OLD)), (other, cut(other)))
    filled.require_right()
    assert filled.lacking <= 3 * PIECE


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(OLD) - 1), st.integers(1, 255)), min_size=1, max_size=20), st.data())
def test_a_rotten_old_file_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, rot: list[tuple[int, int]], data: st.DataObject
) -> None:
    rotten = bytearray(OLD)
    for place, bits in rot:
        rotten[place] ^= bits
    del rotten[data.draw(st.integers(len(OLD) // 2, len(OLD))) :]
    filled = Filled(OLD[:400_000] + OLD[600_000:], tmp_path_factory.mktemp("rot"), (bytes(rotten), cut(OLD)))
    filled.require_right()


def test_one_rotten_byte_costs_a_few_blocks(tmp_path: Path) -> None:
    rotten = bytearray(OLD)
    rotten[500_000] ^= 1
    filled = Filled(OLD, tmp_path, (bytes(rotten), cut(OLD)))
    filled.require_right()
    assert 0 < filled.lacking <= 6 * BLOCK


def test_an_index_that_lies_does_no_harm(tmp_path: Path) -> None:
    index = cut(OLD)
    digests = bytearray(index.digests)
    digests[:] = digests[16:] + digests[:16]  # each chunk under its neighbour's digest
    lying = ChunkIndex(index.sha256, index.size, index.lengths, bytes(digests))
    Filled(OLD, tmp_path, (OLD, lying)).require_right()


def test_an_old_file_that_is_gone_is_left_out(tmp_path: Path) -> None:
    metainfo, start = metainfo_of(OLD, tmp_path), None
    start = Start.empty(metainfo)
    with (tmp_path / "part").open("w+b") as file:
        old = Old(tmp_path / "gone", cut(OLD))
        fill(file.fileno(), metainfo, cut(OLD), [old], start, lambda _: None, threading.Event())
    assert start.filled == 0


def test_filling_stops_when_it_is_told_to(tmp_path: Path) -> None:
    data = random.Random(9).randbytes(20_000_000)
    metainfo, stop = metainfo_of(data, tmp_path), threading.Event()
    start = Start.empty(metainfo)
    with (tmp_path / "part").open("w+b") as file:
        old = Old(tmp_path / "blob", cut(data))
        fill(file.fileno(), metainfo, cut(data), [old], start, lambda _: stop.set(), stop)
    assert 0 < start.filled < len(data)


def test_what_an_earlier_fetch_left_is_found_and_not_filled_again(tmp_path: Path) -> None:
    metainfo = metainfo_of(OLD, tmp_path)
    start = Start.empty(metainfo)
    with (tmp_path / "part").open("w+b") as file:
        os.ftruncate(file.fileno(), len(OLD))
        os.pwrite(file.fileno(), OLD[5 * PIECE : 8 * PIECE], 5 * PIECE)
        os.pwrite(file.fileno(), b"?" * 100, 10 * PIECE)
        look_through(file.fileno(), metainfo, start, lambda _: None, threading.Event())
    assert [piece for piece, there in enumerate(start.pieces) if there] == [5, 6, 7]
    assert start.had == 3 * PIECE
    filled = Filled(OLD, tmp_path, (OLD, cut(OLD)), start=start)
    assert (filled.start.had, filled.start.filled) == (3 * PIECE, len(OLD) - 3 * PIECE)


def index_of(digests: bytes, length: int = 16384) -> ChunkIndex:
    count = len(digests) // chunks.DIGEST
    return ChunkIndex("0" * 64, count * length, array("I", [length]) * count, digests)


def test_where_a_chunk_is_takes_little_memory(tmp_path: Path) -> None:
    count = 200_000  # just above a power of two of slots, where the table is emptiest
    random_bytes = random.Random(3).randbytes(count * chunks.DIGEST)
    new, old = index_of(random_bytes), index_of(random_bytes[chunks.DIGEST :])
    (tmp_path / "old").touch()
    tracemalloc.start()
    try:
        with contextlib.ExitStack() as stack:
            sources = Sources(new, [Old(tmp_path / "old", old)], stack)
            took = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < 40 * count
    assert list(sources.handles).count(NOWHERE) == 1
    assert sources.offsets[count - 1] == (count - 2) * 16384


def test_chunks_that_are_there_many_times_are_found_once(tmp_path: Path) -> None:
    zero, one, two = (bytes([number]) * chunks.DIGEST for number in range(3))
    (tmp_path / "old").touch()
    (tmp_path / "other").touch()
    asked: list[str] = []

    def olds() -> Iterator[Old]:
        for name, digests in (("old", one + zero + zero), ("gone", two), ("other", two + one), ("more", two)):
            asked.append(name)
            yield Old(tmp_path / name, index_of(digests))

    with contextlib.ExitStack() as stack:
        sources = Sources(index_of(zero + two + zero + one + zero), olds(), stack)
    old, other = sources.handles[0], sources.handles[1]
    assert list(sources.handles) == [old, other, old, old, old]
    assert old != other
    assert list(sources.offsets) == [16384, 0, 16384, 0, 16384]
    assert asked == ["old", "gone", "other"]  # then nothing is lacking


def test_a_chunk_of_another_length_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    digests = b"x" * chunks.DIGEST * 3
    with contextlib.ExitStack() as stack:
        lying = Old(tmp_path / "old", index_of(digests, 1000))
        assert set(Sources(index_of(digests), [lying], stack).handles) == {NOWHERE}
    assert len(Sources(index_of(b""), [lying], contextlib.ExitStack()).handles) == 0


# -- which old files there are


def shelf_of(*known: bytes) -> Callable[[str], bytes]:
    indexes = {hashlib.sha256(data).hexdigest(): chunks.dump(cut(data)) for data in known}

    def ask(sha256: str) -> bytes:
        if sha256 not in indexes:
            raise RookeryError("no such index", kind=ErrorKind.NOT_FOUND)
        return indexes[sha256]

    return ask


def test_named_files_come_first_then_the_one_in_place_then_those_beside(tmp_path: Path) -> None:
    to, named, beside, other = (tmp_path / name for name in ("root", "named", "beside", "other"))
    for path in (to, named, beside, other):
        path.write_bytes(b"x")
    sidecar_path(beside).write_bytes(b"")
    sidecar_path(tmp_path / "gone").write_bytes(b"")
    sidecar_path(to).write_bytes(b"")
    assert candidates(to, [named]) == (named, to, beside)
    # Of a directory: what is called as the new one is, and what has a sidecar. Of anything else it may be full.
    assert candidates(tmp_path / "new" / "root", [tmp_path]) == (to, beside)
    assert candidates(tmp_path / "new" / "another", [tmp_path / "gone"]) == ()


def test_only_files_of_the_very_size_are_read_to_find_the_same(tmp_path: Path) -> None:
    have = tmp_path / "have"
    have.mkdir()
    content = {"other": b"new?", "told": b"new!", "short": b"new", "the same": b"new!", "unread": b"new!"}
    for name, data in content.items():
        (have / name).write_bytes(data)
    sidecar_path(have / "told").write_bytes(chunks.stub("ab" * 32, 4))
    (have / ".new.part").write_bytes(b"new!")
    read: list[str] = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    blob = Blob(Role.DATA, "new", 4, hashlib.sha256(b"new!").hexdigest())
    assert same(blob, (), [have, tmp_path / "gone"], digest) == have / "the same"
    assert read == ["other", "the same"]
    assert same(blob, (have / "short", have / "gone"), (), digest) is None


@pytest.mark.parametrize("short_way", [True, False])
def test_a_copy_has_the_bytes_of_the_file_and_no_others(
    tmp_path: Path, short_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not short_way:

        def refuse(*_arguments: object) -> int:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "from").write_bytes(OLD)
    (tmp_path / "to").write_bytes(b"?" * (len(OLD) + 1000))
    told: list[int] = []
    for to in ("to", "new"):
        copy(tmp_path / "from", tmp_path / to, told.append)
        assert (tmp_path / to).read_bytes() == OLD
    assert told[-1] == len(OLD)


@pytest.mark.parametrize(
    "sidecar",
    [None, chunks.stub(hashlib.sha256(OLD).hexdigest(), len(OLD)), b"rubbish", chunks.dump(cut(OLD))],
    ids=["none", "a stub", "rubbish", "whole"],
)
def test_the_chunks_of_an_old_file_are_found_out(tmp_path: Path, sidecar: bytes | None) -> None:
    old = tmp_path / "old"
    old.write_bytes(OLD)
    if sidecar is not None:
        sidecar_path(old).write_bytes(sidecar)
    known_here = sidecar is not None and len(sidecar) > 1000
    (found,) = find([old], shelf_of() if known_here else shelf_of(OLD), sha256_file)
    assert (found.path, found.index) == (old, chunks.parse(chunks.dump(cut(OLD))))


def test_a_file_that_nobody_knows_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"never published")
    assert list(find([tmp_path / "old", tmp_path / "gone"], shelf_of(OLD), sha256_file)) == []
