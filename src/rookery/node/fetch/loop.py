# SPDX-License-Identifier: Apache-2.0
"""The fetch loop: looks at the swarm, keeps the account, and does what policy says."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable

from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch import policy
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.policy import Limits, Situation, Why
from rookery.node.fetch.ranges import Delivery, RangeWorker
from rookery.node.fetch.stats import Ledger
from rookery.node.fetch.swarm import Look, News, Swarm, disk_error
from rookery.wire import routes
from rookery.wire.manifest import Blob
from rookery.wire.orders import Source
from rookery.wire.report import Transfer

log = logger(__name__)

OnTransfer = Callable[[Transfer], None]
LOOK = 0.1  # s between two looks at the swarm
STEER = 0.25  # s between two decisions
TELL = 0.5  # s between two calls of on_progress
TRY_HEAD = 2.0  # s between two tries to reach a head's seeder that is not connected
HELD = 64 << 20  # bytes that came by HTTP and are not checked yet, at most
MOST_TRIES, MOST_TRIES_OF_LAST = 3, 2  # of putting a piece in
MOST_CONFUSIONS = 20
SLOWEST = 2e6  # bytes/s at which a disk still writes and reads
UNTOLD = 5.0  # s after the end of a look after which its notice is not waited for any more
REFUSED = 10.0  # s without anything after which the head's "no" is taken for an answer
_FINAL = (ErrorKind.UNAUTHORIZED, ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND, ErrorKind.INVALID)


def cancelled(blob: Blob) -> RookeryError:
    """The error of a fetch that was told to stop."""
    return RookeryError(f"fetching {blob.name} was cancelled", kind=ErrorKind.CANCELLED)


class Loop:
    """Looks at the swarm, keeps the account, and acts on what policy says, until every piece is there.

    on_whole is told each piece that gets whole; given when the chain brought the first of them.
    """

    def __init__(
        self,
        swarm: Swarm,
        metainfo: Metainfo,
        blob: Blob,
        source: Source,
        ledger: Ledger,
        limits: Limits,
        on_whole: Callable[[int], object] | None = None,
    ) -> None:
        self._swarm, self._metainfo, self._blob = swarm, metainfo, blob
        self._ledger, self._limits, self._on_whole = ledger, limits, on_whole
        self._dice = random.Random()  # noqa: S311 - jitter
        now = time.monotonic()
        self._began = self._last_block = self._last_whole = self._last_progress = now
        self._last_any_whole = now  # whoever it came from
        self._delivered: set[int] = set()  # pieces that ever came right by HTTP
        self._gave = False
        self._missing = set(range(metainfo.pieces))
        self._checked = False  # False: a look through the file is under way
        self._seen: tuple[Look, float] | None = None  # how the look stood when it last moved, and when that was
        self._told_checked = False
        self._found: set[int] = set()  # pieces that were there before anything was fetched
        self._confusions = 0
        self._done = 0
        self._own: frozenset[int] = frozenset()
        self._others: frozenset[str] = frozenset()
        self._orphans: dict[int, float] = {}
        self._swarm_bytes: deque[tuple[float, int]] = deque([(now, 0)])
        self._peers = 0
        self._head_tried = now
        self._tracker_failures, self._announce_at, self._tracker_error = 0, 0.0, ""
        self._why = Why.NOT_YET
        self._http_error: RookeryError | None = None
        # Shared with the HTTP thread: what to ask for, what was asked, what came.
        self._lock = threading.Lock()
        self._wanted: tuple[int, ...] = ()
        self._got: set[int] = set()  # of the wanted ones: what got whole since that was decided
        self._busy: set[int] = set()
        self._asked: set[int] = set()  # those of the busy ones that are on their way; the others were put in
        self._rest_until: dict[int, tuple[float, int]] = {}
        self._put_in: dict[int, tuple[float, int]] = {}  # by piece: when it was last put in, and how often
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        url = routes.blob_url(source.head, blob.sha256)
        self._worker = RangeWorker(url, source.credential, metainfo, self._next_run, self._deliver)

    def run(self, tell: OnTransfer, stop: threading.Event) -> None:
        """Raises RookeryError as `fetch` says."""
        self._worker.start()
        steered = told = 0.0
        try:
            while True:
                news = self._swarm.look(LOOK)
                now = time.monotonic()
                finished = self._take(news, now)
                self._take_deliveries(now)
                if now - told >= TELL or finished:
                    told = now
                    tell(self._ledger.transfer(self._done, self._swarm.counts().sent, self._peers, now))
                if finished:
                    return
                if stop.is_set():
                    raise cancelled(self._blob)
                if self._checked and now - steered >= STEER:
                    steered = now
                    self._steer(now)
                self._decide(now)
        finally:
            self._worker.stop()

    # -- what happened

    def _take(self, news: News, now: float) -> bool:
        if news.error is not None:
            raise disk_error(news.error)
        self.account(news)
        self._found.update(news.found)
        if news.confused:
            self._look_again(now)  # a notice of the same moment that a look has ended is of an earlier one
        elif not self._checked:
            self._told_checked = self._told_checked or news.checked
            self._watch_look(now)
        if news.given:
            if not self._gave:
                self._gave, self._last_whole = True, now
            self._last_block = self._last_progress = now
        for piece in news.whole:
            self._whole(piece, now)
        for piece in news.failed:
            self._failed(piece, now)
        for address in news.banned:
            if address not in self._ledger.banned:
                log.warning("%s gave pieces with a wrong digest and is not asked any more", address)
            self._ledger.banned.add(address)
        if news.tracker_ok:
            self._tracker_failures, self._announce_at, self._tracker_error = 0, 0.0, ""
        elif news.tracker_error:
            self._tracker_failures += 1
            self._tracker_error = news.tracker_error
            self._announce_at = now + policy.retry_delay(self._tracker_failures, self._dice.random())
        return self._checked and not self._missing

    def account(self, news: News) -> None:
        """Write down who gave what; also called for what comes after the last piece got whole."""
        now = time.monotonic()
        for (address, of_head), size in news.given.items():
            self._ledger.block(address, of_head, size, now)

    def _look_again(self, now: float) -> None:
        """A peer's garbage can leave a piece whose v1 digest is right and whose v2 digest is not (or the other way), as
        libtorrent sees it, and it stops the torrent then. What is on disk decides."""
        self._confusions += 1
        if self._confusions > MOST_CONFUSIONS:
            raise RookeryError(
                f"the pieces of {self._blob.name} came out inconsistent {self._confusions} times",
                kind=ErrorKind.CORRUPT,
                hint="publish the version again; if it happens again, test this machine's memory",
            )
        log.warning("the swarm engine lost track of which pieces are right; looking through the file again")
        self._missing, self._done = set(range(self._metainfo.pieces)), 0
        self._seen, self._told_checked = None, False
        self._last_progress = now
        with self._lock:
            # From here on nothing is asked, and what is on its way is dropped when it comes: the engine does not bear
            # pieces that are put in while it looks.
            self._checked = False
            self._wanted = ()
            self._busy.clear()
            self._asked.clear()
            self._put_in.clear()
            self._swarm.recheck()

    def _watch_look(self, now: float) -> None:
        """See how far the look has come. The engine's notice of its end alone is not believed: it can get lost, or be
        that of an earlier look. A look that does not move is given up, and the fetch with it."""
        look = self._swarm.under_look()
        if self._seen is None or self._seen[0] != look:
            self._seen = (look, now)
        silent = now - self._seen[1]
        if not look.under_way:
            if self._told_checked or silent >= UNTOLD:
                self._start(now)
            return
        if silent >= self._limits.look + min(self._metainfo.size, HELD) / SLOWEST:
            raise RookeryError(
                f"looking through what is there of {self._blob.name} has not moved for {silent:.0f} s",
                kind=ErrorKind.UNAVAILABLE,
                details=f"state {look.state}, {look.millionths / 10_000:.1f} % looked through",
                hint="fetch again: what came so far is kept; if it happens again, test this machine's disk",
            )

    def _start(self, now: float) -> None:
        """The file has been looked through: the clock of the policy starts here, not while a disk was read."""
        first = not self._confusions
        self._swarm.end_look()
        with self._lock:
            self._checked = True
        for piece, right in enumerate(self._swarm.have()):
            if right and piece in self._missing:
                self._missing.discard(piece)
                self._done += self._metainfo.length(piece)
        if first and self._on_whole is None:
            # Not what is there by now: the engine goes on while it is being asked.
            self._ledger.had = sum(self._metainfo.length(piece) for piece in self._found)
        self._began = self._last_block = self._last_whole = self._last_progress = self._last_any_whole = now

    def _whole(self, piece: int, now: float) -> None:
        if not self._checked:
            return  # counted as a whole in _start
        with self._lock:
            self._rest_until.pop(piece, None)
            self._put_in.pop(piece, None)
            by_http = piece in self._busy
            self._got.add(piece)
            self._busy.discard(piece)
            self._asked.discard(piece)
        if piece in self._missing:
            self._missing.discard(piece)
            self._done += self._metainfo.length(piece)
            if self._on_whole is not None:
                self._on_whole(piece)
        self._orphans.pop(piece, None)
        self._last_progress = self._last_any_whole = now
        if not by_http:
            self._last_whole = now

    def _failed(self, piece: int, now: float) -> None:
        self._ledger.failures += 1
        with self._lock:
            self._busy.discard(piece)
            if self._put_in.get(piece, (0.0, 0))[1] > 1:
                self._rest(piece, now)

    def _take_deliveries(self, now: float) -> None:
        while True:
            try:
                delivery = self._deliveries.get_nowait()
            except queue.Empty:
                return
            if delivery.error is not None:
                if str(delivery.error) != str(self._http_error):
                    log.warning("fetching by HTTP: %s", delivery.error)
                self._http_error = delivery.error
                continue
            size = self._metainfo.length(delivery.piece)
            self._ledger.http(size, now)
            if delivery.data is None:
                log.warning("piece %d came from the head by HTTP with a wrong digest", delivery.piece)
                self._ledger.failures += 1
                self._ledger.failures_http += 1
            else:
                self._http_error = None
                if delivery.piece not in self._delivered:  # the same again is no progress
                    self._delivered.add(delivery.piece)
                    self._last_progress = now

    # -- what to do

    def _steer(self, now: float) -> None:
        peers = self._swarm.peers()
        self._peers = len(peers)
        if not any(peer.of_head for peer in peers) and now - self._head_tried >= TRY_HEAD:
            self._head_tried = now
            self._swarm.connect_head()
        if self._announce_at and now >= self._announce_at:
            self._announce_at = 0.0
            self._swarm.announce()
        others = frozenset(peer.address for peer in peers if not peer.of_head and not peer.complete)
        local = next((peer.local for peer in peers), "")
        if peers and (not self._own or others != self._others):
            self._others = others
            self._own = policy.own_pieces(local, others, self._metainfo.pieces)
            self._swarm.prefer(self._own)
        availability = self._swarm.availability() if not any(peer.complete for peer in peers) else []
        self._orphans = {
            piece: self._orphans.get(piece, now)
            for piece in self._missing
            if piece < len(availability) and availability[piece] == 0
        }
        given = self._ledger.head_swarm + self._ledger.from_peers
        self._swarm_bytes.append((now, given))
        while self._swarm_bytes[0][0] < now - self._limits.quiet:
            self._swarm_bytes.popleft()

    def _unstick(self, now: float) -> bool:
        """A right piece that was put in and is neither whole nor refused: libtorrent waits there for block digests from
        a peer that it has banned meanwhile. Put it in again, over what is there; look again if even that does nothing
        (True then). On a slow machine good pieces wait long as well: while any piece gets whole, none is stuck. When
        all that is missing was put in, no other can get whole, and there is nothing to do but to try again at once.
        """
        with self._lock:
            last = self._missing <= self._busy - self._asked
            patience = self._limits.put_last if last else self._limits.put
            if now - self._last_any_whole < patience:
                return False
            stuck = [
                piece
                for piece, (when, _) in self._put_in.items()
                if now - when >= patience and piece in self._busy and piece not in self._asked
            ]
            for piece in stuck:
                self._busy.discard(piece)
                if not last:
                    self._rest(piece, now)
            most = MOST_TRIES_OF_LAST if last else MOST_TRIES
            hopeless = any(self._put_in[piece][1] >= most for piece in stuck)
        if hopeless:
            self._look_again(now)
        return hopeless

    def _rest(self, piece: int, now: float) -> None:
        """Do not ask for a piece by HTTP for a while, longer each time. The lock is held."""
        _, times = self._rest_until.get(piece, (0.0, 0))
        self._rest_until[piece] = (now + policy.rest(times), times + 1)

    def _decide(self, now: float) -> None:
        if not self._checked:
            return  # _watch_look gives up then
        self._give_up(now)
        if self._unstick(now):
            return
        first_at, first = self._swarm_bytes[0]
        situation = Situation(
            elapsed=now - self._began,
            gave=self._gave,
            quiet=now - self._last_block,
            stuck=now - self._last_whole if self._gave else 0.0,
            rate=(self._swarm_bytes[-1][1] - first) / max(now - first_at, 0.1),
            orphans={piece: now - since for piece, since in self._orphans.items()},
        )
        with self._lock:
            resting = {piece for piece, (until, _) in self._rest_until.items() if until > now}
        candidates = sorted(self._missing - resting)
        why, wanted = policy.choose(situation, candidates, self._own, self._limits)
        if why is not self._why:
            log.info("HTTP: %s", why.value)
            self._why = why
        with self._lock:
            self._wanted = wanted
            self._got.clear()

    def _give_up(self, now: float) -> None:
        silent = now - self._last_progress
        final = self._http_error is not None and self._http_error.kind in _FINAL and silent >= REFUSED
        if silent < self._limits.give_up and not final:
            return
        if final and self._http_error is not None:
            raise self._http_error
        lines = [f"{len(self._missing)} of {self._metainfo.pieces} pieces are missing; {self._peers} peers connected"]
        lines += [f"tracker: {self._tracker_error}"] if self._tracker_error else []
        lines += [f"HTTP: {self._http_error}"] if self._http_error else []
        if self._ledger.failures_http:
            raise RookeryError(
                f"the head's own copy of {self._blob.name} is bad, and nobody else has what is missing",
                kind=ErrorKind.CORRUPT,
                details="\n".join(lines),
                hint="publish the version again",
            )
        raise RookeryError(
            f"nothing of {self._blob.name} came for {silent:.0f} s",
            kind=ErrorKind.UNAVAILABLE,
            details="\n".join(lines),
            hint="is the head up, and are its HTTP and swarm ports reachable from here?",
        )

    # -- called from the HTTP thread

    def _next_run(self) -> range:
        most = max(self._limits.range // self._metainfo.piece_size, 1)
        with self._lock:
            if not self._checked or len(self._busy) * self._metainfo.piece_size >= HELD:
                return range(0)
            # What is wanted was decided a moment ago: a piece that came wrong since then rests all the same.
            now = time.monotonic()
            resting = {piece for piece, (until, _) in self._rest_until.items() if until > now}
            run = policy.first_run(self._wanted, self._busy | self._got | resting, most)
            self._busy.update(run)
            self._asked = set(run)
            return run

    def _deliver(self, delivery: Delivery) -> None:
        # add_piece only leaves a word for the engine: under the lock, none comes between a look's beginning and end.
        with self._lock:
            if delivery.error is not None:
                self._busy -= self._asked  # what was put in is still being looked at
                self._asked.clear()
            elif delivery.piece in self._asked:
                self._asked.discard(delivery.piece)
                now = time.monotonic()
                if delivery.data is None:
                    self._busy.discard(delivery.piece)
                    self._rest(delivery.piece, now)
                else:
                    _, times = self._put_in.get(delivery.piece, (0.0, 0))
                    self._put_in[delivery.piece] = (now, times + 1)
                    self._swarm.add_piece(delivery.piece, delivery.data, overwrite=times > 0)
            # Else it came from the swarm meanwhile, or a look has begun since it was asked for: it is dropped.
        self._deliveries.put(delivery)
