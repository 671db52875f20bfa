# SPDX-License-Identifier: Apache-2.0
"""Takes pieces from one parent: one connection, until it ends."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from rookery.errors import ErrorKind, RookeryError
from rookery.relay import frames
from rookery.relay.book import Book, Growth
from rookery.relay.frames import HEADER, Greeting, Kind
from rookery.relay.incoming import Incoming
from rookery.relay.measure import Meter
from rookery.relay.parts import Parts
from rookery.wire.engine import BLOCK

CONNECT = 2.0  # s
SILENT = 2.0  # s without a frame after which a parent is lost: it says something twice a second
MOST_GROWING = 8  # pieces that one parent gives in blocks at the same time


_UNDERSTOOD = (Kind.PIECE, Kind.PART, Kind.PAD, Kind.BYE, Kind.LEAVES, Kind.BLOCKS)

OnPiece = Callable[[int, memoryview], bool]
OnPart = Callable[[int, memoryview, list[tuple[int, int]]], bool]
OnLeaves = Callable[[int, bytes], bool]
OnGrowth = Callable[[Growth, memoryview], bool]


class GarbageError(RookeryError):
    """The parent gave a piece with a wrong digest."""


@dataclass
class Taken:
    """What a connection came to so far. pieces, size: taken, size in bytes. rate, steady: of the link, as of Meter,
    bytes per second. last: when the last piece came (monotonic seconds)."""

    pieces: int = 0
    size: int = 0
    rate: float = 0.0
    steady: float = 0.0
    last: float = 0.0


class Taker:
    """One connection to a parent at `endpoint` (`address:port`), in a thread of its own.

    on_piece(piece, data) is called for each piece from that thread; False says that its digest is wrong, and ends the
    connection. length: bytes of a piece. parts: of which pieces some blocks are there; on_part(piece, data, spans) is
    called when the others came, and False ends the connection without blame: our own blocks may be the wrong ones.
    on_leaves(piece, leaves) is called for a piece that comes in blocks, then on_growth(growth, data) with what comes
    behind the first `ready` bytes; False of either says that it is wrong. When it has ended, `error` says why (None:
    the parent has no more to give).
    """

    def __init__(
        self,
        endpoint: str,
        greeting: Greeting,
        book: Book,
        length: Callable[[int], int],
        on_piece: OnPiece,
        parts: Parts | None = None,
        on_part: OnPart | None = None,
        on_leaves: OnLeaves | None = None,
        on_growth: OnGrowth | None = None,
    ) -> None:
        self.endpoint, self.taken = endpoint, Taken()
        self.error: RookeryError | None = None
        self._greeting, self._book, self._length, self._on_piece = greeting, book, length, on_piece
        self._parts = parts.copy() if parts and on_part else None
        self._on_part, self._on_leaves, self._on_growth = on_part, on_leaves, on_growth
        self._growing: dict[int, Growth] = {}
        self._connection: socket.socket | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="relay-parent", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Hang up, and wait for the piece at hand."""
        self._stopping = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._connection = _connect(self.endpoint)
            with self._connection as connection:
                if not self._stopping:
                    self._take(connection)
        except RookeryError as error:
            self.error = error
        except OSError as error:
            self.error = RookeryError(
                f"{self.endpoint} does not give any more: {error.strerror or error}", kind=ErrorKind.UNAVAILABLE
            )
        finally:
            for piece in self._growing:
                self._book.abandon(piece)

    def _take(self, connection: socket.socket) -> None:
        frames.patience(connection, SILENT, CONNECT)
        frames.mark(connection)
        connection.sendall(self._hello())
        reader = frames.Reader(connection, SILENT)
        room = memoryview(bytearray(max(self._length(0), 1 << 16)))
        head = memoryview(bytearray(HEADER.size))
        meter = Meter(connection)
        while not self._stopping:
            try:
                frames.fill(connection, head)
            except ConnectionResetError:
                if self._has_all():
                    return
                raise
            kind, piece, length = HEADER.unpack(head)
            if kind in (Kind.BEAT, Kind.WAIT):
                if kind == Kind.BEAT:
                    self._book.beat()
                continue
            if length > len(room) or kind not in _UNDERSTOOD:
                raise RookeryError(f"{self.endpoint} does not speak the relay's language", kind=ErrorKind.INVALID)
            reader.fill(room[:length])
            now = time.monotonic()
            if kind == Kind.BYE:
                raise RookeryError(bytes(room[:length]).decode(errors="replace"), kind=ErrorKind.UNAVAILABLE)
            meter.add(length, now)
            self.taken.rate, self.taken.steady = meter.rate, meter.steady
            if kind == Kind.PIECE:
                self._piece(piece, room[:length], now)
            elif kind == Kind.LEAVES:
                self._leaves(piece, bytes(room[:length]))
            elif kind == Kind.BLOCKS:
                self._blocks(piece, room[:length], now)
            elif kind == Kind.PART and not self._part(piece, room[:length], now):
                return

    def _hello(self) -> bytes:
        bitmap = self._book.bitmap()
        greeting = replace(self._greeting, blocks=self._on_growth is not None)
        if self._parts is not None:
            blocks = self._parts.bitmap()
            if len(bitmap) + len(blocks) < frames.MOST_HELLO // 2:
                return frames.hello(replace(greeting, parts=True), bitmap + blocks)
            self._parts = None  # a file of a hundred gigabytes: pieces travel whole
        return frames.hello(greeting, bitmap)

    def _piece(self, piece: int, data: memoryview, now: float) -> None:
        if piece >= self._book.pieces or len(data) != self._length(piece):
            raise GarbageError(f"{self.endpoint} gave a piece that does not exist", kind=ErrorKind.CORRUPT)
        if not self._on_piece(piece, data):
            raise GarbageError(f"{self.endpoint} gave piece {piece} with a wrong digest", kind=ErrorKind.CORRUPT)
        self.taken.pieces += 1
        self.taken.size += len(data)
        self.taken.last = now

    def _leaves(self, piece: int, leaves: bytes) -> None:
        if self._on_leaves is None or piece >= self._book.pieces or len(self._growing) >= MOST_GROWING:
            raise RookeryError(f"{self.endpoint} does not speak the relay's language", kind=ErrorKind.INVALID)
        if not self._on_leaves(piece, leaves):
            raise GarbageError(f"{self.endpoint} gave wrong digests of piece {piece}", kind=ErrorKind.CORRUPT)
        before = BLOCK if self._greeting.opening and piece == 0 else 0
        growth = self._growing[piece] = Growth(piece, leaves, before, before)
        if before:
            self._book.grow(growth)

    def _blocks(self, piece: int, data: memoryview, now: float) -> None:
        growth = self._growing.get(piece)
        if growth is None or self._on_growth is None or not data:
            raise RookeryError(f"{self.endpoint} does not speak the relay's language", kind=ErrorKind.INVALID)
        if not self._on_growth(growth, data):
            raise GarbageError(f"{self.endpoint} gave wrong blocks of piece {piece}", kind=ErrorKind.CORRUPT)
        growth = self._growing[piece] = replace(growth, ready=growth.ready + len(data))
        self.taken.size += len(data)
        self.taken.last = now
        if growth.ready == self._length(piece):
            del self._growing[piece]
            self.taken.pieces += 1

    def _part(self, piece: int, data: memoryview, now: float) -> bool:
        spans = self._parts.lacking(piece) if self._parts and piece < self._book.pieces else []
        if not spans or self._on_part is None or len(data) != sum(length for _, length in spans):
            raise GarbageError(f"{self.endpoint} gave a part that was not asked for", kind=ErrorKind.CORRUPT)
        self.taken.pieces += 1
        self.taken.size += len(data)
        self.taken.last = now
        return self._on_part(piece, data, spans)

    def _has_all(self) -> bool:
        step, first = self._greeting.stripes, self._greeting.stripe
        return all(self._book.has(piece) for piece in range(first, self._book.pieces, step))


