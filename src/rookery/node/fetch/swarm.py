# SPDX-License-Identifier: Apache-2.0
"""A node's membership in one swarm: libtorrent, thinly. It decides nothing; it translates."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch.metainfo import Metainfo
from rookery.wire import engine, routes
from rookery.wire.orders import Source

log = logger(__name__)

Endpoint = tuple[str, int]
OWN, OTHERS = 7, 4  # piece priorities; 4 is libtorrent's default
FLUSH_SECONDS = 120.0
INCONSISTENT = 217  # libtorrent's errors::torrent_inconsistent_hashes
_HALF_OPEN = lt.peer_info.connecting | lt.peer_info.handshake
_STATES = lt.torrent_status.states
_LOOKED = (_STATES.downloading, _STATES.finished, _STATES.seeding)
_CATEGORIES = (
    lt.alert_category.error
    | lt.alert_category.status
    | lt.alert_category.storage
    | lt.alert_category.tracker
    | lt.alert_category.peer
    | lt.alert_category.connect
    | lt.alert_category.piece_progress
    | lt.alert_category.block_progress
)


@dataclass
class News:
    """What happened since the last look. given: bytes of blocks, by (address, whether it is the head's seeder). found:
    pieces that were seen to be there while the file was looked through. whole: pieces that got their digest after
    that. failed: pieces whose digest was wrong. banned: addresses. tracker_error: why the
    last announce failed; tracker_ok: one that came later succeeded. checked: the file on disk has been looked through.
    finished: all pieces are there. confused: libtorrent lost track of which pieces are right (`recheck` helps). error:
    what is wrong with the file."""

    given: dict[tuple[str, bool], int] = field(default_factory=dict)
    found: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    banned: list[str] = field(default_factory=list)
    tracker_error: str = ""
    tracker_ok: bool = False
    checked: bool = False
    checking: bool = False
    finished: bool = False
    flushed: bool = False
    renamed: bool = False
    confused: bool = False
    error: OSError | None = None


@dataclass(frozen=True)
class Peer:
    """A connected peer. of_head: the head's seeder. complete: it has every piece. local: our address towards it."""

    address: str
    of_head: bool
    complete: bool
    local: str


@dataclass(frozen=True)
class Look:
    """How looking through the file stands. state: libtorrent's word. millionths: of the file, looked through."""

    under_way: bool
    state: str
    millionths: int


@dataclass(frozen=True)
class Counts:
    """libtorrent's own counters, bytes since the start. sent: payload. redundant: received twice."""

    sent: int
    redundant: int


class Swarm:
    """One session with one torrent, until `close`. Only `add_piece` may be called from another thread.

    rate: cap on what is given, bytes per second, 0 for none.
    """

    def __init__(self, source: Source, port: int = engine.NODE_PORT, rate: int = 0) -> None:
        host = urlsplit(source.head).hostname or ""
        everywhere = "::" if ":" in host else "0.0.0.0"  # noqa: S104 - peers are outside
        settings: Any = engine.node_settings(everywhere, port, rate) | {"alert_mask": _CATEGORIES}
        self._session = lt.session(settings)
        self._session.set_peer_class_filter(_one_class())
        self._announce = routes.announce_url(source.head, source.credential)
        self._seeders = tuple(_endpoint(text) for text in source.seeders)
        self._head_addresses = {address for address, _ in self._seeders} | ({host} if _is_address(host) else set())
        self._of_head: dict[Endpoint, bool] = {}
        # For the account: who was asked for each block that has not been told of, and what each connection gave so far.
        self._asked: dict[tuple[int, int], list[Endpoint]] = {}
        self._gave: dict[Endpoint, int] = {}
        self._handle: lt.torrent_handle | None = None
        self._metainfo: Metainfo | None = None
        self._looking = True  # through the file, before anything is fetched
        self._finished = False

    def join(
        self,
        metainfo: Metainfo,
        path: Path,
        complete: bool = False,
        have: Sequence[bool] | None = None,
        unfinished: Mapping[int, Sequence[bool]] | None = None,
        web_seeds: Sequence[str] = (),
    ) -> None:
        """Begin to fetch into `path`, or with `complete` to give it. have: which pieces are there and right; what is
        there is looked through first when it is not given. unfinished: blocks that are there of other pieces.
        web_seeds: URLs of the whole file (BEP 19)."""
        params = metainfo.parameters()
        params.save_path, params.renamed_files = str(path.parent), {0: path.name}
        params.url_seeds = list(web_seeds)
        params.trackers, params.peers = [self._announce], list(self._seeders) if not complete else []
        params.flags = lt.torrent_flags.seed_mode if complete else lt.torrent_flags.default_flags
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        if have is not None:
            params.have_pieces = list(have)
            params.unfinished_pieces = {piece: list(blocks) for piece, blocks in (unfinished or {}).items()}
        self._metainfo = metainfo
        self._handle = self._session.add_torrent(params)

    def look(self, seconds: float) -> News:
        """Wait up to `seconds` for something to happen, and tell it."""
        self._session.wait_for_alert(int(seconds * 1000))
        news = News()
        for alert in self._session.pop_alerts():
            self._note(alert, news)
        return news

    def have(self) -> list[bool]:
        """Which pieces are there and right."""
        return list(self._torrent.status(lt.torrent_handle.query_pieces).pieces)

    def add_piece(self, piece: int, data: bytes, overwrite: bool) -> None:
        """Put in a piece that came another way. It is checked like any other: `whole` or `failed` follows, mostly.

        Without `overwrite`, blocks of it that are there already stay; if one is wrong the piece fails, is empty then,
        and can be put in again. With it, libtorrent's v1 and v2 digests can come to differ (`confused`).
        """
        self._torrent.add_piece(piece, data, lt.torrent_handle.overwrite_existing if overwrite else 0)

    def recheck(self) -> None:
        """Look through the file again and go on; `under_look` tells when that is over. Put no piece in before."""
        self._finished = False
        self._asked.clear()
        self._looking = True
        self._torrent.clear_error()
        self._torrent.force_recheck()
        self._torrent.resume()

    def under_look(self) -> Look:
        """Whether the file is being looked through, asked of libtorrent now."""
        status = self._torrent.status(0)
        under_way = status.state not in _LOOKED or bool(status.errc.value())
        return Look(under_way, str(status.state), status.progress_ppm if under_way else 0)

    def end_look(self) -> None:
        """What gets whole from here on was fetched, also when the notice of the look's end got lost."""
        self._looking = False

    def peers(self) -> tuple[Peer, ...]:
        """Who is connected."""
        found = []
        for info in self._torrent.get_peer_info():
            if not info.flags & _HALF_OPEN:
                address, port = info.ip
                of_head = self._is_head((address, port), info.pid)
                complete = bool(info.flags & lt.peer_info.seed)
                found.append(Peer(address, of_head, complete, info.local_endpoint()[0]))
        return tuple(found)

    def availability(self) -> list[int]:
        """How many connected peers have each piece; empty while we have all of them."""
        return list(self._torrent.piece_availability())

    def prefer(self, own: Collection[int]) -> None:
        """Fetch these pieces before all others."""
        assert self._metainfo is not None
        self._torrent.prioritize_pieces([OWN if piece in own else OTHERS for piece in range(self._metainfo.pieces)])

    def connect_head(self) -> None:
        """Try the head's seeders again."""
        for endpoint in self._seeders:
            self._torrent.connect_peer(endpoint)

    def announce(self) -> None:
        """Ask the tracker now."""
        self._torrent.force_reannounce(0, -1, lt.torrent_handle.ignore_min_interval)

    def counts(self) -> Counts:
        """libtorrent's counters."""
        status = self._torrent.status()
        return Counts(status.total_payload_upload, status.total_redundant_bytes)

    def flush(self, on_news: Callable[[News], None]) -> None:
        """Have everything written to the file; what is told meanwhile (a block is told of once it is written) goes to
        `on_news`. Raises RookeryError when writing fails."""
        self._torrent.flush_cache()
        self._until("flushed", "writing the file", on_news)
        on_news(self._untold())

    def rename(self, path: Path) -> None:
        """Give the file its final name, in the same directory; an older file of that name is replaced."""
        self._torrent.rename_file(0, path.name)
        self._until("renamed", "renaming the file", lambda _news: None)

    def close(self) -> None:
        """Leave. The tracker is told, if it answers within a second."""
        self._handle = None
        del self._session

    @property
    def _torrent(self) -> lt.torrent_handle:
        assert self._handle is not None, "join() comes first"
        return self._handle

    def _until(self, wanted: str, what: str, on_news: Callable[[News], None]) -> None:
        deadline = time.monotonic() + FLUSH_SECONDS
        while time.monotonic() < deadline:
            news = self.look(0.1)
            on_news(news)
            if news.error is not None:
                raise disk_error(news.error)
            if getattr(news, wanted):
                return
        raise RookeryError(f"{what} took longer than {FLUSH_SECONDS:g} s", kind=ErrorKind.UNAVAILABLE)

    def _note(self, alert: lt.alert, news: News) -> None:
        # By far the most frequent ones come first.
        if isinstance(alert, lt.block_finished_alert):
            self._note_block(alert, news)
        elif isinstance(alert, lt.block_downloading_alert):
            self._asked.setdefault((alert.piece_index, alert.block_index), []).append(alert.ip)
        elif isinstance(alert, lt.piece_finished_alert):
            (news.found if self._looking else news.whole).append(alert.piece_index)
        elif isinstance(alert, lt.hash_failed_alert):
            news.failed.append(alert.piece_index)
        elif isinstance(alert, lt.peer_ban_alert):
            news.banned.append(alert.ip[0])
        elif isinstance(alert, lt.peer_disconnected_alert):
            self._note_gone(alert.ip)
        elif isinstance(alert, lt.tracker_error_alert):
            news.tracker_error, news.tracker_ok = alert.failure_reason() or alert.error.message(), False
        elif isinstance(alert, lt.tracker_reply_alert):
            news.tracker_error, news.tracker_ok = "", True
        else:
            self._note_file(alert, news)

    def _note_file(self, alert: lt.alert, news: News) -> None:
        if isinstance(alert, lt.torrent_checked_alert):
            news.checked, self._looking = True, False
        elif isinstance(alert, lt.torrent_finished_alert):
            news.finished = self._finished = True
        elif isinstance(alert, lt.state_changed_alert):
            news.checking = alert.state == lt.torrent_status.states.checking_files
        elif isinstance(alert, lt.cache_flushed_alert):
            news.flushed = True
        elif isinstance(alert, lt.file_renamed_alert):
            news.renamed = True
        elif isinstance(alert, lt.file_error_alert):
            news.error = OSError(alert.error.value(), alert.error.message(), alert.filename())
        elif isinstance(alert, lt.torrent_error_alert) and _is_inconsistent(alert.error):
            news.confused = True
        elif isinstance(alert, lt.torrent_error_alert | lt.file_rename_failed_alert):
            news.error = OSError(alert.error.value(), alert.error.message())
        elif isinstance(alert, lt.alerts_dropped_alert):
            log.warning("the swarm engine dropped notices: the account of this fetch is not exact")

    def _note_block(self, alert: lt.block_finished_alert, news: News) -> None:
        endpoint, block = alert.ip, (alert.piece_index, alert.block_index)
        self._asked.pop(block, None)
        if endpoint[1] == 0:
            return  # of a piece that add_piece put in
        if endpoint not in self._of_head:
            self._is_head(endpoint, alert.pid)
        self._count(endpoint, block, news)

    def _note_gone(self, endpoint: Endpoint) -> None:
        """Who hangs up before everything is there has not given what it was asked for and was not told of. After that
        all complete ones hang up on each other."""
        self._gave.pop(endpoint, None)
        if not self._finished:
            for asked in self._asked.values():
                if endpoint in asked and len(asked) > 1:
                    asked[:] = [other for other in asked if other != endpoint] or asked[-1:]

    def _count(self, endpoint: Endpoint, block: tuple[int, int], news: News) -> int:
        assert self._metainfo is not None
        size = min(engine.BLOCK, self._metainfo.length(block[0]) - block[1] * engine.BLOCK)
        self._gave[endpoint] = self._gave.get(endpoint, 0) + size
        key = endpoint[0], self._of_head.get(endpoint, endpoint in self._seeders)
        news.given[key] = news.given.get(key, 0) + size
        return size

    def _untold(self) -> News:
        """The account of the last blocks: libtorrent tells of a block when it is written, but of none that is written
        after the last piece had its digest."""
        news = News()
        over = {info.ip: info.total_download - self._gave.get(info.ip, 0) for info in self._torrent.get_peer_info()}
        for block, asked in self._asked.items():
            giver = giver_of(asked, over)
            over[giver] = over.get(giver, 0) - self._count(giver, block, news)
        self._asked.clear()
        return news

    def _is_head(self, endpoint: Endpoint, peer_id: lt.sha1_hash) -> bool:
        """Whether a peer is the head's seeder: by its endpoint, or by its peer id on the head's address (when it called
        us). Whoever else runs on the head's machine is a peer like others."""
        known = self._of_head.get(endpoint)
        if known is None:
            called = peer_id.to_bytes().startswith(engine.HEAD_FINGERPRINT.encode())
            known = endpoint in self._seeders or (called and endpoint[0] in self._head_addresses)
            self._of_head[endpoint] = known
        return known


def giver_of(asked: Sequence[Endpoint], over: Mapping[Endpoint, int]) -> Endpoint:
    """Who gave a block: of those who were asked for it, in the order in which they were, the one who gave most bytes
    that were not told of (`over`). Of several, the last: another is asked when the one before did not give."""
    return max(reversed(asked), key=lambda endpoint: over.get(endpoint, 0))


def disk_error(error: OSError) -> RookeryError:
    """The error that a person is told about when the file cannot be written."""
    if error.errno == 28:  # ENOSPC
        return RookeryError(
            f"no space left while fetching: {error.filename or error.strerror}",
            kind=ErrorKind.NO_SPACE,
            hint="free some space there; what was fetched so far is kept and continued",
        )
    return RookeryError(f"the file cannot be written: {error.strerror}", details=str(error.filename or ""))


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise RookeryError(f"the seeder {text[:80]!r} is not address:port", kind=ErrorKind.INVALID) from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_inconsistent(error: lt.error_code) -> bool:
    return error.category().name() == "libtorrent" and error.value() == INCONSISTENT


def _one_class() -> lt.ip_filter:
    """Every address is in the global peer class and in no other: libtorrent's own filter puts private addresses into a
    class that no rate cap and no number of slots holds for."""
    everybody = lt.ip_filter()
    for first, last in engine.EVERY_ADDRESS:
        everybody.add_rule(first, last, 1 << lt.session.global_peer_class_id)
    return everybody
