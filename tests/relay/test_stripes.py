# SPDX-License-Identifier: Apache-2.0
"""Stripes that leave over one link keep step: real sockets, a real file."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery.relay import frames, giver, taker
from rookery.relay.book import Book
from rookery.relay.frames import HEADER, Greeting, Kind
from rookery.relay.giver import Giver, Shelf
from rookery.relay.taker import Taker, join

LOOPBACK = "127.0.0.1"
SHA, KEY = "ab" * 32, "cd" * 32
PIECE, PIECES = 1 << 16, 800  # 400 in each of two stripes; a stripe waits when it is 4 ahead, up to 80
BUFFERED = 12  # pieces that are in the sockets between a giver and a child that does not read, at most


class Child:
    """Takes a stripe, in a thread of its own; it reads at most `pieces`, each after a rest of some seconds."""

    def __init__(self, port: int, stripe: int, rest: float = 0.0, pieces: int = PIECES // 2) -> None:
        self.pieces = 0
        self._rest, self._most = rest, pieces
        self._connection = socket.socket()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._connection.connect((LOOPBACK, port))
        self._connection.sendall(frames.hello(Greeting(SHA, KEY, stripe, 2), b""))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while self.pieces < self._most:
                kind, _, length = HEADER.unpack(frames.read_exactly(self._connection, HEADER.size))
                frames.read_exactly(self._connection, length)
                if kind == Kind.PIECE:
                    self.pieces += 1
                    time.sleep(self._rest)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self._connection.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[tuple[Giver, contextlib.ExitStack]]:
    path = tmp_path / "blob"
    path.touch()
    os.truncate(path, PIECE * PIECES)
    found = Giver(LOOPBACK, 0)
    found.put(SHA, Shelf(path, PIECE * PIECES, PIECE, Book(PIECES, complete=True), KEY))
    with contextlib.ExitStack() as stack:
        stack.callback(found.close)
        yield found, stack


def child(room: tuple[Giver, contextlib.ExitStack], stripe: int, rest: float = 0.0, pieces: int = PIECES // 2) -> Child:
    made = Child(room[0].port, stripe, rest, pieces)
    room[1].callback(made.close)
    return made


def test_a_stripe_is_never_far_ahead_of_another(
    room: tuple[Giver, contextlib.ExitStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giver, "MOST_WAITING", 0)  # no bound
    slow = child(room, 1, rest=0.004)
    fast = child(room, 0)
    lead = 0
    while slow.thread.is_alive():
        ahead, behind = fast.pieces, slow.pieces  # in this order: it only makes the lead smaller
        lead = max(lead, ahead - behind)
        time.sleep(0.002)
    assert lead <= giver.AHEAD_PIECES + BUFFERED
    fast.thread.join(10)
    assert (fast.pieces, slow.pieces) == (400, 400)


def test_nobody_waits_for_one_that_stands_still(
    room: tuple[Giver, contextlib.ExitStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giver, "MOVING", 0.1)
    still = child(room, 1, pieces=30)
    still.thread.join(10)
    fast = child(room, 0)
    fast.thread.join(10)
    assert (fast.pieces, still.pieces) == (400, 30)


def test_nobody_waits_for_one_that_came_later(room: tuple[Giver, contextlib.ExitStack]) -> None:
    first = child(room, 0, rest=0.001)
    while first.pieces < 150:
        time.sleep(0.001)
    late = child(room, 1, rest=0.02)
    first.thread.join(10)
    assert first.pieces == 400
    assert late.pieces < 200


def test_nobody_waits_for_one_that_went_away(room: tuple[Giver, contextlib.ExitStack]) -> None:
    gone = child(room, 1, rest=0.02)
    fast = child(room, 0)
    while gone.pieces < 20:
        time.sleep(0.001)
    gone.close()
    fast.thread.join(10)
    assert fast.pieces == 400


def test_children_of_one_stripe_do_not_wait_for_each_other(room: tuple[Giver, contextlib.ExitStack]) -> None:
    slow = child(room, 0, rest=0.02)
    fast = child(room, 0)
    fast.thread.join(10)
    assert fast.pieces == 400
    assert slow.pieces < 300


def test_a_child_that_is_slow_by_itself_holds_nobody_up_for_long(room: tuple[Giver, contextlib.ExitStack]) -> None:
    slow = child(room, 1, rest=0.05)  # 20 s for all of it
    began = time.monotonic()
    fast = child(room, 0, rest=0.005)  # 2 s and a bit, when it need not wait
    fast.thread.join(15)
    assert fast.pieces == 400
    assert slow.pieces < 200
    assert time.monotonic() - began < 10


def test_who_waits_hears_that_its_parent_lives(
    room: tuple[Giver, contextlib.ExitStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giver, "MOST_WAITING", 0)
    monkeypatch.setattr(giver, "BEAT", 0.02)
    monkeypatch.setattr(taker, "SILENT", 0.5)
    slow = child(room, 1, rest=0.05)
    while slow.pieces < 2:
        time.sleep(0.001)
    book = Book(PIECES)
    book.extend(range(0, 100, 2))  # it lacks 50 pieces less: far ahead
    link = Taker(
        join(LOOPBACK, room[0].port), Greeting(SHA, KEY, 0, 2), book, lambda _piece: PIECE, lambda *_piece: True
    )
    room[1].callback(link.stop)
    time.sleep(1.5)
    assert link.running
    assert link.taken.pieces < 10, "it waits"
