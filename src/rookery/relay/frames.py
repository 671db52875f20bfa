# SPDX-License-Identifier: Apache-2.0
"""The bytes between two links of the chain.

A child connects to its parent and sends one hello: MAGIC, the length of what follows (4 bytes, big endian), a JSON
object, and a bitmap of the pieces that it has (bit 7 of byte 0 is piece 0, as in BEP 3); perhaps also one of the blocks
of 16 KiB that it has, for pieces that are there in part. From then on only the parent speaks, in frames: a header of 12
bytes (kind, piece, length; each 4 bytes, big endian) and `length` bytes. There is nothing to ask for: what the parent
has, and the child lacks, is sent as soon as it is there.
"""

from __future__ import annotations

import fcntl
import json
import math
import select
import socket
import struct
import termios
import time
from dataclasses import asdict, dataclass
from enum import IntEnum

from rookery import codec
from rookery.errors import ErrorKind, RookeryError

MAGIC = b"RKR1"
HEADER = struct.Struct(">III")
_LENGTH = struct.Struct(">I")
MOST_HELLO = 1 << 20  # bytes: a bitmap of 8 million pieces
LOW_WATER = 64 << 10  # bytes; in the middle of a piece a reader is woken for no less
# Bytes that a parent may have on the way, 34 ms at 1 Gbit/s. Linux starts with some 100 KiB and widens that when more
# comes in one round trip, as in the burst at the start of a connection; a steady flow at the rate of its link never
# does. A relay's acknowledgements stand behind the bytes of its own parent in the queue of its link, 30 ms and more
# after a while: 100 KiB in 30 ms are 27 Mbit/s, whatever the link is, for it and everybody below.
WINDOW = 4 << 20
RELAY_PORT = 8473  # of nodes and of the head
BACKGROUND = 0x04  # DSCP LE, "lower effort" (RFC 8622), as the byte that IP_TOS takes


class Kind(IntEnum):
    """The kinds of frames. PIECE: `piece` and its bytes. BEAT: `piece` is how many pieces the parent has, `length` 0;
    it says that the way up to somebody who has everything stands. WAIT: the same, but that way is broken for now. PAD:
    bytes without meaning, by which the child measures the link. BYE: the parent does not give; the bytes are a reason
    in UTF-8. PART: of `piece`, the blocks that the child did not say it has, one after the other. METADATA: the next
    bytes of the blob's torrent, chunk index or opening, `piece` is how many there are in all. LEAVES: `piece` comes in
    BLOCKS; the bytes are the digests of all its blocks (SHA-256, 32 bytes each; BEP 52), by which each can be checked,
    and passed on, before the piece is whole. BLOCKS: the next blocks of a piece whose LEAVES came on this
    connection."""

    PIECE = 1
    BEAT = 2
    PAD = 3
    BYE = 4
    WAIT = 5
    PART = 6
    METADATA = 7
    LEAVES = 8
    BLOCKS = 9


@dataclass(frozen=True)
class Greeting:
    """The JSON of a hello. sha256: of the blob. key: of the chain (64 hex digits). stripe, stripes: only pieces whose
    index is `stripe` modulo `stripes` are wanted. parts: the bitmap of pieces is followed by one of blocks. blocks:
    pieces may come as LEAVES and BLOCKS. opening: the first block of piece 0 is there, and left out where that piece
    comes in blocks. metadata: no pieces are wanted, but the blob's torrent, the chunk index whose own SHA-256
    `sha256` is, or the opening of which it is the root, from the byte `start` on."""

    sha256: str
    key: str
    stripe: int = 0
    stripes: int = 1
    parts: bool = False
    blocks: bool = False
    opening: bool = False
    metadata: bool = False
    start: int = 0


def hello(greeting: Greeting, bitmap: bytes) -> bytes:
    """The bytes of a hello."""
    text = json.dumps(asdict(greeting)).encode()
    return MAGIC + _LENGTH.pack(len(text) + 1 + len(bitmap)) + text + b"\n" + bitmap


def read_hello(connection: socket.socket) -> tuple[Greeting, bytes]:
    """The hello that comes, and its bitmaps, one after the other. Raises RookeryError `invalid`; OSError as the socket
    does."""
    start = read_exactly(connection, len(MAGIC) + _LENGTH.size)
    (length,) = _LENGTH.unpack(start[len(MAGIC) :])
    if not start.startswith(MAGIC) or length > MOST_HELLO:
        raise RookeryError("this is no hello of the relay", kind=ErrorKind.INVALID)
    text, _, bitmap = read_exactly(connection, length).partition(b"\n")
    greeting = codec.loads(Greeting, text, what="the hello")
    if not 0 <= greeting.stripe < greeting.stripes <= 64 or greeting.start < 0:
        raise RookeryError("the hello names no stripe", kind=ErrorKind.INVALID)
    return greeting, bitmap


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """`count` bytes. Raises OSError, ConnectionError when the other side hangs up."""
    held = bytearray(count)
    fill(connection, memoryview(held))
    return bytes(held)


def fill(connection: socket.socket, room: memoryview, until: float = math.inf) -> None:
    """Receive until `room` is full. Raises as `read_exactly`; TimeoutError when the socket's SO_RCVTIMEO passes
    without a byte, or when it is not full at `until` (monotonic seconds, and up to a SO_RCVTIMEO later)."""
    got = 0
    while got < len(room):
        if time.monotonic() > until:
            raise TimeoutError("it took too long")
        try:
            count = connection.recv_into(room[got:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError("nothing came") from None
        if not count:
            raise ConnectionResetError("the other side hung up")
        got += count


class Reader:
    """Fills large rooms from a connection, and is woken once for each LOW_WATER bytes: woken for each packet, a node
    spends more time in the scheduler than on the bytes. seconds: of silence that are too many."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._patience = connection, seconds * 1000
        self._news = select.poll()
        self._news.register(connection, select.POLLIN)

    def fill(self, room: memoryview) -> None:
        """As `fill`."""
        got = 0
        while got < len(room):
            # One may not be in a receive while the mark is set: what that has taken already does not count for it, and
            # it sleeps on when all that comes is there.
            self._mark(min(len(room) - got, LOW_WATER))
            ready = self._news.poll(self._patience)
            try:
                count = self._connection.recv_into(room[got:], 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if ready:
                    continue  # poll(2): it may say so although nothing is there
                raise TimeoutError("nothing came") from None
            if not count:
                raise ConnectionResetError("the other side hung up")
            got += count
        self._mark(1)

    def _mark(self, count: int) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def queued(connection: socket.socket) -> int:
    """Bytes that came and were not received yet."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))[0])


def unsent(connection: socket.socket) -> int:
    """Bytes that were sent and not acknowledged yet (tcp(7), SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def patience(connection: socket.socket, receive: float, send: float) -> None:
    """Let a blocking socket's calls fail when nothing moves for so many seconds. (Python's own timeout would make each
    call a poll and another one.)"""
    for option, seconds in ((socket.SO_RCVTIMEO, receive), (socket.SO_SNDTIMEO, send)):
        whole = int(seconds)
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, int((seconds - whole) * 1e6)))


def widen(connection: socket.socket) -> None:
    """Let WINDOW bytes be on the way to us, or half of the most in net.ipv4.tcp_rmem (3 MiB as kernels come). SO_RCVBUF
    would be bounded by net.core.rmem_max, 208 KiB, and end the kernel's own widening; a mark makes room for itself."""
    for count in (WINDOW, 1):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def mark(connection: socket.socket) -> None:
    """Mark what goes out as background traffic, and send small frames at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, BACKGROUND)
    else:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, BACKGROUND)
