# SPDX-License-Identifier: Apache-2.0
"""Torrent and chunk index go down the chain as they come, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.relay import frames, taker
from rookery.relay.frames import HEADER, Kind
from rookery.relay.giver import Giver
from rookery.relay.incoming import Incoming
from rookery.relay.taker import join, take_metadata

LOOPBACK = "127.0.0.1"
SHA, KEY = "ab" * 32, "cd" * 32
TORRENT = bytes(range(256)) * 400  # several frames
MOST = 1 << 20


@pytest.fixture
def giver() -> Iterator[Giver]:
    found = Giver(LOOPBACK, 0)
    yield found
    found.close()


def endpoint(giver: Giver) -> str:
    return join(LOOPBACK, giver.port)


def test_a_torrent_comes_whole(giver: Giver) -> None:
    giver.put_metadata(SHA, Incoming(TORRENT), KEY)
    torrent = Incoming()
    take_metadata(endpoint(giver), SHA, KEY, torrent, MOST, 10)
    assert torrent.whole
    assert torrent.content() == TORRENT


def test_what_is_there_is_passed_on_before_the_rest_has_come(giver: Giver) -> None:
    above, below = Incoming(), Incoming()
    giver.put_metadata(SHA, above, KEY)
    thread = threading.Thread(target=take_metadata, args=(endpoint(giver), SHA, KEY, below, MOST, 30))
    thread.start()
    above.add(0, TORRENT[:1000], len(TORRENT))
    assert below.read(999, 1, 10) == TORRENT[999:1000]
    assert below.total == len(TORRENT)
    assert not below.whole
    above.add(1000, TORRENT[1000:], len(TORRENT))
    thread.join(20)
    assert below.content() == TORRENT


def test_a_child_may_be_there_before_its_parent_knows_anything(giver: Giver) -> None:
    giver.expect(SHA)
    torrent = Incoming()
    thread = threading.Thread(target=take_metadata, args=(endpoint(giver), SHA, KEY, torrent, MOST, 30))
    thread.start()
    giver.put_metadata(SHA, Incoming(TORRENT), KEY)
    thread.join(20)
    assert torrent.content() == TORRENT


def test_another_parent_goes_on_where_the_first_broke_off(giver: Giver) -> None:
    half = Incoming()
    half.add(0, TORRENT[:5000], len(TORRENT))
    half.close()
    giver.put_metadata(SHA, half, KEY)
    torrent = Incoming()
    with pytest.raises(RookeryError) as caught:
        take_metadata(endpoint(giver), SHA, KEY, torrent, MOST, 10)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert len(torrent) == 5000
    giver.put_metadata(SHA, Incoming(TORRENT), KEY)
    take_metadata(endpoint(giver), SHA, KEY, torrent, MOST, 10)
    assert torrent.content() == TORRENT


def test_a_parent_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taker, "SILENT", 0.3)
    with socket.create_server((LOOPBACK, 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                frames.read_hello(connection)
                connection.sendall(HEADER.pack(Kind.METADATA, len(TORRENT), 1 << 16))
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.1)

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(RookeryError, match="too long"):
            take_metadata(join(LOOPBACK, listener.getsockname()[1]), SHA, KEY, Incoming(), MOST, 1)
        assert time.monotonic() - began < 5
        thread.join(10)


def test_closing_what_it_goes_to_ends_the_taking(giver: Giver) -> None:
    giver.put_metadata(SHA, Incoming(), KEY)
    torrent = Incoming()
    torrent.close()
    with pytest.raises(RookeryError, match="nobody waits"):
        take_metadata(endpoint(giver), SHA, KEY, torrent, MOST, 10)


@pytest.mark.parametrize("known", [True, False])
def test_who_does_not_know_the_key_gets_nothing(giver: Giver, known: bool) -> None:
    if known:
        giver.put_metadata(SHA, Incoming(TORRENT), KEY)
    torrent = Incoming()
    with pytest.raises(RookeryError, match="not given here"):
        take_metadata(endpoint(giver), SHA, "00" * 32, torrent, MOST, 10)
    assert len(torrent) == 0


def test_a_closing_parent_lets_its_children_go(giver: Giver) -> None:
    giver.put_metadata(SHA, Incoming(), KEY)
    errors: list[RookeryError] = []

    def take() -> None:
        try:
            take_metadata(endpoint(giver), SHA, KEY, Incoming(), MOST, 60)
        except RookeryError as error:
            errors.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    giver.take_off(SHA)
    thread.join(20)
    assert [error.kind for error in errors] == [ErrorKind.UNAVAILABLE]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(HEADER.pack(Kind.METADATA, MOST + 1, 4) + b"data", id="larger than any torrent"),
        pytest.param(HEADER.pack(Kind.METADATA, 0, 4) + b"data", id="of no size"),
        pytest.param(HEADER.pack(Kind.METADATA, 100, 1 << 20), id="a frame larger than frames are"),
    ],
)
def test_a_parent_that_speaks_nonsense_is_refused(frame: bytes) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                frames.patience(connection, 20, 20)
                frames.read_hello(connection)
                connection.sendall(frame)
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RookeryError) as caught:
            take_metadata(join(LOOPBACK, listener.getsockname()[1]), SHA, KEY, Incoming(), MOST, 10)
        thread.join(20)
    assert caught.value.kind is ErrorKind.INVALID


def test_a_parent_that_says_nothing_is_left() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener, pytest.raises(RookeryError) as caught:
        take_metadata(join(LOOPBACK, listener.getsockname()[1]), SHA, KEY, Incoming(), MOST, 10)
    assert caught.value.kind is ErrorKind.UNAVAILABLE


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20))
def test_parts_may_overlap_and_leave_no_hole(parts: list[tuple[int, int]]) -> None:
    whole = bytes(range(50))
    growing = Incoming()
    for first, end in parts:
        growing.add(first, whole[first:end], len(whole))
        assert growing.content() == whole[: len(growing)]
    growing.add(0, whole, len(whole))
    assert growing.whole
    assert growing.content() == whole
