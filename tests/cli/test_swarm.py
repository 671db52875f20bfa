# SPDX-License-Identifier: Apache-2.0
"""`rookery serve` and `rookery fetch` as real processes on hosts of their own: what happens when one of them is killed,
or its bytes go bad."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from lab.swarm.measure import device_traffic
from rookery import run
from rookery.cli.connection import connect
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Node, Version
from rookery.head.config import Paths, load
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.node.talk import Head as NodeHead
from rookery.wire import routes
from rookery.wire.facts import Facts
from rookery.wire.manifest import Blob, Role, parse_payload
from rookery.wire.orders import Hello, Word
from rookery.wire.report import Report, Step, Transfer

# The first test of a run may have to wait until an agent is packed.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADDRESS = "10.79.0.1"
MAC = "52:54:00:79:00:01"
BOOT = "ab" * 16
SIZE = 16_000_000
PIECE = 64 << 10
MBIT = 1_000_000
PATIENCE = 120.0


def wait_until(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


class Fetch:
    """A `rookery fetch` of the image on a host."""

    def __init__(self, child: run.Child, to: Path, host: netns.Host) -> None:
        self.child, self.to, self.host = child, to, host

    @property
    def root(self) -> Path:
        return self.to / "root.squashfs"

    def stats(self) -> dict[str, Any]:
        assert self.child.wait(PATIENCE) == 0, (self.to / "log").read_text()
        found: dict[str, Any] = json.loads((self.to / "stats").read_text())
        return found


class Flood:
    """A head in a room, with one image and one node that is to run it."""

    def __init__(self, place: Any, room: netns.Room, version: Version, stack: contextlib.ExitStack) -> None:
        self.place, self.room, self.version, self.stack = place, room, version, stack
        self.host = room.host(f"{ADDRESS}/24")
        self.paths = Paths(place.directory)
        self.url = ""

    @property
    def blob(self) -> Blob:
        return parse_payload(self.version.manifest.signed_bytes).blob(Role.ROOT)

    @contextlib.contextmanager
    def serving(self) -> Iterator[run.Child]:
        argv = [*self.words("serve"), "--dir", str(self.place.directory)]
        with self.place.log.open("ab") as sink, self.room.process(self.host, argv, stdout=sink, stderr=sink) as child:
            self.place.wait(child)
            yield child

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rookery.cli", *words]

    def call(self, *words: str, code: int = 0) -> str:
        done = self.place.process(*words)
        assert done.code == code, done.stderr
        return done.stdout

    def fetch(self, number: int, *more: str) -> Fetch:
        """Start a fetch on a new host."""
        self.url = self.url or json.loads(self.call("ticket", "base", "--json"))["url"]
        to = self.place.directory.parent / f"host{number}"
        to.mkdir(exist_ok=True)
        argv = [*self.words("fetch", self.url, "--to", str(to), "--stats", str(to / "stats")), *more]
        sink = self.stack.enter_context((to / "log").open("ab"))
        host = self.room.host(f"10.79.0.{number}/24")
        return Fetch(self.stack.enter_context(self.room.process(host, argv, stdout=sink, stderr=sink)), to, host)

    def sent(self) -> int:
        """Bytes of the root that the head's seeder gave since it was started."""
        with connect(self.place.directory) as client:
            return sum(given.sent for given in client.head().seeding)

    def node(self) -> dict[str, Any]:
        (found,) = json.loads(self.call("status", "n1", "--json"))["nodes"]
        return dict(found)


@pytest.fixture
def flood(place: Any, tmp_path: Path) -> Iterator[Flood]:
    paths = Paths(place.directory)
    paths.config.write_text(re.sub(r'(?m)^address = "[^"]*"', f'address = "{ADDRESS}"', paths.config.read_text()))
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    parts = [tmp_path / name for name in ("root.squashfs", "kernel", "drivers.cpio")]
    for part, size in zip(parts, (SIZE, 10_000, 10_000), strict=True):
        part.write_bytes(os.urandom(size))
    shutil.copy(parts[0], tmp_path / "original")
    built = BuiltImage(*parts, kernel_release="6.1.0", architecture="x86_64", packages={})
    version = publisher.image("base", built, "", "latest", silent, threading.Event())
    catalog.add_nodes([Node("n1", (MAC,), image="base:latest")])
    catalog.close()
    with netns.room() as room, contextlib.ExitStack() as stack:
        yield Flood(place, room, version, stack)


