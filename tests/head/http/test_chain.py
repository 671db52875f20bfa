# SPDX-License-Identifier: Apache-2.0
"""The planner's route, and whole chains of fetchers on loopback that it arranges."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from rookery import codec
from rookery.api.types import NewTicket
from rookery.errors import ErrorKind, RookeryError
from rookery.head.http.views import manifest
from rookery.node.fetch.chain import Chain
from rookery.node.fetch.fetch import Fetcher, part_path
from rookery.node.fetch.stats import FetchStats
from rookery.node.talk import Head as NodeHead
from rookery.wire import routes
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import FetchOffer, Source
from rookery.wire.relay import Ask, Feed
from tests.ports import free_port

if TYPE_CHECKING:
    from conftest import RunningHead

PIECE = 65536


def wait_until(true: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.01)


class Fetching:
    """A fetcher in a thread of its own, that gives until the test's end."""

    def __init__(self, blob: Blob, torrent: bytes, source: Source, to: Path, rate: int = 0) -> None:
        self.to, self.stop, self.port = to, threading.Event(), free_port()
        self.fetcher = Fetcher(blob, torrent, source, to, stop=self.stop, relay_port=self.port, rate=rate)
        self.stats = FetchStats()
        self.error: RookeryError | None = None
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.stats = self.fetcher.run()
        except RookeryError as error:
            self.error = error
        finally:
            self.done.set()

    @property
    def pieces(self) -> int:
        return len(self.fetcher._chain.book) if self.fetcher._chain else 0

    @property
    def first_byte(self) -> float | None:
        return self.fetcher._chain.first_byte if self.fetcher._chain else None

    def end(self) -> None:
        self.stop.set()
        self._thread.join(20)
        self.fetcher.close()


class Site:
    """A head with one image, and who fetches its root."""

    def __init__(self, head: RunningHead, directory: Path, size: int) -> None:
        self.head, self.directory = head, directory
        version = head.publish_image("base", size=size)
        self.blob = manifest(version).blob(Role.ROOT)
        where = urlsplit(head.operator.ticket(NewTicket("base")).url)
        offer = codec.loads(FetchOffer, head.get(f"{where.path}?{where.query}").content)
        self.source = offer.source
        self.torrent = head.get(f"{routes.TORRENT}/{self.blob.sha256}", self.source.credential).content
        self.content = head.services.store.path(self.blob.sha256).read_bytes()
        self.fetching: list[Fetching] = []

    def fetch(self, name: str, rate: int = 0) -> Fetching:
        found = Fetching(self.blob, self.torrent, self.source, self.directory / name, rate)
        self.fetching.append(found)
        return found

    def await_all(self, *which: Fetching) -> None:
        for one in which or tuple(self.fetching):
            assert one.done.wait(60), "it came to an end"
            assert one.error is None
            assert one.to.read_bytes() == self.content

    @property
    def relay(self) -> int:
        """Bytes that left the head's relay."""
        giver = self.head.services.seeder._relay
        return giver.sent if giver else 0

    def close(self) -> None:
        for one in self.fetching:
            one.stop.set()
        for one in self.fetching:
            one.end()


@pytest.fixture
def site(head: RunningHead, tmp_path: Path) -> Iterator[Site]:
    found = Site(head, tmp_path, 200 * PIECE + 1000)
    yield found
    found.close()


def test_places_are_told_to_those_who_may_have_the_blob(head: RunningHead) -> None:
    mine, other = head.publish_image("mine"), head.publish_image("other")
    blob, foreign = manifest(mine).blob(Role.ROOT), manifest(other).blob(Role.ROOT)
    where = urlsplit(head.operator.ticket(NewTicket("mine")).url)
    source = codec.loads(FetchOffer, head.get(f"{where.path}?{where.query}").content).source
    node = NodeHead(head.url, source.credential)
    root = f"127.0.0.1:{head.services.seeder.relay_port}"
    first = node.place(blob.sha256, Ask(9001, 0, 10))
    second = node.place(blob.sha256, Ask(9002, 0, 10))
    assert first.feeds == (Feed(0, 1, (root,)),)
    assert second.feeds == (Feed(0, 1, ("127.0.0.1:9001", root)),)
    assert first.key == second.key
    assert len(bytes.fromhex(first.key)) == 32
    assert node.place(blob.sha256, Ask(9001, 0, 10, leaving=True)).feeds == ()
    assert node.place(blob.sha256, Ask(9002, 0, 10)).feeds == (Feed(0, 1, (root,)),)
    # Another version's chain, its key above all, is none of this ticket's business; nor is one that there is not.
    for sha256 in (foreign.sha256, "00" * 32, "nonsense"):
        with pytest.raises(RookeryError) as caught:
            node.place(sha256, Ask(9001, 0, 10))
        assert caught.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(RookeryError) as caught:
        NodeHead(head.url, "guess").place(blob.sha256, Ask(9001, 0, 10))
    assert caught.value.kind is ErrorKind.UNAUTHORIZED
    assert foreign.sha256 not in head.services.planner.swarms
    key = head.services.key.secret(f"chain {foreign.sha256}")
    assert key not in (first.key, "")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"port": 0, "pieces": 0, "total": 1}', b"[" * 1000])
