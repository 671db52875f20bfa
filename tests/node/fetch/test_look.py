# SPDX-License-Identifier: Apache-2.0
"""Looking through the file again in the middle of a fetch: real libtorrent, a real HTTP server on loopback."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import silent
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fetch import Fetcher
from rookery.node.fetch.policy import Limits
from rookery.node.fetch.stats import FetchStats
from rookery.node.fetch.swarm import Look, News, Swarm
from rookery.wire import routes
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import Source

PIECES, PIECE = 40, 65536
QUICK = Limits(give_up=30.0, put=0.4, put_last=0.4, look=0.5)


class Site:
    """A head that gives one blob by HTTP only. on_range: called with the first byte of each range that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.content = os.urandom(PIECES * PIECE)
        digest = hashlib.sha256(self.content).hexdigest()
        (folder / digest).write_bytes(self.content)
        made = make_torrent(folder / digest, "data", silent, threading.Event())
        self.torrent = made.torrent
        self.blob = Blob(Role.DATA, "data", len(self.content), digest, made.info_hash, made.info_hash_v1)
        self.to, self.source = folder / "got", Source("", "word")
        self.on_range: Callable[[int], None] = lambda _first: None

    def fetch(self, limits: Limits = QUICK) -> FetchStats:
        """One fetch in a session of its own. It is told to stop after a while, so that it cannot hang the tests."""
        stop = threading.Event()
        timer = threading.Timer(25.0, stop.set)
        timer.start()
        try:
            with Fetcher(self.blob, self.torrent, self.source, self.to, None, stop, limits=limits) as fetcher:
                return fetcher.run()
        finally:
            timer.cancel()
            timer.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_words: object) -> None:
        pass

    def do_GET(self) -> None:
        matched = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.path.startswith(routes.ANNOUNCE) or matched is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = int(matched[1]), int(matched[2])
        self.site.on_range(first)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.site.content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(self.site.content[first : last + 1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": found}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.source = Source(f"http://127.0.0.1:{server.server_address[1]}", "word", ())
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Watched:
    """What is done to the engine: pieces named in `lost` are not put in until a look began; `looks`: how many began;
    `during`: what was asked for or put in while one was under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, site: Site, lost: tuple[int, ...], polls: int) -> None:
        self.lost, self.looks, self.left, self.polls = set(lost), 0, 0, polls
        self.during: list[str] = []
        self.put_in: list[int] = []
        add, recheck, under, start = Swarm.add_piece, Swarm.recheck, Swarm.under_look, Swarm.end_look

        def add_piece(swarm: Swarm, piece: int, data: bytes, overwrite: bool) -> None:
            self.put_in.append(piece)
            if self.left:
                self.during.append(f"put in {piece}")
            if piece not in self.lost:
                add(swarm, piece, data, overwrite)

        def again(swarm: Swarm) -> None:
            self.looks, self.left = self.looks + 1, self.polls
            self.lost.clear()
            recheck(swarm)

        def slow(swarm: Swarm) -> Look:
            found = under(swarm)
            self.left = max(self.left - 1, 0)
            if self.left:
                time.sleep(0.05)  # time in which something could be asked for
            return Look(True, "slow", self.left) if self.left else found

        def ended(swarm: Swarm) -> None:
            self.left = 0
            start(swarm)

        def asked(first: int) -> None:
            if self.left:
                self.during.append(f"asked for {first}")

        for name, replaced in (("add_piece", add_piece), ("recheck", again), ("under_look", slow), ("end_look", ended)):
            monkeypatch.setattr(Swarm, name, replaced)
        site.on_range = asked


def test_nothing_is_asked_or_put_in_while_the_file_is_looked_through(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rookery.node.fetch.loop.MOST_TRIES_OF_LAST", 1)
    watched = Watched(monkeypatch, site, lost=(3,), polls=10)
    stats = site.fetch()
    assert site.to.read_bytes() == site.content
    assert watched.looks == 1
    assert watched.during == []
    assert stats.bytes_from_head_http == (PIECES + 1) * PIECE, "only the lost piece comes twice"


def test_the_last_pieces_that_the_engine_does_not_take_are_put_in_again_soon(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, site, lost=(3, 5), polls=0)
    site.fetch(Limits(put=600.0, put_last=0.4))
    assert site.to.read_bytes() == site.content
    assert (watched.put_in.count(3), watched.put_in.count(5), watched.looks) == (3, 3, 1)


def test_what_comes_while_the_file_is_looked_through_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, site, lost=(), polls=10)
    looked, confused = threading.Event(), threading.Event()
    look, again = Swarm.look, Swarm.recheck

    def confusing(swarm: Swarm, seconds: float) -> News:
        news = look(swarm, seconds)
        news.confused = confused.is_set()
        confused.clear()
        return news

    def recheck(swarm: Swarm) -> None:
        again(swarm)
        looked.set()

    def in_the_middle(_first: int) -> None:
        if not looked.is_set():
            confused.set()
            assert looked.wait(10)

    monkeypatch.setattr(Swarm, "look", confusing)
    monkeypatch.setattr(Swarm, "recheck", recheck)
    site.on_range = in_the_middle
    site.fetch()
    assert site.to.read_bytes() == site.content
    assert watched.looks == 1
    assert watched.during == []
    assert sorted(watched.put_in) == list(range(PIECES))


def test_a_look_that_never_ends_ends_the_fetch_and_the_next_one_heals(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("rookery.node.fetch.loop.MOST_TRIES_OF_LAST", 1)
        Watched(broken, site, lost=(3,), polls=0)
        again = Swarm.recheck

        def hanging(swarm: Swarm) -> None:
            again(swarm)
            broken.setattr(Swarm, "under_look", lambda _swarm: Look(True, "checking_files", 10_000))

        broken.setattr(Swarm, "recheck", hanging)
        with pytest.raises(RookeryError, match="has not moved") as caught:
            site.fetch()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "1.0 % looked through" in caught.value.record.details
    stats = site.fetch()
    assert site.to.read_bytes() == site.content
    assert stats.bytes_had > 0


def test_the_notice_of_a_looks_end_may_get_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rookery.node.fetch.loop.UNTOLD", 0.3)
    look = Swarm.look

    def forgetful(swarm: Swarm, seconds: float) -> News:
        news = look(swarm, seconds)
        news.checked = False
        return news

    monkeypatch.setattr(Swarm, "look", forgetful)
    site.fetch()
    assert site.to.read_bytes() == site.content


def test_a_notice_of_an_earlier_look_is_not_believed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, site, lost=(), polls=10)
    look = Swarm.look

    def confusing(swarm: Swarm, seconds: float) -> News:
        news = look(swarm, seconds)
        news.confused = news.checked and not watched.looks
        return news

    monkeypatch.setattr(Swarm, "look", confusing)
    site.fetch()
    assert site.to.read_bytes() == site.content
    assert (watched.looks, watched.during) == (1, [])


def test_no_piece_is_stuck_while_others_get_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    look, held = Swarm.look, []

    def trickling(swarm: Swarm, seconds: float) -> News:
        """A slow machine: a piece gets whole at each look, the last one long after it was put in."""
        news = look(swarm, seconds)
        held.extend(news.whole)
        news.whole = [held.pop(0)] if held else []
        return news

    watched = Watched(monkeypatch, site, lost=(), polls=0)
    monkeypatch.setattr(Swarm, "look", trickling)
    stats: Any = site.fetch(Limits(put=2.0, put_last=2.0))
    assert watched.looks == 0
    assert stats.bytes_from_head_http == PIECES * PIECE