def journey(flood: Flood) -> tuple[NodeHead, Report]:
    """A node's own words with the head, up to the middle of its fetch."""
    url = f"http://{ADDRESS}:{load(flood.place.directory).network.port}"
    with urllib.request.urlopen(f"{url}{routes.SCRIPT}?mac={MAC}&uuid=&arch=x86_64&firmware=efi") as answer:
        token = re.search(r"rookery\.token=(\S+)", answer.read().decode())
    assert token
    welcome = NodeHead(url).hello(Hello(token[1], BOOT, Facts("x86_64", "uefi", 2, "QEMU", 1 << 30, "6.1.0", "0")))
    node = NodeHead(url, welcome.credential)
    half = Transfer(total=SIZE, done=SIZE // 2, from_head=SIZE // 4, from_peers=SIZE // 4)
    report = Report(BOOT, 1, Step.FETCH, {"kernel": 1.5}, half, flood.version.id)
    assert node.orders().manifest == flood.version.manifest
    assert node.report(report).word is Word.GO_ON
    return node, report


def test_the_head_is_killed_in_the_middle_and_started_again(flood: Flood, tmp_path: Path) -> None:
    original = (tmp_path / "original").read_bytes()
    with flood.serving() as head:
        flood.room.shape(flood.host, 24 * MBIT)
        with netns.entered(flood.host.namespace):
            node, report = journey(flood)
        before = flood.node()
        fetches = [flood.fetch(number) for number in (2, 3, 4)]
        wait_until(lambda: flood.sent() > SIZE // 2, "half of a copy was given")
        head.kill()
        head.wait()
    assert not any(fetch.root.exists() for fetch in fetches), "the head was killed too late to matter"
    flood.call("status", code=6)

    with flood.serving():
        # Right away: everything that the head knew, it knows.
        after = flood.node()
        assert (after["state"], after["step"], after["version"]) == ("provisioning", "fetch", flood.version.id)
        assert after == before
        assert json.loads(flood.call("image", "list", "--json"))["images"][0]["versions"][0]["id"] == flood.version.id
        # The node goes on with the session that it has, and gets ready.
        with netns.entered(flood.host.namespace):
            done = replace(report.transfer, done=SIZE)
            ready = replace(report, sequence=9, step=Step.READY, transfer=done, system="running")
            assert node.report(ready).word is Word.GO_ON
        assert flood.node()["state"] == "ready"
        # Those that were fetching have gone on by themselves.
        account = [fetch.stats() for fetch in fetches]
        for fetch, stats in zip(fetches, account, strict=True):
            assert fetch.root.read_bytes() == original
            assert stats["hash_failures"] == 0
            assert re.search(r"MB of 16\.0 MB, \d", (fetch.to / "log").read_text()), "it said where it was"
        assert sum(stats["bytes_from_peers"] for stats in account) > 0
        flood.call("image", "verify", "base")
        kinds = [event["kind"] for event in json.loads(flood.call("events", "--json"))["events"]]
        assert "bad-copy" not in kinds
        assert kinds[-1] == "ready"
        assert list(flood.paths.work.iterdir()) == []


def test_a_fetching_machine_is_killed_and_the_others_finish(flood: Flood, tmp_path: Path) -> None:
    with flood.serving():
        flood.room.shape(flood.host, 24 * MBIT)
        fetches = [flood.fetch(number) for number in (2, 3, 4)]
        wait_until(lambda: flood.sent() > SIZE // 2, "half of a copy was given")
        fetches[0].child.kill()
        assert not fetches[0].root.exists()
        for fetch in fetches[1:]:
            fetch.stats()
            assert fetch.root.read_bytes() == (tmp_path / "original").read_bytes()


def bad_copies(flood: Flood) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(flood.call("events", "--json"))["events"]
    return [event for event in events if event["kind"] == "bad-copy"]


def test_a_flipped_byte_in_a_stored_piece_is_told_and_comes_from_somebody_else(flood: Flood, tmp_path: Path) -> None:
    with flood.serving():
        helper = flood.fetch(2, "--seed", "300")
        wait_until(helper.root.exists, "the helper has its copy")
        helper.child.kill()  # else nobody would ask the head
    stored = flood.paths.blobs / flood.blob.sha256
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)[0]
        file.seek(SIZE // 2)
        file.write(bytes([byte ^ 1]))
    with flood.serving():
        fetch = flood.fetch(3)
        wait_until(lambda: bad_copies(flood), "the head knows of its own copy")
        helper = flood.fetch(2, "--seed", "300")
        stats = fetch.stats()
        assert fetch.root.read_bytes() == (tmp_path / "original").read_bytes()
        assert device_traffic(helper.host.namespace, netns.DEVICE).sent > PIECE, stats
        told = bad_copies(flood)
        assert len(told) == 1
        assert flood.blob.sha256[:12] in told[0]["message"]
        flood.call("image", "verify", "base", code=8)