def test_what_is_no_ask(head: RunningHead, body: bytes) -> None:
    blob = manifest(head.publish_image()).blob(Role.ROOT)
    answer = head.ask("POST", f"{routes.CHAIN}/{blob.sha256}", head.token, body, Content_Type="application/json")
    assert answer.status_code == 422
    assert not head.services.planner.swarms


def test_one_copy_leaves_the_head_for_three_that_start_together(site: Site) -> None:
    site.head.services.seeder.set_rate(8_000_000)
    together = [site.fetch(f"node{number}") for number in range(3)]
    site.await_all()
    size = site.blob.size
    # Whoever has taken a piece before its place was known took it from the head.
    assert size <= site.relay < 1.5 * size
    for one in together:
        assert one.stats.bytes_from_head + one.stats.bytes_from_peers == size
        assert 0 < one.stats.first_byte_seconds < 2
        assert one.stats.bytes_from_head_http == 0
    assert sum(one.stats.bytes_sent for one in together) > size
    (given,) = [given for given in site.head.services.seeder.stats() if given.sha256 == site.blob.sha256]
    assert given.sent >= site.relay, "what the relay gave is in the head's account"


def test_the_first_block_is_there_before_a_place_in_the_chain_is_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, run = threading.Event(), Chain.run

    def wait_and_run(chain: Chain, *given: Any) -> bool:
        go_on.wait(20)
        return run(chain, *given)

    monkeypatch.setattr(Chain, "run", wait_and_run)
    nodes = [site.fetch(f"node{number}") for number in range(6)]
    wait_until(lambda: all(one.first_byte for one in nodes), "all had their first bytes")
    for one in nodes:
        assert part_path(one.to).read_bytes() == site.content[:BLOCK]
    before = site.relay
    go_on.set()
    site.await_all()
    assert site.relay - before >= site.blob.size - BLOCK
    for one in nodes:
        assert one.stats.bytes_from_head + one.stats.bytes_from_peers == site.blob.size
        assert one.stats.first_byte_seconds < one.stats.seconds / 2


def test_a_version_of_before_has_no_opening_and_comes_all_the_same(site: Site) -> None:
    site.blob = replace(site.blob, pieces_root="")
    nodes = [site.fetch(f"node{number}") for number in range(3)]
    site.await_all()
    for one in nodes:
        assert one.fetcher._chain is not None
        assert one.fetcher._chain._opening.at is None


def test_who_came_late_has_an_opening_to_give_when_it_is_done(site: Site) -> None:
    site.head.services.seeder.set_rate(8_000_000)
    first = site.fetch("first")
    wait_until(lambda: first.pieces > 50, "pieces flow")
    late = site.fetch("late")
    site.await_all()
    assert late.fetcher._chain is not None
    assert late.fetcher._chain._opening.at is None
    assert late.fetcher._chain._opening._given.whole


def test_who_continues_a_fetch_takes_no_part_in_handing_the_opening_on(site: Site) -> None:
    part_path(site.directory / "node").write_bytes(site.content[: 3 * PIECE])
    node = site.fetch("node")
    site.await_all()
    assert node.fetcher._chain is not None
    assert node.fetcher._chain._opening.at is None
    (swarm,) = site.head.services.planner.swarms.values()
    assert [wave.openers for wave in swarm.waves] == [[]]


def test_a_straggler_is_fed_by_a_node_and_not_by_the_head(site: Site) -> None:
    site.fetch("early")
    site.await_all()
    before = site.relay
    time.sleep(0.5)  # it says that it is done
    late = site.fetch("late")
    site.await_all()
    # All are at 127.0.0.1 here, so only the head's own account tells who gave.
    assert site.relay - before < site.blob.size / 4
    assert late.to.exists()


