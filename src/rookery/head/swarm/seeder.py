# SPDX-License-Identifier: Apache-2.0
"""The head's seeder: one libtorrent session that gives every published blob, and notices when its own copy is bad.

Blobs are added in seed mode: their bytes were digested when they were published, and libtorrent checks each piece once
more when it is first asked for, before it leaves the machine. A piece that fails there, or a node that reports hash
failures (`check`), leads to a whole check of the blob; from then on only the pieces that are right are given.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.relay.book import Book
from rookery.relay.giver import Giver, Shelf
from rookery.relay.incoming import Incoming
from rookery.wire import engine, opening
from rookery.wire.torrents import describe, v1_form

log = logger(__name__)

OnBadCopy = Callable[[str, str], None]
LISTEN_SECONDS = 5.0
CHECK_REST = 60.0  # s between two checks of one blob: a thousand nodes may report the same bad piece
_ALERTS = lt.alert_category.error | lt.alert_category.status | lt.alert_category.storage


@dataclass(frozen=True)
class Given:
    """What the seeder gives of one blob. sha256, info_hash: 64 hex digits each. sent: payload bytes given to nodes
    since it was added. peers: connections now. bad_pieces: pieces of the head's own copy that are wrong."""

    sha256: str
    info_hash: str
    sent: int
    peers: int
    bad_pieces: tuple[int, ...] = ()


@dataclass
class _Seeded:
    sha256: str
    info_hash: str
    handle: lt.torrent_handle
    pieces: int
    checking: bool = False
    checked_at: float = field(default=-math.inf)
    bad: tuple[int, ...] = ()
    beside: dict[str, Incoming] = field(default_factory=dict)  # chunk index and opening, by what they are asked for


