# SPDX-License-Identifier: Apache-2.0
"""Pieces that come in checked blocks, and go on before they are whole: real sockets, real files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.node.fetch import partfile
from rookery.node.fetch.fill import Start
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.partfile import Origin, PartFile
from rookery.node.fetch.stats import Ledger
from rookery.relay import frames, giver, taker
from rookery.relay.book import Book, Growth
from rookery.relay.frames import HEADER, Greeting, Kind
from rookery.relay.giver import Giver, Shelf
from rookery.relay.taker import GarbageError, Taker, join
from rookery.wire import merkle
from rookery.wire.engine import BLOCK

LOOPBACK = "127.0.0.1"
SHA, KEY = "ab" * 32, "cd" * 32
PIECE, PIECES = 8 * BLOCK, 9
SIZE = (PIECES - 1) * PIECE + 2 * BLOCK + 1000
DATA = os.urandom(SIZE)
LEAVES = [merkle.leaves(DATA[place : place + PIECE]) for place in range(0, SIZE, PIECE)]
METAINFO = Metainfo(b"", SIZE, PIECE, b"".join(merkle.root(leaves, PIECE // BLOCK) for leaves in LEAVES))
PARENT = Origin("10.0.0.1", is_head=False)
OPENER = Origin("10.0.0.2", is_head=False)


def wait_until(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def part(piece: int, begin: int = 0, end: int = PIECE) -> bytes:
    """Bytes of one piece."""
    return DATA[piece * PIECE : (piece + 1) * PIECE][begin:end]


def frame(kind: Kind, piece: int, data: bytes) -> bytes:
    return HEADER.pack(kind, piece, len(data)) + data


class Node:
    """A link of the chain."""

    def __init__(self, path: Path, there: tuple[int, ...] = (), *, blocks: bool = True) -> None:
        self.path, self.book, self.ledger = path, Book(PIECES), Ledger(SIZE)
        self.start, self.blocks = Start.empty(METAINFO), blocks
        self.file = PartFile(path, METAINFO, self.start, self.book, self.ledger)
        self.giver = Giver(LOOPBACK, 0)
        self.giver.put(SHA, Shelf(path, SIZE, PIECE, self.book, KEY))
        for piece in there:
            self.file.piece(PARENT, piece, memoryview(part(piece)))

    @property
    def endpoint(self) -> str:
        return join(LOOPBACK, self.giver.port)

    @property
    def right(self) -> bool:
        return self.path.read_bytes() == DATA and self.file.digest() == hashlib.sha256(DATA).hexdigest()

    def open(self) -> None:
        """The first block is there, from somebody else."""
        with self.path.open("r+b") as file:
            file.write(part(0, 0, BLOCK))
        self.file.opener = OPENER

    def take(self, endpoint: str, stripe: int = 0, stripes: int = 1) -> Taker:
        return Taker(
            endpoint,
            Greeting(SHA, KEY, stripe, stripes, opening=self.file.opener is not None and stripe == 0),
            self.book,
            METAINFO.length,
            partial(self.file.piece, PARENT),
            self.start.parts,
            partial(self.file.part, PARENT),
            partial(self.file.leaves, PARENT) if self.blocks else None,
            partial(self.file.growth, PARENT) if self.blocks else None,
        )


class Room:
    """What a test opens, closed at its end."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory, self.stack, self.count = directory, stack, 0

    def node(self, there: tuple[int, ...] = (), *, blocks: bool = True) -> Node:
        self.count += 1
        node = Node(self.directory / f"node{self.count}", there, blocks=blocks)
        self.stack.callback(node.file.close)
        self.stack.callback(node.giver.close)
        return node

    def take(self, node: Node, endpoint: str, stripe: int = 0, stripes: int = 1) -> Taker:
        link = node.take(endpoint, stripe, stripes)
        self.stack.callback(link.stop)
        return link

    def source(self) -> str:
        """A parent that has everything."""
        return self.node(tuple(range(PIECES))).endpoint

    def parent(self, *said: bytes | threading.Event) -> str:
        """A parent that says these bytes, waiting for events between them, and hangs up."""
        listener = self.stack.enter_context(socket.create_server((LOOPBACK, 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    frames.read_hello(connection)
                    for word in said:
                        if isinstance(word, bytes):
                            connection.sendall(word)
                        else:
                            word.wait(20)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.stack.callback(thread.join, 5)
        for word in said:
            if isinstance(word, threading.Event):
                self.stack.callback(word.set)
        return join(LOOPBACK, listener.getsockname()[1])


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with contextlib.ExitStack() as stack:
        yield Room(tmp_path, stack)


def ended(link: Taker) -> RookeryError | None:
    wait_until(lambda: not link.running, "the link ended")
    return link.error


def heard(endpoint: str, *, blocks: bool) -> list[tuple[Kind, int, int]]:
    """Kind, piece and length of all frames until the parent has no more; the bytes are compared."""
    found: list[tuple[Kind, int, int]] = []
    place: dict[int, int] = {}
    address, port = endpoint.split(":")
    with socket.create_connection((address, int(port))) as connection:
        frames.patience(connection, 5, 5)
        connection.sendall(frames.hello(Greeting(SHA, KEY, blocks=blocks), b""))
        with contextlib.suppress(ConnectionResetError):
            while True:
                kind, piece, length = HEADER.unpack(frames.read_exactly(connection, HEADER.size))
                data = frames.read_exactly(connection, length)
                if kind in (Kind.BEAT, Kind.WAIT):
                    continue
                if kind == Kind.LEAVES:
                    assert data == LEAVES[piece]
                else:
                    begin = place.get(piece, 0)
                    assert data == part(piece, begin, begin + length)
                    place[piece] = begin + length
                found.append((Kind(kind), piece, length))
    assert {piece: METAINFO.length(piece) for piece in range(PIECES)} == place
    return found


def test_the_first_pieces_go_out_block_by_block(room: Room) -> None:
    found = heard(room.source(), blocks=True)
    per_piece = [(Kind.LEAVES, PIECE // BLOCK * 32), *[(Kind.BLOCKS, BLOCK)] * (PIECE // BLOCK)]
    assert [(kind, length) for kind, piece, length in found if piece < giver.FIRST] == per_piece * giver.FIRST
    assert {kind for kind, piece, _ in found if piece >= giver.FIRST} == {Kind.PIECE}


def test_large_pieces_go_out_in_units(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giver, "FIRST", 0)
    monkeypatch.setattr(giver, "UNIT", 3 * BLOCK)
    found = heard(room.source(), blocks=True)
    sizes = [length for kind, piece, length in found if piece == 0 and kind == Kind.BLOCKS]
    assert sizes == [3 * BLOCK, 3 * BLOCK, 2 * BLOCK]
    assert found[-1] == (Kind.PIECE, PIECES - 1, 2 * BLOCK + 1000), "the last one is no larger than a unit"


def test_who_takes_whole_pieces_only_gets_them(room: Room) -> None:
    assert {kind for kind, _, _ in heard(room.source(), blocks=False)} == {Kind.PIECE}
    source, node = room.source(), room.node(blocks=False)
    assert ended(room.take(node, source)) is None
    assert node.right


@pytest.mark.parametrize("unit", [BLOCK, 3 * BLOCK, giver.UNIT])
def test_everything_comes_down_a_chain(room: Room, monkeypatch: pytest.MonkeyPatch, unit: int) -> None:
    monkeypatch.setattr(giver, "UNIT", unit)
    nodes = [room.node() for _ in range(4)]
    links = [room.take(below, above.endpoint) for above, below in itertools.pairwise(nodes)]
    links.append(room.take(nodes[0], room.source()))
    assert [ended(link) for link in links] == [None] * 4
    for node in nodes:
        assert node.right
        stats = node.ledger.stats(seconds=1.0)
        assert (stats.bytes_from_peers, stats.bytes_failed, stats.hash_failures) == (SIZE, 0, 0)
        assert node.file.transfer(0, 0, 0.0).done == SIZE
        assert node.book.growing() == ()
    assert [node.giver.sent for node in nodes] == [SIZE] * 3 + [0], "nothing goes out twice"
    assert [(link.taken.pieces, link.taken.size) for link in links] == [(PIECES, SIZE)] * 4


def test_blocks_are_passed_on_before_their_piece_is_whole(room: Room) -> None:
    first, second, third = (room.node() for _ in range(3))
    room.take(second, first.endpoint)
    room.take(third, second.endpoint)
    go_on = threading.Event()
    begun = frame(Kind.LEAVES, 3, LEAVES[3]) + frame(Kind.BLOCKS, 3, part(3, 0, 2 * BLOCK))
    rest = frame(Kind.BLOCKS, 3, part(3, 2 * BLOCK))
    room.take(first, room.parent(begun, go_on, rest))
    wait_until(lambda: third.book.growing() == (Growth(3, LEAVES[3], 2 * BLOCK),), "two blocks came all the way")
    assert third.file.first_byte is not None
    assert [len(node.book) for node in (first, second, third)] == [0, 0, 0]
    assert third.path.read_bytes()[3 * PIECE :][: 2 * BLOCK] == part(3, 0, 2 * BLOCK)
    assert third.ledger.from_peers == 0, "it counts when it is whole"
    late = room.node()
    room.take(late, second.endpoint)
    wait_until(lambda: late.book.growing() == third.book.growing(), "who comes in the middle gets what is there")
    go_on.set()
    wait_until(lambda: third.book.has(3) and late.book.has(3), "the rest came")
    assert third.path.read_bytes()[3 * PIECE : 4 * PIECE] == part(3)
    assert third.ledger.from_peers == PIECE


@pytest.mark.parametrize("stripes", [1, 2])
def test_the_first_block_that_is_there_is_not_sent_again(room: Room, stripes: int) -> None:
    source, node, child = room.node(tuple(range(PIECES))), room.node(), room.node()
    node.open()
    links = [room.take(child, node.endpoint)]
    links += [room.take(node, source.endpoint, stripe, stripes) for stripe in range(stripes)]
    assert [ended(link) for link in links] == [None] * (stripes + 1)
    assert node.right
    assert child.right
    assert (source.giver.sent, node.giver.sent) == (SIZE - BLOCK, SIZE)
    stats = node.ledger.stats(seconds=1.0)
    assert (stats.bytes_from_peers, stats.bytes_failed, stats.hash_failures) == (SIZE, 0, 0)
    assert node.ledger.peers[OPENER.address] == BLOCK


def test_the_first_block_goes_on_as_soon_as_its_piece_is_known(room: Room) -> None:
    node, child = room.node(), room.node()
    node.open()
    room.take(child, node.endpoint)
    room.take(node, room.parent(frame(Kind.LEAVES, 0, LEAVES[0]), threading.Event()))
    wait_until(lambda: child.book.growing() == (Growth(0, LEAVES[0], BLOCK),), "the child has it, too")
    assert node.book.growing() == (Growth(0, LEAVES[0], BLOCK, BLOCK),)


def test_a_first_block_is_kept_when_its_piece_breaks_off(room: Room) -> None:
    node = room.node()
    node.open()
    begun = frame(Kind.LEAVES, 0, LEAVES[0]) + frame(Kind.BLOCKS, 0, part(0, BLOCK, 3 * BLOCK))
    assert ended(room.take(node, room.parent(begun))) is not None
    source = room.node(tuple(range(PIECES)))
    assert ended(room.take(node, source.endpoint)) is None
    assert node.right
    assert source.giver.sent == SIZE - BLOCK
    assert node.ledger.stats(seconds=1.0).bytes_from_peers == SIZE


def test_a_first_piece_that_comes_whole_counts_once(room: Room) -> None:
    node = room.node()
    node.open()
    room.take(node, room.parent(frame(Kind.PIECE, 0, part(0)), threading.Event()))
    wait_until(lambda: node.book.has(0), "it came")
    assert node.ledger.stats(seconds=1.0).bytes_from_peers == PIECE


def test_a_piece_that_breaks_off_comes_from_somebody_else_and_goes_on_where_it_was(room: Room) -> None:
    first, second = room.node(), room.node()
    link = room.take(second, first.endpoint)
    begun = frame(Kind.LEAVES, 0, LEAVES[0]) + frame(Kind.BLOCKS, 0, part(0, 0, 5 * BLOCK))
    cut = threading.Event()
    broken = room.take(first, room.parent(begun, cut))
    wait_until(lambda: second.book.growing() == (Growth(0, LEAVES[0], 5 * BLOCK),), "five blocks came")
    cut.set()
    assert ended(broken) is not None
    assert first.book.growing() == (), "nothing more comes of it"
    assert ended(room.take(first, room.source())) is None
    assert ended(link) is None
    assert first.right
    assert second.right
    assert first.giver.sent == SIZE, "the five blocks did not go out again"
    stats = first.ledger.stats(seconds=1.0)
    assert (stats.bytes_from_peers, stats.bytes_failed) == (SIZE, 0)


def test_two_parents_give_two_pieces_at_the_same_time(room: Room) -> None:
    node, child = room.node(), room.node()
    room.take(child, node.endpoint)
    for stripe in (0, 1):
        begun = frame(Kind.LEAVES, stripe, LEAVES[stripe]) + frame(Kind.BLOCKS, stripe, part(stripe, 0, BLOCK))
        room.take(node, room.parent(begun, threading.Event()), stripe, 2)
    wait_until(lambda: len(child.book.growing()) == 2, "both came through")
    room.take(node, room.source())
    wait_until(lambda: child.book.complete, "and all the rest")
    assert child.right


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_block_goes_no_further(room: Room, wrong: int) -> None:
    first, second = room.node(), room.node()
    room.take(second, first.endpoint)
    block = bytearray(part(1, wrong * BLOCK, (wrong + 1) * BLOCK))
    block[77] ^= 1
    said = frame(Kind.LEAVES, 1, LEAVES[1]) + frame(Kind.BLOCKS, 1, part(1, 0, wrong * BLOCK)) * wrong
    go_on = threading.Event()
    link = room.take(first, room.parent(said, go_on, frame(Kind.BLOCKS, 1, bytes(block))))
    wait_until(lambda: [growth.ready for growth in second.book.growing()] == [BLOCK] * wrong, "what was right came")
    go_on.set()
    error = ended(link)
    assert isinstance(error, GarbageError)
    assert "wrong blocks of piece 1" in str(error)
    stats = first.ledger.stats(seconds=1.0)
    assert (stats.hash_failures, stats.banned) == (1, (PARENT.address,))
    time.sleep(0.1)
    assert [growth.ready for growth in second.book.growing()] == [BLOCK] * wrong
    assert ended(room.take(first, room.source())) is None
    wait_until(lambda: second.book.complete, "all the rest came")
    assert second.right
    assert second.ledger.failures == 0


@pytest.mark.parametrize(
    "leaves", [LEAVES[2], LEAVES[1][:-1] + b"\0", LEAVES[1][:-32], LEAVES[1] + bytes(32), b""], ids=range(5)
)
def test_digests_that_are_not_the_pieces_are_garbage(room: Room, leaves: bytes) -> None:
    first, second = room.node(), room.node()
    room.take(second, first.endpoint)
    error = ended(room.take(first, room.parent(frame(Kind.LEAVES, 1, leaves) + frame(Kind.BLOCKS, 1, part(1)))))
    assert isinstance(error, GarbageError)
    assert "wrong digests of piece 1" in str(error)
    assert first.ledger.banned == {PARENT.address}
    assert first.book.growing() == second.book.growing() == ()


def test_bytes_behind_a_pieces_end_are_garbage(room: Room) -> None:
    last = PIECES - 1
    for data in (part(last) + b"x", part(last, 0, BLOCK) + bytes(5 * BLOCK)):
        node = room.node()
        error = ended(
            room.take(node, room.parent(frame(Kind.LEAVES, last, LEAVES[last]) + frame(Kind.BLOCKS, last, data)))
        )
        assert isinstance(error, GarbageError)
        assert not node.book.has(last)
        assert node.path.stat().st_size == SIZE


@pytest.mark.parametrize(
    "said",
    [
        frame(Kind.BLOCKS, 1, part(1, 0, BLOCK)),
        frame(Kind.LEAVES, 1, LEAVES[1]) + frame(Kind.BLOCKS, 2, part(2, 0, BLOCK)),
        frame(Kind.LEAVES, 1, LEAVES[1]) + frame(Kind.BLOCKS, 1, b""),
        frame(Kind.LEAVES, PIECES, LEAVES[1]),
        b"".join(frame(Kind.LEAVES, piece, LEAVES[piece]) for piece in range(taker.MOST_GROWING + 1)),
    ],
    ids=["no leaves", "of another", "nothing", "no such piece", "too many"],
)
def test_a_parent_that_speaks_another_language(room: Room, said: bytes) -> None:
    node = room.node()
    error = ended(room.take(node, room.parent(said, threading.Event())))
    assert error is not None
    assert error.kind is ErrorKind.INVALID
    assert node.book.growing() == ()
    assert ended(room.take(node, room.source())) is None, "somebody else gives it"
    assert node.right


def test_half_a_block_is_no_block(room: Room) -> None:
    said = frame(Kind.LEAVES, 1, LEAVES[1])
    said += frame(Kind.BLOCKS, 1, part(1, 0, BLOCK // 2)) + frame(Kind.BLOCKS, 1, part(1, BLOCK // 2, BLOCK))
    assert isinstance(ended(room.take(room.node(), room.parent(said))), GarbageError)


def test_blocks_that_are_there_from_an_older_version_are_not_sent(room: Room) -> None:
    node = room.node()
    per_piece = PIECE // BLOCK
    for block in (1, 2, 5):  # of piece 1
        node.start.parts.blocks[per_piece + block] = 1
        place = PIECE + block * BLOCK
        with node.path.open("r+b") as file:
            file.seek(place)
            file.write(DATA[place : place + BLOCK])
    above = room.node()
    link = room.take(node, above.endpoint)
    assert ended(room.take(above, room.source())) is None
    assert ended(link) is None
    assert node.right
    assert above.giver.sent == SIZE - 3 * BLOCK
    assert node.ledger.filled == 3 * BLOCK


def test_a_file_that_is_cut_is_nobodys_garbage(room: Room) -> None:
    source, node = room.node(tuple(range(PIECES))), room.node()
    os.truncate(source.path, PIECE + BLOCK)
    error = ended(room.take(node, source.endpoint))
    assert error is not None
    assert not isinstance(error, GarbageError)
    assert len(node.book) == 1


def test_a_disk_that_fills_up_in_the_middle_of_a_piece(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    node = room.node()

    def full(_handle: int, _data: bytes, _place: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(partfile.os, "pwrite", full)
    said = frame(Kind.LEAVES, 1, LEAVES[1]) + frame(Kind.BLOCKS, 1, part(1, 0, BLOCK))
    assert not isinstance(ended(room.take(node, room.parent(said))), GarbageError)
    assert node.file.error is not None
    assert node.file.error.kind is ErrorKind.NO_SPACE
    assert node.ledger.banned == set()
    assert node.book.growing() == ()
