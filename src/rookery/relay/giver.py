# SPDX-License-Identifier: Apache-2.0
"""Gives pieces to the next links of the chain: a listening socket, and a thread for each child."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.relay import frames
from rookery.relay.book import Book, Growth, from_bitmap
from rookery.relay.frames import HEADER, Kind
from rookery.relay.incoming import Incoming
from rookery.relay.measure import LOOK, PAD, Probe
from rookery.relay.parts import Parts
from rookery.wire import merkle
from rookery.wire.engine import BLOCK

log = logger(__name__)

BEAT = 0.5  # s between two beats when there is nothing to send
STALLED = 15.0  # s without a byte taken after which a child is given up
COMING = 3.0  # s for which a child waits for a shelf that is expected
UNSENT = 128 << 10  # bytes in a socket that have not left: what is in there when a child moves away is lost
MOST_CHILDREN = 512
BACKLOG = 1024
# What is checked at once goes on at once: a hop takes as long as that. The first pieces go out block by block, for the
# last node of a long chain to have something soon; later ones in larger units, since each costs some processor time.
FIRST = 4
UNIT = 1 << 20
SLICE = 256 << 10  # bytes between two looks at the cap, at most
# Two stripes that leave over one link are both needed by everybody below, and can only be passed on at half a link's
# rate: what one is ahead of the other is time lost at the end.
AHEAD, AHEAD_PIECES = 500, 4  # a stripe waits when it is ahead by that part of all pieces, and by so many
FAR = 10  # but not when it is ahead by that part of them: the other one came later, or has stood still
MOVING = 1.0  # s without a byte after which nobody waits for a stripe
PAUSE = 0.005  # s between two looks while one waits
# The part of the time since it began that a stripe waits at most: enough where TCP gives one flow two thirds of a link
# and the other one third. A child that is slow for reasons of its own holds nobody up for longer.
MOST_WAITING = 4


@dataclass
class Shelf:
    """One blob that is given. path: its file, complete or growing; book: which pieces of it may be given. key: 64 hex
    digits that children must show. striped: the children that take one stripe of it."""

    path: Path
    size: int
    piece_size: int
    book: Book
    key: str
    sent: int = 0
    children: int = 0
    striped: set[Child] = field(default_factory=set)
    handle: int = field(default=-1)

    def length(self, piece: int) -> int:
        """Bytes of one piece."""
        return min(self.piece_size, self.size - piece * self.piece_size)

    def is_ahead(self, child: Child, now: float) -> bool:
        """Whether a child shall wait for another one, which takes another stripe, began when it did, and gets on."""
        least, most = max(self.book.pieces // AHEAD, AHEAD_PIECES), self.book.pieces // FAR
        return any(
            other.stripe != child.stripe and least < other.left - child.left <= most and now - other.moved < MOVING
            for other in tuple(self.striped)
        )


@dataclass(eq=False)
class Child:
    """Who is given to over one connection. wanted: by piece, whether it is. parts: which blocks it has of others.
    blocks: it takes pieces in blocks. opening: it has the first block of piece 0. begun: of pieces that went out in
    part, the bytes. pieces: how many went out. stripe: what of the shelf it takes; left: pieces of it that it lacks;
    moved: when (monotonic seconds) some of it went out last. since: when it came; waited: seconds for which its stripe
    waited for another."""

    connection: socket.socket
    wanted: bytearray
    parts: Parts | None
    blocks: bool
    opening: bool = False
    stripe: int = 0
    left: int = 0
    moved: float = 0.0
    since: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    begun: dict[int, int] = field(default_factory=dict)
    pieces: int = 0

    def unit(self) -> int:
        """Bytes of a piece that go out at once: a hop of the chain takes as long as one unit."""
        return BLOCK if self.pieces < FIRST else UNIT

    def start(self, piece: int) -> int:
        """How much of a piece it has that does not come in parts."""
        return BLOCK if self.opening and piece == 0 else 0


class Allowance:
    """A cap of `rate` bytes per second over everything that takes from it (0: none). Thread-safe."""

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def slice(self) -> int:
        """Bytes to send between two looks at the cap: a twentieth of a second, so that many children share a low one
        without any of them waiting for long."""
        return min(SLICE, max(self.rate // 20, len(PAD))) if self.rate else SLICE

    def take(self, count: int) -> None:
        """Wait until `count` bytes may go."""
        if self.rate:
            time.sleep(max(self.spend(count), 0.0))

    def spend(self, count: int) -> float:
        """Count bytes that go; the seconds that their sender must wait for it."""
        with self._lock:
            now = time.monotonic()
            # A twentieth of a second may be sent in one go.
            self._free_at = max(self._free_at, now - 0.05) + (count / self.rate if self.rate else 0.0)
            return self._free_at - now


class Giver:
    """Listens, and gives from shelves. Methods may be called from any thread.

    address, port: to listen on; with `tries` above 1 the following ports are tried when it is taken. rate: cap over
    everything, bytes per second, 0 none.
    """

    def __init__(self, address: str, port: int = frames.RELAY_PORT, rate: int = 0, tries: int = 1) -> None:
        self.allowance = Allowance(rate)
        self._listener = _listen(address, port, tries)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Condition()
        self._shelves: dict[str, Shelf] = {}
        self._expected: set[str] = set()
        self._metadata: dict[str, tuple[Incoming, str]] = {}  # with the key that children must show
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._thread.start()

    def expect(self, sha256: str) -> None:
        """Its shelf comes in a moment: children that are faster wait for it."""
        with self._lock:
            self._expected.add(sha256)

    def put(self, sha256: str, shelf: Shelf) -> None:
        """Give a blob from now on (again: the new shelf counts)."""
        shelf.handle = os.open(shelf.path, os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            former = self._shelves.get(sha256)
            self._shelves[sha256] = shelf
            self._lock.notify_all()
        if former is not None:
            self._clear(former)

    def put_metadata(self, sha256: str, metadata: Incoming, key: str) -> None:
        """Give a blob's torrent, its chunk index under the digest of that, or its opening under the pieces root, from
        now on, as far as it is there; a former one is given no more."""
        with self._lock:
            former = self._metadata.get(sha256)
            self._metadata[sha256] = metadata, key
            self._lock.notify_all()
        if former is not None:
            former[0].close()

    def take_off(self, sha256: str) -> None:
        """Do not give it any more; its children are let go."""
        with self._lock:
            shelf = self._shelves.pop(sha256, None)
            metadata = self._metadata.pop(sha256, None)
            self._expected.discard(sha256)
        if shelf is not None:
            self._clear(shelf)
        if metadata is not None:
            metadata[0].close()

    def shelf(self, sha256: str) -> Shelf | None:
        """What is given of a blob."""
        with self._lock:
            return self._shelves.get(sha256)

    @property
    def children(self) -> int:
        """How many are given to now."""
        with self._lock:
            return sum(shelf.children for shelf in self._shelves.values())

    @property
    def sent(self) -> int:
        """Bytes of blobs that went out."""
        with self._lock:
            opened = sum(metadata.given for metadata, _ in self._metadata.values())
            return opened + sum(shelf.sent for shelf in self._shelves.values())

    def close(self) -> None:
        """Hang up on everybody."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
            connections, shelves = list(self._connections), list(self._shelves.values())
            metadata = [incoming for incoming, _ in self._metadata.values()]
        for incoming in metadata:
            incoming.close()
        for shelf in shelves:
            self._clear(shelf)
        for connection in (self._listener, *connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _clear(self, shelf: Shelf) -> None:
        """Give no more from a shelf. The last child to leave closes its file."""
        shelf.book.close()
        with self._lock:
            if not shelf.children and shelf.handle >= 0:
                os.close(shelf.handle)
                shelf.handle = -1

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closing:
                    return
                time.sleep(0.05)  # out of descriptors, most likely: others will be let go
                continue
            with self._lock:
                full = self._closing or len(self._connections) >= MOST_CHILDREN
                if not full:
                    self._connections.add(connection)
            if full:
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="relay-child", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        shelf: Shelf | None = None
        child: Child | None = None
        try:
            frames.patience(connection, 5.0, STALLED)
            frames.mark(connection)
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT)
            greeting, bitmap = frames.read_hello(connection)
            if greeting.metadata:
                self._give_metadata(connection, greeting)
                return
            shelf = self._admit(greeting)
            wanted, parts = _wanted(shelf, greeting, bitmap), _parts(shelf, greeting, bitmap)
            child = Child(connection, wanted, parts, greeting.blocks, greeting.opening, greeting.stripe, sum(wanted))
            if greeting.stripes > 1:
                shelf.striped.add(child)
            self._give(child, shelf)
        except RookeryError as error:
            with contextlib.suppress(OSError):
                reason = str(error).encode()[:500]
                connection.sendall(HEADER.pack(Kind.BYE, 0, len(reason)) + reason)
        except OSError:
            pass  # the child went away, or takes nothing: it finds somebody else
        finally:
            with self._lock:
                self._connections.discard(connection)
                if shelf is not None:
                    shelf.children -= 1
                    if child is not None:
                        shelf.striped.discard(child)
            connection.close()
            if shelf is not None and shelf.book.closed:
                self._clear(shelf)

    def _give_metadata(self, connection: socket.socket, greeting: frames.Greeting) -> None:
        """Send a torrent, chunk index or opening from where the child wants it, as fast as it comes to us."""
        with self._lock:
            if greeting.sha256 in self._expected:
                self._lock.wait_for(lambda: greeting.sha256 in self._metadata or self._closing, COMING)
            metadata, key = self._metadata.get(greeting.sha256, (None, ""))
        if metadata is None or not hmac.compare_digest(key.encode(), greeting.key.encode()):
            raise _not_given()
        place = greeting.start
        while not (metadata.whole and place >= metadata.total):
            part = metadata.read(place, len(PAD), BEAT)
            if not part and metadata.closed:
                raise _not_given()
            if not part:
                connection.sendall(HEADER.pack(Kind.WAIT, 0, 0))
                continue
            self.allowance.take(len(part))
            connection.sendall(HEADER.pack(Kind.METADATA, metadata.total, len(part)) + part)
            place += len(part)
        with self._lock:
            metadata.given += metadata.payload if place > greeting.start else 0

    def _admit(self, greeting: frames.Greeting) -> Shelf:
        with self._lock:
            if greeting.sha256 in self._expected:
                self._lock.wait_for(lambda: greeting.sha256 in self._shelves or self._closing, COMING)
            shelf = self._shelves.get(greeting.sha256)
            if shelf is None or not hmac.compare_digest(shelf.key.encode(), greeting.key.encode()):
                raise _not_given()
            shelf.children += 1
            return shelf

    def _give(self, child: Child, shelf: Shelf) -> None:
        """Send what is wanted in the order in which it came to us, until the child has it all or goes away."""
        book, cursor, beats = shelf.book, 0, -1
        probe, beaten = Probe(child.connection), 0.0
        while not book.closed:
            news = book.news
            while cursor < len(book):
                piece = book.at(cursor)
                cursor += 1
                if child.wanted[piece]:
                    if child in shelf.striped:
                        beaten = self._keep_step(child, shelf, beaten)
                    self._whole(child, shelf, piece)
                    child.left, child.moved = child.left - 1, time.monotonic()
                    beaten = self._beat(child.connection, book, beaten)
            if not child.left:
                child.connection.shutdown(socket.SHUT_WR)
                return
            for growth in book.growing():
                self._growth(child, shelf, growth)
            if probe.due(time.monotonic()):
                self.allowance.take(len(PAD))
                child.connection.sendall(HEADER.pack(Kind.PAD, 0, len(PAD)) + PAD)
                continue
            if book.beats != beats:
                beats, beaten = book.beats, beaten if beats < 0 else 0.0
            beaten = self._beat(child.connection, book, beaten)
            book.wait(news, LOOK if probe.waits else BEAT)

    def _keep_step(self, child: Child, shelf: Shelf, beaten: float) -> float:
        """Wait while the child is ahead of another stripe; when it was last told that we live."""
        now = time.monotonic()
        while not shelf.book.closed and shelf.is_ahead(child, now) and child.waited * MOST_WAITING < now - child.since:
            time.sleep(PAUSE)
            before, now = now, time.monotonic()
            child.waited += now - before
            beaten = self._beat(child.connection, shelf.book, beaten)
        return beaten

    def _whole(self, child: Child, shelf: Shelf, piece: int) -> None:
        """Send a piece that is whole: the rest of it, the blocks that the child lacks, or all, in units where it is
        large."""
        length, began = shelf.length(piece), child.begun.pop(piece, None)
        unit = child.unit()
        if began is not None:
            self._blocks(child, shelf, piece, began, length, unit)
        elif spans := child.parts.lacking(piece) if child.parts else []:
            self._piece(child.connection, shelf, piece, spans)
        elif not child.blocks or length <= unit:
            self._piece(child.connection, shelf, piece)
        else:
            data = os.pread(shelf.handle, length, piece * shelf.piece_size)
            if len(data) != length:
                raise _cut()
            self._leaves(child, piece, merkle.leaves(data))
            self._blocks(child, shelf, piece, child.start(piece), length, unit)
        child.pieces += 1

    def _growth(self, child: Child, shelf: Shelf, growth: Growth) -> None:
        """Send what is new of a piece that grows."""
        piece = growth.piece
        if not child.blocks or not child.wanted[piece] or (child.parts and child.parts.lacking(piece)):
            return
        if piece not in child.begun:
            self._leaves(child, piece, growth.leaves)
            child.begun[piece] = child.start(piece)
        if growth.ready > child.begun[piece]:
            self._blocks(child, shelf, piece, child.begun[piece], growth.ready, child.unit())
            child.begun[piece] = growth.ready

    def _leaves(self, child: Child, piece: int, leaves: bytes) -> None:
        self.allowance.take(len(leaves))
        child.connection.sendall(HEADER.pack(Kind.LEAVES, piece, len(leaves)) + leaves, socket.MSG_MORE)

    def _blocks(self, child: Child, shelf: Shelf, piece: int, begin: int, end: int, unit: int) -> None:
        """Send bytes `begin` to `end` of a piece. In one frame they would be one unit for everybody further down."""
        for place in range(begin, end, unit):
            count = min(unit, end - place)
            child.connection.sendall(HEADER.pack(Kind.BLOCKS, piece, count), socket.MSG_MORE)
            self.send(child.connection, shelf, piece * shelf.piece_size + place, count)
            child.moved = time.monotonic()

    @staticmethod
    def _beat(connection: socket.socket, book: Book, beaten: float) -> float:
        """Say that we live, and whether our way up stands, unless that was said a moment ago; when it was said."""
        now = time.monotonic()
        if now - beaten < BEAT:
            return beaten
        stands = book.since_beat() < 4 * BEAT
        connection.sendall(HEADER.pack(Kind.BEAT if stands else Kind.WAIT, len(book), 0))
        return now

    def _piece(
        self, connection: socket.socket, shelf: Shelf, piece: int, spans: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Send one piece from the file, or the spans (offset, length) of it that the child lacks."""
        kind = Kind.PART if spans else Kind.PIECE
        spans = spans or [(0, shelf.length(piece))]
        count = sum(length for _, length in spans)
        connection.sendall(HEADER.pack(kind, piece, count), socket.MSG_MORE)
        for offset, length in spans:
            self.send(connection, shelf, piece * shelf.piece_size + offset, length)

    def send(self, connection: socket.socket, shelf: Shelf, place: int, left: int) -> None:
        """Send `left` bytes of the file from `place` on, under the cap."""
        while left:
            count = min(left, self.allowance.slice)
            self.allowance.take(count)
            try:
                sent = os.sendfile(connection.fileno(), shelf.handle, place, count)
            except BlockingIOError:
                raise TimeoutError("the child takes nothing") from None
            if not sent:
                raise _cut()
            place, left = place + sent, left - sent
            shelf.sent += sent


_TCP_NOTSENT_LOWAT = 25  # of Linux' tcp.h; Python 3.11 has no name for it


def _cut() -> OSError:
    return ConnectionResetError("the file ends too early")


def _not_given() -> RookeryError:
    return RookeryError("this blob is not given here", kind=ErrorKind.NOT_FOUND)


def _wanted(shelf: Shelf, greeting: frames.Greeting, bitmap: bytes) -> bytearray:
    there = from_bitmap(bitmap, shelf.book.pieces)
    wanted = bytearray(shelf.book.pieces)
    for piece in range(greeting.stripe, shelf.book.pieces, greeting.stripes):
        wanted[piece] = not there[piece]
    return wanted


def _parts(shelf: Shelf, greeting: frames.Greeting, bitmap: bytes) -> Parts | None:
    if not greeting.parts:
        return None
    pieces = shelf.book.pieces
    return Parts.from_bitmap(bitmap[(pieces + 7) // 8 :], pieces, shelf.piece_size, shelf.length)


def _listen(address: str, port: int, tries: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    reason = "no port is free"
    for number in range(port, min(port + tries, 65536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, number))
            listener.listen(BACKLOG)
        except OSError as error:
            reason = error.strerror or str(error)
            listener.close()
            continue
        return listener
    raise RookeryError(
        f"the relay cannot listen on {address}:{port}: {reason}",
        kind=ErrorKind.CONFLICT,
        hint="stop the program that has the port, or set network.relay_port in rookery.toml",
    )