class Seeder:
    """Gives blobs to the swarm. All methods may be called from any thread; add and remove leave other blobs alone.

    address, port: to listen on; relay_port: of the relay, which feeds the chains (0: any). key_for: the key of a blob's
    chain by its SHA-256. rate: cap in bytes per second over all blobs, 0 for none. on_bad_copy(sha256, message)
    is called from the seeder's own thread, once for each time that a copy is found bad.
    """

    def __init__(
        self,
        on_bad_copy: OnBadCopy,
        address: str = "0.0.0.0",  # noqa: S104 - nodes are outside
        port: int = engine.HEAD_PORT,
        rate: int = 0,
        relay_port: int = 0,
        key_for: Callable[[str], str] = lambda _sha256: "",
    ) -> None:
        self._on_bad_copy, self._key_for = on_bad_copy, key_for
        self._address, self._port, self._rate, self._relay_port = address, port, rate, relay_port
        self._relay: Giver | None = None
        self._lock = threading.Lock()
        self._seeded: dict[str, _Seeded] = {}
        self._session: lt.session | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the port and begin. Raises RookeryError `conflict` when it is in use, `forbidden` or `failed`."""
        settings: Any = engine.head_settings(self._address, self._port, self._rate) | {"alert_mask": _ALERTS}
        session = lt.session(settings)
        session.set_peer_class_filter(_one_class())
        _await_listening(session, self._address, self._port)
        self._relay = Giver(self._address, self._relay_port, self._rate)
        self._session = session
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, args=(session,), name="seeder", daemon=True)
        self._thread.start()

    def add(self, path: Path, torrent: bytes, sha256: str = "") -> str:
        """Give the blob at `path` (verified bytes) from now on; its v2 info-hash. Adding it again changes nothing.

        sha256: the blob's digest, by default the file's name, as the blob store has it. Raises RookeryError `invalid`
        when the torrent is not one of ours, `not-found` when there is no such file.
        """
        session = self._running()
        try:
            params = lt.load_torrent_buffer(torrent)
            hybrid = params.info_hashes
            if hybrid.has_v2() and hybrid.has_v1():
                params = lt.load_torrent_buffer(lt.bencode(v1_form(cast("dict[bytes, Any]", lt.bdecode(torrent)))))
        except (RuntimeError, ValueError) as error:
            raise RookeryError(f"the torrent of {path.name} cannot be read: {error}", kind=ErrorKind.INVALID) from error
        if params.ti is None or not hybrid.has_v2():
            raise RookeryError(f"the torrent of {path.name} has no v2 info-hash", kind=ErrorKind.INVALID)
        if not path.is_file():
            raise RookeryError(f"there is no blob {path}", kind=ErrorKind.NOT_FOUND)
        info_hash = str(hybrid.v2)
        params.save_path = str(path.parent)
        params.renamed_files = {0: path.name}
        params.trackers = []
        params.flags = lt.torrent_flags.seed_mode | lt.torrent_flags.upload_mode
        with self._lock:
            if info_hash not in self._seeded:
                pieces = params.ti.num_pieces()
                handle = session.add_torrent(params)
                seeded = self._seeded[info_hash] = _Seeded(sha256 or path.name, info_hash, handle, pieces)
                self._put(seeded, path, params.ti, torrent)
        return info_hash

    def remove(self, info_hash: str) -> None:
        """Stop giving a blob; the file stays. One that is not given is no error."""
        session = self._running()
        with self._lock:
            seeded = self._seeded.pop(info_hash, None)
            if seeded is not None and self._relay is not None:
                self._relay.take_off(seeded.sha256)
                for name in seeded.beside:
                    self._relay.take_off(name)
        if seeded is not None:
            session.remove_torrent(seeded.handle)

    def check(self, info_hash: str) -> bool:
        """Have the head's own copy digested again, as when nodes report hash failures; whether a check was begun.

        It runs in the background, at most once a minute for each blob; a bad copy is told to on_bad_copy.
        """
        with self._lock:
            seeded = self._seeded.get(info_hash)
            now = time.monotonic()
            if seeded is None or seeded.checking or now - seeded.checked_at < CHECK_REST:
                return False
            seeded.checking, seeded.checked_at = True, now
            seeded.handle.force_recheck()
        log.info("checking the head's own copy of blob %s", seeded.sha256[:12])
        return True

    def set_rate(self, rate: int) -> None:
        """Change the cap: bytes per second, 0 for none."""
        self._rate = rate
        if self._relay is not None:
            self._relay.allowance.rate = rate
        self._running().apply_settings({"upload_rate_limit": rate})

    def stats(self) -> tuple[Given, ...]:
        """What is given now, by blob."""
        with self._lock:
            known = list(self._seeded.values())
        found = []
        for seeded in known:
            status = seeded.handle.status()
            sent, peers = status.total_payload_upload, status.num_peers
            if self._relay and (shelf := self._relay.shelf(seeded.sha256)):
                sent += shelf.sent + sum(one.given for one in seeded.beside.values())
                peers += shelf.children
            found.append(Given(seeded.sha256, seeded.info_hash, sent, peers, seeded.bad))
        return tuple(found)

    def stop(self) -> None:
        """Stop giving and close the port. A stopped seeder may be started again, and is empty then."""
        session, self._session = self._session, None
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._seeded.clear()
        del session  # the session's own destructor closes its sockets and waits for its threads

    @property
    def relay_port(self) -> int:
        """Where the relay listens; 0 when the seeder does not run."""
        return self._relay.port if self._relay else 0

    def _put(self, seeded: _Seeded, path: Path, info: lt.torrent_info, torrent: bytes) -> None:
        if self._relay is not None:
            book, key = Book(seeded.pieces, complete=True), self._key_for(seeded.sha256)
            shelf = Shelf(path, info.total_size(), info.piece_length(), book, key)
            self._relay.put_metadata(seeded.sha256, Incoming(torrent), key)
            with contextlib.suppress(FileNotFoundError):
                index = path.with_name(f"{path.name}.chunks").read_bytes()
                self._put_beside(seeded, hashlib.sha256(index).hexdigest(), Incoming(index), key)
            self._relay.put(seeded.sha256, shelf)
            self._put_opening(seeded, path, torrent, key)

    def _put_opening(self, seeded: _Seeded, path: Path, torrent: bytes, key: str) -> None:
        """Give the first block and its proof, unless this copy of it is bad: all else is given without it, too."""
        try:
            described = describe(cast("dict[bytes, Any]", lt.bdecode(torrent)))
            with path.open("rb") as file:
                first = file.read(described.piece_size)
        except (KeyError, ValueError, TypeError, OSError) as error:
            log.warning("blob %s has no opening: %r", seeded.sha256[:12], error)
            return
        begins = opening.dump(first, described.layer, described.size, described.piece_size)
        if opening.check(begins, described.size, described.root.hex()) is not None:
            payload = min(described.size, engine.BLOCK)
            self._put_beside(seeded, described.root.hex(), Incoming(begins, payload), key)

    def _put_beside(self, seeded: _Seeded, name: str, content: Incoming, key: str) -> None:
        assert self._relay is not None
        self._relay.put_metadata(name, content, key)
        seeded.beside[name] = content

    def _running(self) -> lt.session:
        if self._session is None:
            raise RookeryError("the seeder is not running", kind=ErrorKind.UNAVAILABLE)
        return self._session

    def _watch(self, session: lt.session) -> None:
        while not self._stopping.is_set():
            session.wait_for_alert(200)
            for alert in session.pop_alerts():
                try:
                    self._heed(alert)
                except Exception:  # the seeder must outlive whatever a callback does
                    log.exception("seeder: handling %s failed", type(alert).__name__)

    def _heed(self, alert: lt.alert) -> None:
        if isinstance(alert, lt.state_changed_alert):
            # Leaving seed mode for a check means: a piece did not have its digest when it was to be sent.
            if alert.state == lt.torrent_status.states.checking_files and (seeded := self._of(alert)):
                seeded.checking = True
        elif isinstance(alert, lt.torrent_checked_alert):
            if (seeded := self._of(alert)) and seeded.checking:
                self._checked(seeded)
        elif isinstance(alert, lt.file_error_alert):
            if seeded := self._of(alert):
                self._unreadable(seeded, f"{alert.error.message()}: {alert.filename()}")
        elif isinstance(alert, lt.torrent_error_alert) and (seeded := self._of(alert)):
            self._unreadable(seeded, alert.message())

    def _of(self, alert: lt.torrent_alert) -> _Seeded | None:
        with self._lock:
            return next((seeded for seeded in self._seeded.values() if seeded.handle == alert.handle), None)

    def _checked(self, seeded: _Seeded) -> None:
        status = seeded.handle.status(lt.torrent_handle.query_pieces)
        looking = (lt.torrent_status.states.checking_files, lt.torrent_status.states.checking_resume_data)
        if status.state in looking:
            return  # this was the end of an earlier look (adding is one); the one that counts is under way
        have = status.pieces
        wrong = tuple(index for index in range(seeded.pieces) if index >= len(have) or not have[index])
        seeded.checking, seeded.checked_at = False, time.monotonic()
        known, seeded.bad = seeded.bad, wrong
        if wrong and wrong != known:
            self._bad(seeded, f"{len(wrong)} of {seeded.pieces} pieces do not have their digest ({_some(wrong)})")
        elif not wrong:
            log.info("the head's own copy of blob %s is right", seeded.sha256[:12])

    def _unreadable(self, seeded: _Seeded, why: str) -> None:
        if len(seeded.bad) != seeded.pieces:
            seeded.bad = tuple(range(seeded.pieces))
            self._bad(seeded, f"it cannot be read: {why}")

    def _bad(self, seeded: _Seeded, what: str) -> None:
        message = (
            f"the head's own copy of blob {seeded.sha256[:12]} is bad: {what}; what is wrong is not given to nodes"
        )
        log.error("%s", message)
        self._on_bad_copy(seeded.sha256, message)


def _await_listening(session: lt.session, address: str, port: int) -> None:
    deadline = time.monotonic() + LISTEN_SECONDS
    while time.monotonic() < deadline:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.listen_succeeded_alert):
                return
            if isinstance(alert, lt.listen_failed_alert):
                raise _cannot_listen(alert, address, port)
    raise RookeryError(f"the seeder could not open {address}:{port} within {LISTEN_SECONDS:g} s")


def _cannot_listen(alert: lt.listen_failed_alert, address: str, port: int) -> RookeryError:
    if alert.error.value() == errno.EADDRINUSE:
        return RookeryError(
            f"the swarm port {port} is in use",
            kind=ErrorKind.CONFLICT,
            hint="stop the program that has it, or set network.swarm_port in rookery.toml",
        )
    return RookeryError(f"the seeder cannot listen on {address}:{port}: {alert.error.message()}")


def _some(pieces: tuple[int, ...]) -> str:
    shown = ", ".join(str(piece) for piece in pieces[:8])
    return f"piece {shown}" if len(pieces) <= 8 else f"piece {shown}, ..."


def _one_class() -> lt.ip_filter:
    """Every address is in the global peer class and in no other: libtorrent's own filter puts private addresses into a
    class that no rate cap and no number of slots holds for."""
    everybody = lt.ip_filter()
    for first, last in engine.EVERY_ADDRESS:
        everybody.add_rule(first, last, 1 << lt.session.global_peer_class_id)
    return everybody
