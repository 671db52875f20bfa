# SPDX-License-Identifier: Apache-2.0
"""A node's place in the chain: takes pieces from its parents, checks them, and passes them on while they come.

The head says who the parents are (`Place`); when one is lost the next ancestor is taken at once, and the head is asked
again. When the chain gives nothing, `run` says so, and the mesh (loop.py) goes on with what is there.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rookery.errors import RookeryError
from rookery.log import logger
from rookery.node.fetch.asker import Asker
from rookery.node.fetch.fill import Start
from rookery.node.fetch.loop import cancelled
from rookery.node.fetch.metadata import Metadata
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.stats import Ledger
from rookery.node.fetch.swarm import disk_error
from rookery.relay import frames
from rookery.relay.book import Book
from rookery.relay.giver import Giver, Shelf
from rookery.relay.taker import GarbageError, OnPart, Taker, split
from rookery.wire.manifest import Blob
from rookery.wire.orders import Source
from rookery.wire.relay import Ask, Feed, Place
from rookery.wire.report import Transfer

log = logger(__name__)

OnTransfer = Callable[[Transfer], None]
LOOK = 0.05  # s between two looks at the links
TELL = 0.5  # s between two calls of on_progress
HUNGRY = 0.5  # s without a piece after which the head is told
AGAIN = 0.5  # s between two asks at least
FORGIVEN = 10.0  # s after which a lost parent may be tried again
ADVANCE = 0.2  # s of digesting between two looks at the links
TRIES = 100  # ports above the usual one


@dataclass(frozen=True)
class Patience:
    """When the chain is given up for the mesh. quiet: seconds without a piece while no way up stands (a dead head or a
    cut network). stuck: the same while it does. broken: how old the last beat of a standing way may be."""

    quiet: float = 6.0
    stuck: float = 60.0
    broken: float = 4.0


class Chain:
    """One blob's place in its chain, from `enter` until `close`; it gives all the time.

    torrent: the blob's, if it is at hand. part: the file that grows. ledger: gets the account of what came. port: to
    give at, the next free one is taken. rate: cap on what is given, bytes per second, 0 none.
    """

    def __init__(
        self,
        blob: Blob,
        torrent: bytes,
        source: Source,
        part: Path,
        ledger: Ledger,
        *,
        port: int = frames.RELAY_PORT,
        rate: int = 0,
        patience: Patience | None = None,
    ) -> None:
        self._blob, self._source, self._part, self._ledger = blob, source, part, ledger
        self._port, self._rate, self._patience = port, rate, patience or Patience()
        self._address = urlsplit(source.head).hostname or ""
        self._metadata = Metadata(blob, source, torrent)
        self._known: tuple[Metainfo, Start] | None = None
        self.book = Book(0)
        self.first_byte: float | None = None  # monotonic seconds
        self._asker = Asker(source, blob.sha256, self._how_it_stands)
        self._lock = threading.Lock()
        self._handle = -1
        self._giver: Giver | None = None
        self._place: Place | None = None
        self._links: dict[tuple[int, int], Taker] = {}
        self._lost: dict[str, float] = {}
        self._bad: set[str] = set()
        self._news: set[str] = set()  # lost since the last ask
        self._hungry = False
        self._measured: set[str] = set()
        self._unwritten: set[int] = set()
        self._error: RookeryError | None = None
        self._done = 0
        self._last = self._asked = 0.0
        self._whole = threading.Event()  # every piece is there
        self._hash, self._hashed = hashlib.sha256(), 0

    @property
    def running(self) -> bool:
        """Whether it gives, or can."""
        return self._giver is not None

    @property
    def sent(self) -> int:
        """Bytes of pieces that were given to others."""
        return self._giver.sent if self._giver else 0

    @property
    def links(self) -> int:
        """Connections: parents and children."""
        return len(self._links) + (self._giver.children if self._giver else 0)

    @property
    def _metainfo(self) -> Metainfo:
        assert self._known is not None, "enter() comes first"
        return self._known[0]

    @property
    def _start(self) -> Start:
        assert self._known is not None, "enter() comes first"
        return self._known[1]

    @property
    def index(self) -> bytes:
        """The blob's chunk index, if a parent gave it."""
        return self._metadata.index

    def enter(self, stop: threading.Event, *, index: bool = False) -> Metainfo:
        """Take a place, and the torrent from a parent, or from the head where that fails; with `index` the chunk index
        from a parent, too. Raises RookeryError `cancelled`, `corrupt`, `unavailable`, or as the head answers."""
        if index:
            self._metadata.want_index()
        place = self._place = self._enter()
        self._metadata.take(place, self._giver, stop)
        if self._known is None:
            metainfo = self._metadata.metainfo
            self.begin(metainfo, Start.empty(metainfo))
        return self._metainfo

    def step_out(self) -> None:
        """Leave the place for a while, to `enter` again: who is busy with its own file holds nobody up."""
        self._place = None
        giver, self._giver = self._giver, None
        if giver is not None:
            self._asker.leave(Ask(giver.port, 0, 0, leaving=True))
            giver.close()

    def begin(self, metainfo: Metainfo, start: Start) -> None:
        """Say what is in the file already."""
        self._known = metainfo, start
        self.book = Book(metainfo.pieces)
        self.book.extend(piece for piece, there in enumerate(start.pieces) if there)
        self._done = start.had + start.filled

    def run(self, tell: OnTransfer, stop: threading.Event) -> bool:
        """Fetch, after `enter`; True when every piece is there, False when the mesh has to go on. Raises RookeryError
        `cancelled`, `no-space`."""
        place = self._place
        if place is None:
            return False
        self._open(place.key)
        self._asked = time.monotonic()
        self._asker.start()
        self._last = self._asked
        told = 0.0
        try:
            while not self.book.complete:
                now = time.monotonic()
                if stop.is_set():
                    raise cancelled(self._blob)
                if self._error is not None:
                    raise self._error
                self._heal(now)
                self._advance()
                if now - told >= TELL:
                    told = now
                    tell(self.transfer(now))
                if self._given_up(now):
                    return False
                self._whole.wait(LOOK)
        finally:
            self._hang_up()
        self._advance()
        self._ask(time.monotonic())  # whoever comes later may take from us
        return True

    def give(self, path: Path) -> None:
        """Give a complete file without fetching: for a node that has it already. Does nothing when there is no
        chain."""
        if self._giver is not None:
            return
        metainfo = self._metadata.metainfo
        self._known = metainfo, Start.empty(metainfo)
        self.book = Book(metainfo.pieces, complete=True)
        place = self._enter()
        if place is not None:
            self._put(path, place.key)
            self._asker.start()

    def _enter(self) -> Place | None:
        """Listen, and ask for the first place; None when there is no chain. We listen first: the head shall hear of no
        port that is another's."""
        everywhere = "::" if ":" in self._address else "0.0.0.0"  # noqa: S104 - children are outside
        giver = Giver(everywhere, self._port, self._rate, TRIES)
        giver.expect(self._blob.sha256)
        self._metadata.expect(giver)
        self._port = giver.port
        try:
            place = self._asker.once(Ask(self._port, len(self.book), self.book.pieces))
        except RookeryError as error:
            log.info("no chain: %s", error)
            place = None
        lacking = not (self.book.pieces and self.book.complete)
        if place is None or not place.key or (lacking and not place.feeds):
            giver.close()
            return None
        self._metadata.put(giver, place.key)
        self._giver = giver
        return place

    def pass_on(self, piece: int) -> None:
        """A piece came by the mesh: give it to the children, too, once it is in the file (the engine tells of a piece
        before it is written)."""
        self._unwritten.add(piece)
        for one in sorted(self._unwritten):
            data = os.pread(self._handle, self._metainfo.length(one), one * self._metainfo.piece_size)
            if self._metainfo.is_right(one, data):
                self._unwritten.discard(one)
                self.book.add(one)

    def transfer(self, now: float) -> Transfer:
        """How it stands."""
        with self._lock:
            return self._ledger.transfer(self._done, self.sent, self.links, now)

    def spend(self, count: int) -> None:
        """So many bytes were given by other means: they count against the cap, too."""
        if self._giver is not None and count > 0:
            self._giver.allowance.spend(count)

    def digest(self) -> str:
        """SHA-256 of the whole file, as read back from it; most of it was read while it came."""
        while self._handle >= 0 and self.book.complete and self._hashed < self._metainfo.pieces:
            self._advance()
        return self._hash.hexdigest() if self._hashed == self._metainfo.pieces else ""

    def close(self) -> None:
        """Leave the chain."""
        self._hang_up()
        self._asker.stop()  # else it could say that we are here when we have said that we go
        if self._giver is not None:
            self._asker.leave(Ask(self._giver.port, len(self.book), self.book.pieces, leaving=True))
            self._giver.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    # -- the file

    def _open(self, key: str) -> None:
        self._handle = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._handle, self._metainfo.size)
        self._put(self._part, key)  # children may be there already

    def _put(self, path: Path, key: str) -> None:
        assert self._giver is not None, "_enter() comes first"
        shelf = Shelf(path, self._metainfo.size, self._metainfo.piece_size, self.book, key)
        self._giver.put(self._blob.sha256, shelf)

    def _advance(self) -> None:
        """Digest what is there without a gap; not all at once, since a file that was filled is there from the start."""
        until = time.monotonic() + ADVANCE
        while time.monotonic() < until and self._hashed < self._metainfo.pieces and self.book.has(self._hashed):
            piece = self._hashed
            length = self._metainfo.length(piece)
            self._hash.update(os.pread(self._handle, length, piece * self._metainfo.piece_size))
            self._hashed += 1

    def _on_piece(self, endpoint: str) -> Callable[[int, memoryview], bool]:
        address = split(endpoint)[0]
        of_head = address == self._address

        def take(piece: int, data: memoryview) -> bool:
            now = time.monotonic()
            right = self._metainfo.is_right(piece, data)
            with self._lock:
                if self.first_byte is None:
                    self.first_byte = now
                self._ledger.block(address, of_head, len(data), now)
                if not right:
                    self._ledger.failures += 1
                    self._ledger.banned.add(address)
            if not right:
                return False
            if self.book.has(piece):
                return True
            self._write(piece, data)
            self._has(piece, now)
            return True

        return take

    def _on_part(self, endpoint: str) -> OnPart:
        address = split(endpoint)[0]
        of_head = address == self._address

        def take(piece: int, data: memoryview, spans: list[tuple[int, int]]) -> bool:
            now = time.monotonic()
            size = self._metainfo.length(piece)
            whole = memoryview(bytearray(os.pread(self._handle, size, piece * self._metainfo.piece_size).ljust(size)))
            at = 0
            for offset, length in spans:
                whole[offset : offset + length] = data[at : at + length]
                at += length
            right = self._metainfo.is_right(piece, whole)
            with self._lock:
                self.first_byte = self.first_byte or now
                self._ledger.block(address, of_head, len(data), now)
                if right:
                    self._ledger.fill(size - len(data))
                else:
                    # Ours or theirs: who knows. It is asked for whole, from the same parent.
                    self._ledger.failures += 1
                    self._start.parts.forget(piece)
            if right and not self.book.has(piece):
                self._write(piece, whole)
                self._has(piece, now)
            return right

        return take

    def _write(self, piece: int, data: memoryview) -> None:
        try:
            os.pwrite(self._handle, data, piece * self._metainfo.piece_size)
        except OSError as error:
            error.filename = error.filename or str(self._part)
            self._error = disk_error(error)
            raise

    def _has(self, piece: int, now: float) -> None:
        if self.book.add(piece):
            with self._lock:
                self._done += self._metainfo.length(piece)
            self._last = now
            if self.book.complete:
                self._whole.set()

    # -- the links

    def _heal(self, now: float) -> None:
        """Take a new place when the head named one, and another parent where one was lost."""
        place = self._asker.answer()
        if place is not None:
            self._place = place
            wanted = {(feed.stripe, feed.stripes) for feed in place.feeds}
            for at in [at for at in self._links if at not in wanted]:
                self._links.pop(at).stop()
        if self._place is None:
            return
        for feed in self._place.feeds:
            self._feed(feed, place is not None, now)
        if now - self._last > HUNGRY and now - self._asked > 2 * HUNGRY:
            self._ask(now, hungry=True)

    def _feed(self, feed: Feed, is_new: bool, now: float) -> None:
        at = feed.stripe, feed.stripes
        link = self._links.get(at)
        if link is not None and not link.running:
            del self._links[at]
            self._note(link, now)
            link = None
        if link is not None:
            if link.taken.rate and link.endpoint not in self._measured:
                # The sooner the head knows of a slow link, the less waits behind it.
                self._measured.add(link.endpoint)
                self._ask(now)
            if not is_new or link.endpoint == feed.parents[0] or self._is_out(feed.parents[0], now):
                return
            self._links.pop(at).stop()
        parent = next((endpoint for endpoint in feed.parents if not self._is_out(endpoint, now)), None)
        if parent is None or all(self.book.has(p) for p in range(feed.stripe, self._metainfo.pieces, feed.stripes)):
            if now - self._asked > AGAIN:
                self._ask(now, hungry=parent is None)
            return
        greeting = frames.Greeting(self._blob.sha256, self._place.key if self._place else "", *at)
        self._links[at] = Taker(
            parent,
            greeting,
            self.book,
            self._metainfo.length,
            self._on_piece(parent),
            self._start.parts,
            self._on_part(parent),
        )

    def _note(self, link: Taker, now: float) -> None:
        """A link ended: remember why."""
        if link.error is None:
            return
        log.info("%s", link.error)
        if isinstance(link.error, GarbageError):
            log.warning("%s; it is not asked any more", link.error)
            self._bad.add(link.endpoint)
        self._lost[link.endpoint] = now
        with self._lock:
            self._news.add(link.endpoint)
        self._ask(now, hungry=True)

    def _is_out(self, endpoint: str, now: float) -> bool:
        return endpoint in self._bad or now - self._lost.get(endpoint, -FORGIVEN) < FORGIVEN

    def _hang_up(self) -> None:
        for link in self._links.values():
            link.stop()
        self._links.clear()

    def _ask(self, now: float, *, hungry: bool = False) -> None:
        self._asked = now
        with self._lock:
            self._hungry = self._hungry or hungry
        self._asker.ask()

    def _how_it_stands(self) -> Ask:
        """What the head is told; called from the asker's thread."""
        with self._lock:
            lost, self._news = tuple(sorted(self._news))[:16], set()
            hungry, self._hungry = self._hungry, False
        return Ask(
            port=self._port,
            pieces=len(self.book),
            total=self.book.pieces,
            parents=tuple(link.endpoint for link in tuple(self._links.values()))[:2],
            rate=sum(link.taken.rate for link in tuple(self._links.values())),
            hungry=hungry,
            lost=lost,
            bad=tuple(sorted(self._bad))[:16],
        )

    def _given_up(self, now: float) -> bool:
        silent = now - self._last
        patience = self._patience
        if silent < patience.quiet or (silent < patience.stuck and self.book.since_beat() < patience.broken):
            return False
        log.warning("the chain gave nothing for %.0f s; going on in the mesh", silent)
        return True
