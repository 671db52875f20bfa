# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.relay import frames
from rookery.relay.frames import Greeting, hello, read_exactly, read_hello

GREETING = Greeting("ab" * 32, "cd" * 32, 1, 2)


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        frames.patience(far, 5.0, 5.0)
        yield near, far


def heard(data: bytes) -> tuple[Greeting, bytes]:
    """What is read from a connection that brings these bytes and ends."""
    near, far = socket.socketpair()
    with near, far:
        near.sendall(data)
        near.shutdown(socket.SHUT_WR)
        return read_hello(far)


def framed(text: bytes, bitmap: bytes = b"") -> bytes:
    return b"RKR1" + struct.pack(">I", len(text) + 1 + len(bitmap)) + text + b"\n" + bitmap


@given(st.binary(max_size=300), st.integers(0, 63))
def test_a_hello_comes_back_as_it_was(bitmap: bytes, stripe: int) -> None:
    # A bitmap may hold line ends: the first one ends the JSON, and no other counts.
    greeting = Greeting("ab" * 32, "cd" * 32, stripe, 64)
    assert heard(hello(greeting, bitmap)) == (greeting, bitmap)
    assert heard(hello(greeting, bitmap + b"\n" + bitmap)) == (greeting, bitmap + b"\n" + bitmap)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"rkr1" + hello(GREETING, b"")[4:],
        b"RKR1" + struct.pack(">I", frames.MOST_HELLO + 1),
        b"RKR1" + b"\xff\xff\xff\xff",
        framed(b"{}"),
        framed(b"not json"),
        framed(b""),
        framed(b"\xff\xfe"),
        framed(b'{"sha256": "a", "key": "b", "stripe": 0, "stripes": 1, "more": 1}'),
        framed(b'{"sha256": 1, "key": "b"}'),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(RookeryError) as caught:
        heard(data)
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize(("stripe", "stripes"), [(-1, 2), (2, 2), (0, 0), (0, 65), (5, 1)])
def test_a_stripe_that_there_is_not(stripe: int, stripes: int) -> None:
    text = json.dumps({"sha256": "a", "key": "b", "stripe": stripe, "stripes": stripes}).encode()
    with pytest.raises(RookeryError, match="stripe"):
        heard(framed(text))


@pytest.mark.parametrize("cut", [0, 3, 7, 8, 40])
def test_a_hello_that_breaks_off(cut: int) -> None:
    with pytest.raises(ConnectionResetError):
        heard(hello(GREETING, b"1234")[:cut])


def test_a_length_that_is_too_long_is_refused_before_it_comes(wire: tuple[socket.socket, socket.socket]) -> None:
    near, far = wire
    near.sendall(b"RKR1" + struct.pack(">I", frames.MOST_HELLO + 1))  # and nothing more: nobody waits for it
    began = time.monotonic()
    with pytest.raises(RookeryError):
        read_hello(far)
    assert time.monotonic() - began < 2


def test_many_small_parts_make_one_whole(wire: tuple[socket.socket, socket.socket]) -> None:
    near, far = wire
    data = bytes(range(256)) * 1000

    def drip() -> None:
        for at in range(0, len(data), 9999):
            near.sendall(data[at : at + 9999])
            time.sleep(0.001)

    thread = threading.Thread(target=drip)
    thread.start()
    assert read_exactly(far, len(data)) == data
    thread.join()


def test_silence_ends_a_read_and_drops_do_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        frames.patience(far, 0.5, 0.5)

        def drip() -> None:
            for _ in range(8):
                time.sleep(0.15)
                near.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        assert read_exactly(far, 8) == b"x" * 8  # 1.2 s in all, but never 0.5 s of silence
        thread.join()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            read_exactly(far, 1 << 20)
        assert 0.4 < time.monotonic() - began < 4


def test_what_goes_out_is_marked_as_background() -> None:
    with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
        frames.mark(four)
        frames.mark(six)
        assert four.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x04  # DSCP 1: lower effort
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 0x04
        assert four.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_parent_may_have_a_window_on_the_way_before_the_kernel_widens_it() -> None:
    # Linux' own start is some 100 KiB, which a relay whose acknowledgements are late never outgrows.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = socket.create_connection(listener.getsockname())
        parent, _ = listener.accept()
        with child, parent:
            frames.widen(child)
            assert child.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
            parent.setblocking(False)
            until = time.monotonic() + 10
            while frames.queued(child) < frames.WINDOW // 2:
                assert time.monotonic() < until, f"{frames.queued(child)} bytes came"
                try:
                    parent.send(frames.HEADER.pack(0, 0, 0) * 4096)
                except BlockingIOError:
                    time.sleep(0.01)
