# SPDX-License-Identifier: Apache-2.0
"""Fetches one blob: from the swarm, from the head by HTTP where the swarm does not give, and believes only digests.

The file grows under a hidden name beside its final one (`.NAME.part`), which it gets when its SHA-256 is what the
signed manifest says. What a broken-off fetch left there is looked through and continued, and what older versions have
of the new one is copied from them (fill.py). When the very file is here under another name, nobody is asked for
anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch import policy
from rookery.node.fetch.chain import Chain
from rookery.node.fetch.fill import Start, fill, look_through
from rookery.node.fetch.loop import TELL, Loop, OnTransfer, cancelled
from rookery.node.fetch.metadata import get_torrent
from rookery.node.fetch.metainfo import Metainfo, open_torrent
from rookery.node.fetch.olds import candidates, copy, find, index_beside, same, write_sidecar
from rookery.node.fetch.plain import fetch_plain
from rookery.node.fetch.policy import Limits
from rookery.node.fetch.ranges import get
from rookery.node.fetch.stats import FetchStats, Ledger
from rookery.node.fetch.swarm import Counts, Swarm, disk_error
from rookery.relay.frames import RELAY_PORT
from rookery.wire import chunks, engine, routes
from rookery.wire.manifest import Blob
from rookery.wire.orders import SeedPolicy, Source
from rookery.wire.report import Transfer

log = logger(__name__)

# s after which who has everything by the chain joins the mesh, too. Making the engine takes some 20 ms of a processor
# that the node needs for what it fetched the file for.
MESH_AFTER = 1.0


def part_path(to: Path) -> Path:
    """Where the file grows before it is `to`."""
    return to.with_name(f".{to.name}.part")


def fetch(
    blob: Blob,
    torrent: bytes,
    source: Source,
    to: Path,
    on_progress: OnTransfer | None = None,
    stop: threading.Event | None = None,
    have: Sequence[Path] = (),
) -> FetchStats:
    """Make `to` the file that `blob` describes, and return the account of it.

    torrent: the bytes of its .torrent (not believed: its v2 info-hash must be the blob's), or empty to have it fetched,
    too. have: files that may be older versions, and directories of them, beside the one at `to` (olds.py). A file that
    is there and right already costs only its digest. on_progress is called about twice a second. Raises RookeryError:
    `cancelled` when `stop` is set, `no-space`, `corrupt` for a wrong torrent or a head whose copy is bad, `unavailable`
    when nothing came for two minutes, `unauthorized`, `not-found` as the head says. What was fetched so far stays for
    the next call.
    """
    with Fetcher(blob, torrent, source, to, on_progress, stop, have=have) as fetcher:
        return fetcher.run()


def seed(
    blob: Blob,
    torrent: bytes,
    source: Source,
    path: Path,
    seed_policy: SeedPolicy,
    stop: threading.Event,
    on_progress: OnTransfer | None = None,
) -> Transfer:
    """Give the right and whole file `path` to others at a capped rate, until `stop` or the policy's time; its account.

    Raises RookeryError `corrupt` when the file turns out not to be right any more.
    """
    if not path.is_file() or path.stat().st_size != blob.size:
        raise RookeryError(f"{path} is not the whole {blob.name}: nothing to give", kind=ErrorKind.CORRUPT)
    metainfo = open_torrent(torrent, blob)
    swarm = Swarm(source, rate=seed_policy.rate)
    chain = Chain(blob, torrent, source, path, Ledger(blob.size), rate=seed_policy.rate)
    try:
        swarm.join(metainfo, path, complete=True)
        chain.give(path)
        return _give(swarm, chain, blob, seed_policy.seconds, stop, on_progress)
    finally:
        chain.close()
        swarm.close()


class Fetcher:
    """One fetch, step by step: `run()`, then perhaps `give()`, then `close()` (or leave the `with` block).

    Between `run` and `close` it goes on giving: the swarm does not lose a node just because that node is done.
    Arguments as of `fetch`; keep: leave a sidecar beside the file, by which the next version is filled from this one;
    port, relay_port: to listen on, the next free ones are taken; rate: cap on what is given, bytes/s; 0: as `source`
    says.
    """

    def __init__(
        self,
        blob: Blob,
        torrent: bytes,
        source: Source,
        to: Path,
        on_progress: OnTransfer | None = None,
        stop: threading.Event | None = None,
        *,
        have: Sequence[Path] = (),
        keep: bool = False,
        port: int = engine.NODE_PORT,
        relay_port: int = RELAY_PORT,
        rate: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self._blob, self._torrent, self._source, self._to = blob, torrent, source, to
        self._tell = on_progress or (lambda _transfer: None)
        self._stop = stop or threading.Event()
        self._have, self._keep = tuple(have), keep
        self._port, self._relay_port = port, relay_port
        self._rate, self._limits = rate or source.rate, limits or Limits()
        self._ledger = Ledger(blob.size)
        self._swarm: Swarm | None = None
        self._joining: threading.Timer | None = None
        self._chain: Chain | None = None
        self._index = b""
        self._digests: dict[Path, str] = {}  # of files that were here before
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def run(self) -> FetchStats:
        """Fetch, check the digest, give the file its name."""
        self._began = time.monotonic()
        self._to.parent.mkdir(parents=True, exist_ok=True)
        if self._is_there():
            self._ledger.had = self._blob.size
            self._tell(self._ledger.transfer(self._blob.size, 0, 0, time.monotonic()))
            return self._ledger.stats(seconds=self._elapsed())
        part = part_path(self._to)
        _require_space(part, self._blob)
        olds = candidates(self._to, self._have)
        twin = same(self._blob, olds, self._have, self._digest_old)
        if twin is not None and (verify_seconds := self._copy(twin, part)) is not None:
            return self._finish_alone(part, verify_seconds)
        if not self._blob.info_hash:
            fetch_plain(self._blob, self._source, part, self._ledger, self._tell, self._stop, self._limits)
            try:
                verify_seconds = self._verify(part)
            except RookeryError as error:
                if error.kind is ErrorKind.CORRUPT:
                    part.unlink()  # without piece digests nobody can tell which part of it is right
                raise
            return self._finish_alone(part, verify_seconds)
        chain = self._chain = Chain(
            self._blob, self._torrent, self._source, part, self._ledger, port=self._relay_port, rate=self._rate
        )
        metainfo, start = self._enter(chain, part, olds if self._blob.chunks else ())
        self._torrent = metainfo.torrent
        whole = chain.run(self._tell, self._stop)
        swarm = None if whole else Swarm(self._source, self._port, self._rate)
        if swarm is not None:
            self._swarm = swarm
            self._mesh(swarm, chain, metainfo, start, part)
        verify_seconds = self._verify(part, chain.digest())
        if swarm is None:
            os.replace(part, self._to)
        else:
            swarm.rename(self._to)
        files.sync_directory(self._to.parent)
        self._remember()
        counts = swarm.counts() if swarm is not None else Counts(0, 0)
        sent = counts.sent + chain.sent
        peers = (len(swarm.peers()) if swarm is not None else 0) + chain.links
        self._tell(self._ledger.transfer(self._blob.size, sent, peers, time.monotonic()))
        if swarm is None:
            self._joining = threading.Timer(MESH_AFTER, self._join, (metainfo,))
            self._joining.daemon = True
            self._joining.start()
        return self._ledger.stats(
            seconds=self._elapsed(),
            verify_seconds=verify_seconds,
            first_byte_seconds=chain.first_byte - self._began if chain.first_byte else 0.0,
            sent=sent,
            redundant=counts.redundant,
        )

    def _join(self, metainfo: Metainfo) -> None:
        """Be in the mesh, too, as one that has everything."""
        swarm = Swarm(self._source, self._port, self._rate)
        swarm.join(metainfo, self._to, complete=True)
        self._swarm = swarm

    def _finish_alone(self, part: Path, verify_seconds: float) -> FetchStats:
        """Give its name to what came without a swarm."""
        os.replace(part, self._to)
        files.sync_directory(self._to.parent)
        self._remember()
        return self._ledger.stats(seconds=self._elapsed(), verify_seconds=verify_seconds)

    def _copy(self, twin: Path, part: Path) -> float | None:
        """Copy the file that is the very blob; the seconds that checking took, or None when the copy is not right."""
        try:
            copy(twin, part, self._tell_copied)
            verify_seconds = self._verify(part)
        except (OSError, RookeryError) as error:
            if isinstance(error, RookeryError) and error.kind is not ErrorKind.CORRUPT:
                raise
            self._ledger.had = 0
            part.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_error(error) from error
            log.warning("%s is not copied: %s", twin, error)
            return None
        self._ledger.had = self._ledger.filled = self._blob.size
        self._index = index_beside(twin, self._blob.chunks)
        return verify_seconds

    def _tell_copied(self, done: int) -> None:
        self._on_bytes(done)
        self._tell_start(done)

    def _mesh(self, swarm: Swarm, chain: Chain, metainfo: Metainfo, start: Start, part: Path) -> None:
        """Go on where the chain ended."""
        known = any(start.pieces) or any(start.parts.blocks) or chain.running
        have = chain.book.have() if known else None
        web_seeds = self._source.mirrors.get(self._blob.sha256, ())
        swarm.join(metainfo, part, have=have, unfinished=start.parts.unfinished(), web_seeds=web_seeds)
        on_whole = None if not known else chain.pass_on if chain.running else _nothing
        loop = Loop(swarm, metainfo, self._blob, self._source, self._ledger, self._limits, on_whole)
        told = Transfer()

        def tell(transfer: Transfer) -> None:
            nonlocal told
            chain.spend(transfer.sent - told.sent)  # relay and mesh have one cap together
            told = transfer
            self._tell(transfer)

        loop.run(tell, self._stop)
        swarm.flush(loop.account)
        ledger = self._ledger
        if any(start.parts.blocks):  # blocks of which nobody gave any came from older versions
            ledger.fill(max(self._blob.size - ledger.had - ledger.head_swarm - ledger.head_http - ledger.from_peers, 0))

    def _enter(self, chain: Chain, part: Path, olds: Sequence[Path]) -> tuple[Metainfo, Start]:
        """Enter the chain, with what is there already in `part`."""
        fresh = not olds and not part.exists()
        metainfo = chain.enter(self._stop, index=bool(olds) or self._keep, fresh=fresh)
        self._index = chain.index
        if fresh:
            return metainfo, Start.empty(metainfo)
        chain.step_out()
        start = self._prepare(metainfo, olds, part)
        chain.begin(metainfo, start)
        chain.enter(self._stop)
        return metainfo, start

    def _prepare(self, metainfo: Metainfo, olds: Sequence[Path], part: Path) -> Start:
        """Take stock of `part`, and fill it from older versions. What goes wrong with those costs only bytes."""
        start = Start.empty(metainfo)
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            look_through(handle, metainfo, start, self._tell_start, self._stop)
            self._ledger.had = start.had
            os.ftruncate(handle, metainfo.size)
            if olds and not all(start.pieces):
                self._fill(handle, metainfo, olds, start)
        except OSError as error:
            error.filename = error.filename or str(part)
            raise disk_error(error) from error
        finally:
            os.close(handle)
        if self._stop.is_set():
            raise cancelled(self._blob)
        return start

    def _fill(self, handle: int, metainfo: Metainfo, olds: Sequence[Path], start: Start) -> None:
        try:
            self._index = self._index or self._ask(self._blob.sha256)
            index = chunks.open_index(self._index, self._blob.chunks, self._blob.sha256)
        except RookeryError as error:
            if error.kind is ErrorKind.CANCELLED:
                raise
            self._index = b""
            log.warning("nothing is taken from older versions: %s", error)
            return
        found = find(olds, self._ask, self._digest_old)
        fill(handle, metainfo, index, found, start, lambda filled: self._tell_start(start.had + filled), self._stop)
        self._ledger.had, self._ledger.filled = start.had + start.filled, start.filled

    def _ask(self, sha256: str) -> bytes:
        return get(routes.chunks_url(self._source.head, sha256), self._source.credential, chunks.MAX_INDEX)

    def _tell_start(self, done: int) -> None:
        self._ledger.had = done
        self._tell(self._ledger.transfer(done, 0, 0, time.monotonic()))

    def _remember(self) -> None:
        if self._keep and self._blob.chunks:
            write_sidecar(self._to, self._index or chunks.stub(self._blob.sha256, self._blob.size))

    def torrent(self) -> bytes:
        """The blob's torrent, after `run`; empty for a blob that only HTTP carries. Raises as `get_torrent`."""
        if self._blob.info_hash and not self._torrent:
            self._torrent = get_torrent(self._blob, self._source, self._stop)
        return self._torrent

    def give(self, seconds: float | None, stop: threading.Event | None = None) -> Transfer:
        """Go on giving for some seconds (None: until `stop`), after `run`; what was given."""
        stop = stop or self._stop
        while self._joining is not None and self._joining.is_alive() and not stop.is_set():
            self._joining.join(0.1)
        if stop.is_set() or not self._blob.info_hash:
            return Transfer(sent=self._chain.sent if self._chain else 0)
        if self._swarm is None:
            self._join(open_torrent(self.torrent(), self._blob))
        if self._chain is None:
            self._chain = Chain(
                self._blob, self.torrent(), self._source, self._to, self._ledger, port=self._relay_port, rate=self._rate
            )
            self._chain.give(self._to)
        assert self._swarm is not None
        return _give(self._swarm, self._chain, self._blob, seconds, stop, self._tell)

    def close(self) -> None:
        """Leave the swarm."""
        if self._joining is not None:
            self._joining.cancel()
            self._joining.join()
        chain, self._chain = self._chain, None
        if chain is not None:
            chain.close()
        swarm, self._swarm = self._swarm, None
        if swarm is not None:
            swarm.close()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _is_there(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._to.stat().st_size == self._blob.size and self._digest_old(self._to) == self._blob.sha256
        return False

    def _digest(self, path: Path) -> str:
        return files.sha256_file(path, self._on_bytes)

    def _digest_old(self, path: Path) -> str:
        """Of a file that was here before; it is read once."""
        path = path.absolute()
        if path not in self._digests:
            self._digests[path] = self._digest(path)
        return self._digests[path]

    def _on_bytes(self, _done: int) -> None:
        if self._stop.is_set():
            raise cancelled(self._blob)

    def _verify(self, part: Path, found: str = "") -> float:
        """Compare the digest; `found` is one that was already read back from the file."""
        began = time.monotonic()
        if found != self._blob.sha256 and (found := self._digest(part)) != self._blob.sha256:
            raise RookeryError(
                f"the fetched {self._blob.name} is not what was signed",
                kind=ErrorKind.CORRUPT,
                details=f"signed: sha256 {self._blob.sha256}\nfetched: sha256 {found}",
                hint="fetch again: every piece is looked through then; if it stays, test memory and disk",
            )
        return time.monotonic() - began


def _give(
    swarm: Swarm,
    chain: Chain,
    blob: Blob,
    seconds: float | None,
    stop: threading.Event,
    on_progress: OnTransfer | None,
) -> Transfer:
    began = told = time.monotonic()
    failures, announce_at, dice = 0, 0.0, random.Random()  # noqa: S311 - jitter
    by_mesh = swarm.counts().sent
    before, rate = by_mesh + chain.sent, 0.0
    while not stop.is_set() and (seconds is None or time.monotonic() - began < seconds):
        news = swarm.look(0.2)
        now = time.monotonic()
        if news.error is not None or news.checking:
            raise RookeryError(
                f"this machine's copy of {blob.name} is not right any more; it is not given to others",
                kind=ErrorKind.CORRUPT,
                details=str(news.error or ""),
            )
        if news.tracker_ok:
            failures, announce_at = 0, 0.0
        elif news.tracker_error:
            failures += 1
            announce_at = now + policy.retry_delay(failures, dice.random())
        if announce_at and now >= announce_at:
            announce_at = 0.0
            swarm.announce()
        by_mesh, mesh_before = swarm.counts().sent, by_mesh
        chain.spend(by_mesh - mesh_before)
        if on_progress is not None and now - told >= TELL:
            sent = by_mesh + chain.sent
            rate, before, told = (sent - before) / (now - told), sent, now
            on_progress(Transfer(blob.size, blob.size, sent=sent, rate=rate, peers=len(swarm.peers()) + chain.links))
    sent = swarm.counts().sent + chain.sent
    return Transfer(blob.size, blob.size, sent=sent, peers=len(swarm.peers()) + chain.links)


def _nothing(_piece: int) -> None:
    """Nobody is told of a piece."""


def _require_space(part: Path, blob: Blob) -> None:
    there = part.stat().st_blocks * 512 if part.exists() else 0
    # A RAM file system without a limit says that it has no blocks at all: there is nothing to compare with.
    if shutil.disk_usage(part.parent).total:
        files.require_space(part.parent, max(blob.size - there, 0), f"fetching {blob.name}")
