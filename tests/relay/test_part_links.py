# SPDX-License-Identifier: Apache-2.0
"""Between parent and child, of pieces that the child has in part only the rest travels."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery.errors import ErrorKind
from rookery.relay import frames
from rookery.relay.book import Book
from rookery.relay.frames import HEADER, Greeting, Kind
from rookery.relay.giver import Giver, Shelf
from rookery.relay.parts import Parts
from rookery.relay.taker import GarbageError, Taker, join
from rookery.wire.engine import BLOCK

LOOPBACK = "127.0.0.1"
SHA, KEY = "ab" * 32, "cd" * 32
PIECE, PIECES = 4 * BLOCK, 6
SIZE = PIECES * PIECE - 20_000
DATA = os.urandom(SIZE)


def length(piece: int) -> int:
    return min(PIECE, SIZE - piece * PIECE)


class Child:
    """A file with some right blocks, and some that are wrong though it does not know."""

    def __init__(self, blocks: set[int], wrong: frozenset[int] = frozenset()) -> None:
        self.book = Book(PIECES)
        self.parts = Parts(bytearray(PIECE // BLOCK * PIECES), PIECE, length)
        self.data = bytearray(SIZE)
        self.whole: list[int] = []
        for block in blocks:
            self.parts.blocks[block] = 1
            content = b"\0" * BLOCK if block in wrong else DATA[block * BLOCK : (block + 1) * BLOCK]
            self.data[block * BLOCK : block * BLOCK + len(content)] = content

    def on_piece(self, piece: int, data: memoryview) -> bool:
        self.whole.append(piece)
        self.data[piece * PIECE : piece * PIECE + len(data)] = data
        return self.check(piece)

    def on_part(self, piece: int, data: memoryview, spans: list[tuple[int, int]]) -> bool:
        at = 0
        for offset, size in spans:
            self.data[piece * PIECE + offset : piece * PIECE + offset + size] = data[at : at + size]
            at += size
        if not self.check(piece):
            self.parts.forget(piece)
            return False
        return True

    def check(self, piece: int) -> bool:
        right = self.data[piece * PIECE : piece * PIECE + length(piece)] == DATA[piece * PIECE :][: length(piece)]
        return right and self.book.add(piece)

    def take(self, endpoint: str) -> Taker:
        link = Taker(endpoint, Greeting(SHA, KEY), self.book, length, self.on_piece, self.parts, self.on_part)
        link._thread.join(20)
        assert not link.running
        return link


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Giver]:
    (tmp_path / "data").write_bytes(DATA)
    giver = Giver(LOOPBACK, 0)
    giver.put(SHA, Shelf(tmp_path / "data", SIZE, PIECE, Book(PIECES, complete=True), KEY))
    yield giver
    giver.close()


def test_only_the_blocks_that_are_missing_travel(source: Giver) -> None:
    last = (SIZE - 1) // BLOCK  # shorter than a block
    child = Child({1, 2, 4, 9, 10, 11, last})
    assert child.take(join(LOOPBACK, source.port)).error is None
    assert child.book.complete
    assert child.data == DATA
    assert source.sent == SIZE - 6 * BLOCK - (SIZE - last * BLOCK)
    assert child.whole == [3, 4]


def test_a_block_of_ours_that_is_wrong_costs_its_piece_and_nobody_is_blamed(source: Giver) -> None:
    child = Child({1, 9}, wrong=frozenset({9}))
    endpoint = join(LOOPBACK, source.port)
    assert child.take(endpoint).error is None
    assert not child.book.has(2)
    assert child.take(endpoint).error is None
    assert child.book.complete
    assert 2 in child.whole
    assert child.data == DATA


@pytest.mark.parametrize(
    ("piece", "size"), [(0, BLOCK), (1, 2 * BLOCK), (1, PIECE), (PIECES, BLOCK)], ids=["whole", "short", "long", "none"]
)
def test_a_part_that_was_not_asked_for_is_garbage(piece: int, size: int) -> None:
    child = Child({4})  # of piece 1 three blocks are missing
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                frames.patience(connection, 20, 20)
                greeting, bitmaps = frames.read_hello(connection)
                assert greeting.parts
                assert len(bitmaps) == 1 + 3
                connection.sendall(HEADER.pack(Kind.PART, piece, size) + bytes(size))
                with contextlib.suppress(OSError):
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        link = child.take(join(LOOPBACK, listener.getsockname()[1]))
        thread.join(20)
    assert isinstance(link.error, GarbageError)
    assert link.error.kind is ErrorKind.CORRUPT


def test_a_parent_that_hears_of_no_parts_sends_whole_pieces(source: Giver) -> None:
    with socket.create_connection((LOOPBACK, source.port)) as connection:
        frames.patience(connection, 20, 20)
        connection.sendall(frames.hello(Greeting(SHA, KEY), b"\xf0" + b"\xff" * 3))
        kind, piece, size = struct.unpack(">III", frames.read_exactly(connection, HEADER.size))
        assert (kind, piece, size) == (Kind.PIECE, 4, PIECE)
