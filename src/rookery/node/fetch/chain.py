# SPDX-License-Identifier: Apache-2.0
"""A node's place in the chain: takes pieces from its parents, checks them, and passes them on while they come.

The head says who the parents are (`Place`); when one is lost the next ancestor is taken at once, and the head is asked
again. When the chain gives nothing, `run` says so, and the mesh (loop.py) goes on with what is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rookery.errors import RookeryError
from rookery.log import logger
from rookery.node.fetch.asker import Asker
from rookery.node.fetch.fill import Start
from rookery.node.fetch.loop import cancelled
from rookery.node.fetch.metadata import Metadata
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.opening import Opening
from rookery.node.fetch.partfile import Origin, PartFile
from rookery.node.fetch.stats import Ledger
from rookery.relay import frames
from rookery.relay.book import Book
from rookery.relay.giver import Giver, Shelf
from rookery.relay.taker import GarbageError, Taker, split
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
        self._opening = Opening(blob, part, self._address)
        self._known: tuple[Metainfo, Start] | None = None
        self.book = Book(0)
        self._asker = Asker(source, blob.sha256, self._how_it_stands)
        self._lock = threading.Lock()
        self._file: PartFile | None = None
        self._giver: Giver | None = None
        self._place: Place | None = None
        self._links: dict[tuple[int, int], Taker] = {}
        self._lost: dict[str, float] = {}
        self._bad: set[str] = set()
        self._news: set[str] = set()  # lost since the last ask
        self._hungry = False
        self._measured: set[str] = set()
        self._asked = 0.0

    @property
    def running(self) -> bool:
        """Whether it gives, or can."""
        return self._giver is not None

    @property
    def sent(self) -> int:
        """Bytes of the blob that were given to others."""
        return self._giver.sent if self._giver else 0

    @property
    def links(self) -> int:
        """Connections: parents and children."""
        return len(self._links) + (self._giver.children if self._giver else 0)

    @property
    def first_byte(self) -> float | None:
        """When the first right bytes came (monotonic seconds)."""
        return self._opening.at or (self._file.first_byte if self._file is not None else None)

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

    def enter(self, stop: threading.Event, *, index: bool = False, fresh: bool = False) -> Metainfo:
        """Take a place, and the torrent from a parent, or from the head where that fails; with `index` the chunk index
        from a parent, too. fresh: the file has nothing yet, and nobody else writes into it. Raises RookeryError
        `cancelled`, `corrupt`, `unavailable`, or as the head answers."""
        if index:
            self._metadata.want_index()
        place = self._place = self._enter(opening=fresh and self._opening.wanted)
        if place is not None and fresh:
            self._opening.take(place)
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

    def run(self, tell: OnTransfer, stop: threading.Event) -> bool:
        """Fetch, after `enter`; True when every piece is there, False when the mesh has to go on. Raises RookeryError
        `cancelled`, `no-space`."""
        place = self._place
        if place is None:
            return False
        file = self._file = PartFile(self._part, self._metainfo, self._start, self.book, self._ledger)
        file.opener = self._opening.settle()
        self._put(self._part, place.key)  # children may be there already
        self._asked = time.monotonic()
        self._asker.start()
        told = 0.0
        try:
            while not self.book.complete:
                now = time.monotonic()
                if stop.is_set():
                    raise cancelled(self._blob)
                if file.error is not None:
                    raise file.error
                self._heal(file, now)
                file.advance()
                if now - told >= TELL:
                    told = now
                    tell(file.transfer(self.sent, self.links, now))
                if self._given_up(now - file.last):
                    return False
                file.whole.wait(LOOK)
        finally:
            self._hang_up()
        file.advance()
        self._opening.make(self._metainfo, self._part)
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
            self._opening.make(metainfo, path)
            self._put(path, place.key)
            self._asker.start()

    def _enter(self, *, opening: bool = False) -> Place | None:
        """Listen, and ask for the first place; None when there is no chain. We listen first: the head shall hear of no
        port that is another's. opening: take part in handing it on."""
        everywhere = "::" if ":" in self._address else "0.0.0.0"  # noqa: S104 - children are outside
        giver = Giver(everywhere, self._port, self._rate, TRIES)
        giver.expect(self._blob.sha256)
        self._metadata.expect(giver)
        if opening:
            self._opening.expect(giver)
        self._port = giver.port
        try:
            place = self._asker.once(Ask(self._port, len(self.book), self.book.pieces, opening=opening))
        except RookeryError as error:
            log.info("no chain: %s", error)
            place = None
        lacking = not (self.book.pieces and self.book.complete)
        if place is None or not place.key or (lacking and not place.feeds):
            giver.close()
            return None
        self._metadata.put(giver, place.key)
        self._opening.put(giver, place.key)
        self._giver = giver
        return place

    def pass_on(self, piece: int) -> None:
        """A piece came by the mesh: give it to the children, too. After `run`."""
        assert self._file is not None, "run() opened it"
        self._file.pass_on(piece)

    def spend(self, count: int) -> None:
        """So many bytes were given by other means: they count against the cap, too."""
        if self._giver is not None and count > 0:
            self._giver.allowance.spend(count)

    def digest(self) -> str:
        """SHA-256 of the whole file, as read back from it; empty when some of it did not come by the chain."""
        return self._file.digest() if self._file is not None else ""

    def close(self) -> None:
        """Leave the chain."""
        self._opening.close()
        self._hang_up()
        self._asker.stop()  # else it could say that we are here when we have said that we go
        if self._giver is not None:
            self._asker.leave(Ask(self._giver.port, len(self.book), self.book.pieces, leaving=True))
            self._giver.close()
        if self._file is not None:
            self._file.close()

    def _put(self, path: Path, key: str) -> None:
        assert self._giver is not None, "_enter() comes first"
        shelf = Shelf(path, self._metainfo.size, self._metainfo.piece_size, self.book, key)
        self._giver.put(self._blob.sha256, shelf)

    # -- the links

    def _heal(self, file: PartFile, now: float) -> None:
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
            self._feed(file, feed, place is not None, now)
        if now - file.last > HUNGRY and now - self._asked > 2 * HUNGRY:
            self._ask(now, hungry=True)

    def _feed(self, file: PartFile, feed: Feed, is_new: bool, now: float) -> None:
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
        self._measured.discard(parent)
        key = self._place.key if self._place else ""
        greeting = frames.Greeting(self._blob.sha256, key, *at, opening=file.opener is not None and feed.stripe == 0)
        address = split(parent)[0]
        origin = Origin(address, address == self._address)
        self._links[at] = Taker(
            parent,
            greeting,
            self.book,
            self._metainfo.length,
            partial(file.piece, origin),
            self._start.parts,
            partial(file.part, origin),
            partial(file.leaves, origin),
            partial(file.growth, origin),
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
            steady=sum(link.taken.steady for link in tuple(self._links.values())),
            hungry=hungry,
            lost=lost,
            bad=tuple(sorted(self._bad))[:16],
        )

    def _given_up(self, silent: float) -> bool:
        patience = self._patience
        if silent < patience.quiet or (silent < patience.stuck and self.book.since_beat() < patience.broken):
            return False
        log.warning("the chain gave nothing for %.0f s; going on in the mesh", silent)
        return True
