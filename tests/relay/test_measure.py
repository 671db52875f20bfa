# SPDX-License-Identifier: Apache-2.0
"""How links are measured: real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rookery.relay import frames, measure
from rookery.relay.book import Book
from rookery.relay.frames import HEADER, Greeting, Kind
from rookery.relay.measure import PAD, Probe
from rookery.relay.taker import Taker, join

LOOPBACK = "127.0.0.1"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def test_a_link_that_takes_nothing_gets_no_more_than_the_first(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 20))  # what is in flight, and will not be taken
    padding, sent = Probe(near), 0
    until = time.monotonic() + 4 * measure.LONG
    while time.monotonic() < until:
        sent += padding.due(time.monotonic())
        time.sleep(0.001)
    assert sent * len(PAD) == measure.FIRST
    assert not padding.waits


def test_a_fast_link_gets_more_and_not_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    took = [0]

    def take() -> None:
        while data := far.recv(1 << 20):
            took[0] += len(data)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    padding, sent, began = Probe(near), 0, time.monotonic()
    while padding.due(time.monotonic()) or padding.waits:
        near.sendall(PAD)
        sent += len(PAD)
        assert time.monotonic() - began < 5
    assert sent > measure.FIRST
    near.shutdown(socket.SHUT_WR)
    thread.join(5)
    assert took[0] == sent


def test_nothing_waits_for_it_when_its_time_is_over(pair: tuple[socket.socket, socket.socket]) -> None:
    padding, now = Probe(pair[0]), time.monotonic()
    for _ in range(measure.FIRST // len(PAD) + 1):  # one more than the first: it goes on
        assert padding.due(now)
    assert not padding.due(now + measure.SECONDS)
    assert not padding.waits


def measured(said: Callable[[socket.socket], None]) -> float:
    """Bytes per second that a child takes a link to have steadily whose parent says that."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                frames.read_hello(connection)
                said(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        greeting = Greeting("ab" * 32, "cd" * 32)
        link = Taker(
            join(LOOPBACK, listener.getsockname()[1]), greeting, Book(1), lambda _piece: 1 << 16, lambda *_piece: True
        )
        thread.join(20)
        link.stop()
        return link.taken.steady


def pace(connection: socket.socket) -> None:
    """About 3 MB/s, at most."""
    for _ in range(40):
        connection.sendall(HEADER.pack(Kind.PAD, 0, len(PAD)) + PAD)
        time.sleep(0.005)


def test_a_link_is_measured_by_what_it_keeps_up() -> None:
    assert 100_000 < measured(pace) < 4_000_000


def test_what_a_shaper_lets_through_at_once_does_not_count() -> None:
    def burst(connection: socket.socket) -> None:
        connection.sendall((HEADER.pack(Kind.PAD, 0, len(PAD)) + PAD) * 4)
        time.sleep(0.02)
        pace(connection)

    assert 100_000 < measured(burst) < 4_000_000


def test_a_burst_alone_says_nothing() -> None:
    assert measured(lambda connection: connection.sendall((HEADER.pack(Kind.PAD, 0, len(PAD)) + PAD) * 4)) == 0