def test_a_parent_that_dies_in_the_middle_is_bypassed(site: Site) -> None:
    site.head.services.seeder.set_rate(4_000_000)
    nodes = [site.fetch(f"node{number}") for number in range(3)]
    wait_until(lambda: all(node.pieces > 20 for node in nodes), "pieces come through")
    line = site.head.services.planner.swarms[site.blob.sha256].line()[0]
    middle = next(node for node in nodes if line[1].endswith(f":{node.port}"))
    middle.end()
    assert middle.error is not None
    assert middle.error.kind is ErrorKind.CANCELLED
    rest = [node for node in nodes if node is not middle]
    site.await_all(*rest)
    assert site.relay < 1.5 * site.blob.size, "nothing was sent again"
    assert all(node.stats.bytes_from_head_http == 0 for node in rest), "the mesh was not needed"


def test_a_part_is_continued_and_its_right_pieces_only(site: Site) -> None:
    half = bytearray(site.content)
    half[100 * PIECE :] = bytes(len(half) - 100 * PIECE)
    half[7 * PIECE + 1] ^= 1
    part_path(site.directory / "node").write_bytes(half)
    node = site.fetch("node")
    site.await_all()
    assert node.stats.bytes_had == 99 * PIECE
    assert site.relay == site.blob.size - 99 * PIECE
    assert node.stats.hash_failures == 0


def test_without_a_planner_the_mesh_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_words: object) -> None:
        raise RookeryError("no planner today", kind=ErrorKind.UNAVAILABLE)

    monkeypatch.setattr(site.head.services.planner, "ask", gone)
    nodes = [site.fetch(f"node{number}") for number in range(2)]
    site.await_all()
    assert site.relay == 0
    assert all(node.stats.bytes_from_head + node.stats.bytes_from_peers >= site.blob.size for node in nodes)


def test_a_planner_that_goes_while_pieces_come_holds_nothing_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.head.services.seeder.set_rate(8_000_000)
    nodes = [site.fetch(f"node{number}") for number in range(2)]
    wait_until(lambda: all(node.pieces > 10 for node in nodes), "pieces come")

    def gone(*_words: object) -> None:
        raise RookeryError("no planner any more", kind=ErrorKind.UNAVAILABLE)

    monkeypatch.setattr(site.head.services.planner, "ask", gone)
    site.await_all()
    assert all(node.stats.bytes_from_head_http == 0 for node in nodes)
    assert site.relay < 1.5 * site.blob.size


def test_a_bad_piece_at_the_head_is_never_passed_on(site: Site) -> None:
    path = site.head.services.store.path(site.blob.sha256)
    path.chmod(0o644)
    damaged = bytearray(site.content)
    damaged[150 * PIECE] ^= 1
    path.write_bytes(damaged)
    nodes = [site.fetch(f"node{number}") for number in range(2)]
    wait_until(lambda: all(node.pieces >= 150 for node in nodes), "what is right came")
    time.sleep(1.0)
    for node in nodes:
        assert not node.done.is_set()
        assert node.fetcher._chain is not None
        assert not node.fetcher._chain.book.has(150)
    # Somebody who has a right copy helps.
    (site.directory / "good").write_bytes(site.content)
    stop = threading.Event()
    good = Fetcher(site.blob, site.torrent, site.source, site.directory / "good", relay_port=free_port())
    good.run()
    thread = threading.Thread(target=good.give, args=(None, stop))
    thread.start()
    try:
        site.await_all(*nodes)
    finally:
        stop.set()
        thread.join()
        good.close()
    assert sum(node.stats.hash_failures for node in nodes) >= 1


def test_a_port_that_another_has_is_passed_over(site: Site) -> None:
    first = site.fetch("first")
    site.await_all()
    second = Fetcher(site.blob, site.torrent, site.source, site.directory / "second", relay_port=first.port)
    with second:
        stats = second.run()
        assert second._chain is not None
        assert second._chain._giver is not None
        port = second._chain._giver.port
        assert first.port < port < first.port + 100
        assert f"127.0.0.1:{port}" in site.head.services.planner.swarms[site.blob.sha256].members
    assert (site.directory / "second").read_bytes() == site.content
    assert stats.hash_failures == 0


def test_who_has_the_file_by_the_chain_joins_the_mesh_a_moment_later(site: Site) -> None:
    stop = threading.Event()

    def present() -> int:
        return site.head.services.tracker.present(site.blob.info_hash, time.monotonic())

    before = present()
    with Fetcher(site.blob, site.torrent, site.source, site.directory / "node", relay_port=free_port()) as node:
        node.run()
        assert (site.directory / "node").read_bytes() == site.content
        assert node._swarm is None
        giving = threading.Thread(target=node.give, args=(None, stop))
        giving.start()
        try:
            wait_until(lambda: present() > before, "the tracker knows it")
        finally:
            stop.set()
            giving.join()