def take_metadata(endpoint: str, sha256: str, key: str, to: Incoming, most: int, seconds: float) -> None:
    """Take a blob's torrent (`sha256` is the blob's), a chunk index (its own) or an opening (the pieces root) from a
    parent into `to`, from where that stands, for `seconds` at most.

    Nothing of it is believed here; only that it has no more than `most` bytes. Raises RookeryError `unavailable` when
    the parent breaks off, or as it says why it does not give.
    """
    until = time.monotonic() + seconds
    room = memoryview(bytearray(1 << 16))
    head = memoryview(bytearray(HEADER.size))
    try:
        with _connect(endpoint) as connection:
            frames.patience(connection, SILENT, CONNECT)
            frames.mark(connection)
            connection.sendall(frames.hello(Greeting(sha256, key, metadata=True, start=len(to)), b""))
            while not to.whole:
                if to.closed:
                    raise RookeryError("nobody waits for it any more", kind=ErrorKind.UNAVAILABLE)
                frames.fill(connection, head, until)
                kind, total, length = HEADER.unpack(head)
                if length > len(room) or (kind == Kind.METADATA and not 0 < total <= most):
                    raise RookeryError(f"{endpoint} does not speak the relay's language", kind=ErrorKind.INVALID)
                frames.fill(connection, room[:length], until)
                if kind == Kind.BYE:
                    raise RookeryError(bytes(room[:length]).decode(errors="replace"), kind=ErrorKind.UNAVAILABLE)
                if kind == Kind.METADATA:
                    to.add(len(to), room[:length], total)
    except OSError as error:
        raise RookeryError(
            f"{endpoint} gives no metadata: {error.strerror or error}", kind=ErrorKind.UNAVAILABLE
        ) from error


def split(endpoint: str) -> tuple[str, int]:
    """Address and port of `address:port` or `[address]:port`. Raises RookeryError `invalid`."""
    host, _, port = endpoint.rpartition(":")
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise RookeryError(f"{endpoint[:80]!r} is not address:port", kind=ErrorKind.INVALID) from None


def join(address: str, port: int) -> str:
    """`address:port`, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _connect(endpoint: str) -> socket.socket:
    connection = socket.create_connection(split(endpoint), timeout=CONNECT)
    connection.settimeout(None)
    frames.widen(connection)
    return connection
