# SPDX-License-Identifier: Apache-2.0
"""A node whose orders change while it boots: the deeds of a real node, against a real head, in a tmpfs of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from rookery import run
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Node
from rookery.head.config import Paths, load
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.node import deeds, places
from rookery.node.action import Action, Kind
from rookery.node.cmdline import CommandLine
from rookery.node.console import Console
from rookery.node.fetch.stats import FetchStats
from rookery.node.modes import ram
from rookery.node.network import Network
from rookery.node.plan import Known
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.wire import routes
from rookery.wire.facts import Facts
from rookery.wire.orders import Hello
from rookery.wire.report import Report, Step

# The first test of a run may have to wait until an agent is packed.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADDRESS, MAC, BOOT = "10.85.0.1", "52:54:00:85:00:01", "ab" * 16
FACTS = Facts("x86_64", "uefi", 2, "QEMU", 1 << 32, "6.1.0", "0")
OLD = random.Random(1).randbytes(40_000_000)
# Changed in the middle, and so much smaller that a limit for it alone is below what the first one takes.
NEW = OLD[:12_000_000] + random.Random(2).randbytes(300_000) + OLD[12_300_000:20_000_000]
assert len(NEW) + ram.SLACK < len(OLD)


class Booting:
    """A machine that asked for its script and said hello."""

    def __init__(self, url: str, where: netns.Host, site_key: Path) -> None:
        self.where, self.site_key, self._url = where, site_key, url
        numbers = itertools.count(1)
        reporter = Reporter(Report(BOOT, 0, Step.ORDERS), lambda: next(numbers), lambda _record: None)
        known, network = Known(CommandLine(), facts=FACTS), Network(site_key.parent)
        self.traveller = deeds.Traveller(BOOT, known, network, Console([]), reporter, Head(url))
        self.ask()

    def ask(self) -> None:
        with netns.entered(self.where.namespace):
            script = f"{self._url}{routes.SCRIPT}?mac={MAC}&uuid=&arch=x86_64&firmware=efi"
            with urllib.request.urlopen(script) as answer:
                token = re.search(r"rookery\.token=(\S+)", answer.read().decode())
            assert token
            welcome = Head(self._url).hello(Hello(token[1], BOOT, FACTS))
        self.traveller.head = Head(self._url, welcome.credential)

    def try_once(self) -> FetchStats:
        """From new orders to a root whose digest was compared, as the journey does it."""
        with netns.entered(self.where.namespace):
            deeds.do(self.traveller, Action(Step.ORDERS, Kind.TAKE_ORDERS, self._url, "because"))
            deeds.do(self.traveller, Action(Step.ORDERS, Kind.CHECK_MANIFEST, str(self.site_key), "because"))
            assert self.traveller.known.manifest is not None
            mount, *others = ram.plan(self.traveller.known.manifest, FACTS)
            for action in (dataclasses.replace(mount, subject=str(places.BLOBS)), *others[:2]):
                deeds.do(self.traveller, action)
        assert self.traveller.fetched is not None
        return self.traveller.fetched

    def held(self) -> list[bytes]:
        return [path.read_bytes() for path in places.BLOBS.iterdir()]

    def close(self) -> None:
        deeds._leave_swarm(self.traveller)
        self.traveller.reporter.close()


@dataclasses.dataclass(frozen=True)
class Site:
    place: Any
    room: netns.Room
    node: Booting

    def order(self, tag: str) -> None:
        assert self.place.process("deploy", "n1", "--image", f"base:{tag}", "-y").code == 0


@pytest.fixture
def site(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A head with two versions of `base`, and n1, which boots the first."""
    paths = Paths(place.directory)
    paths.config.write_text(re.sub(r'(?m)^address = "[^"]*"', f'address = "{ADDRESS}"', paths.config.read_text()))
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    for tag, content in (("old", OLD), ("new", NEW)):
        parts = [tmp_path / name for name in ("root.squashfs", "kernel", "drivers.cpio")]
        for part, data in zip(parts, (content, b"kernel", b"drivers"), strict=True):
            part.write_bytes(data)
        built = BuiltImage(*parts, kernel_release="6.1.0", architecture="x86_64", packages={})
        publisher.image("base", built, "", tag, silent, threading.Event())
    catalog.add_nodes([Node("n1", (MAC,), image="base:old")])
    catalog.close()
    monkeypatch.setattr(places, "BLOBS", tmp_path / "blobs")
    monkeypatch.setattr(places, "TORRENT", tmp_path / "root.torrent")
    with netns.room() as room, contextlib.ExitStack() as stack:
        head, host = room.host(f"{ADDRESS}/24"), room.host("10.85.0.2/24")
        log = stack.enter_context(place.log.open("ab"))
        argv = [sys.executable, "-m", "rookery.cli", "serve", "--dir", str(place.directory)]
        place.wait(stack.enter_context(room.process(head, argv, stdout=log, stderr=log)))
        stack.callback(run.run, ["umount", "-l", places.BLOBS], check=False)
        key = tmp_path / "site.pub"
        key.write_text(SiteKey.load(paths).public)
        node = Booting(f"http://{ADDRESS}:{load(place.directory).network.port}", host, key)
        stack.callback(node.close)
        yield Site(place, room, node)


def test_what_it_holds_of_the_first_version_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    node = site.node
    first = node.try_once()
    assert (first.bytes_from_head, node.held()) == (len(OLD), [OLD])
    site.order("new")
    node.ask()
    again = node.try_once()
    assert again.bytes_filled > len(NEW) - 500_000
    assert 300_000 <= again.bytes_from_head < 500_000
    assert node.held() == [NEW]
    # It gives the new version before it runs it.
    url = json.loads(site.place.process("ticket", "base:new", "--json").stdout)["url"]
    stats, other = tmp_path / "stats.json", site.room.host("10.85.0.3/24")
    argv = [sys.executable, "-m", "rookery.cli", "fetch", url, "--to", str(tmp_path / "out"), "--stats", str(stats)]
    with site.room.process(other, argv) as fetch:
        assert fetch.wait(120) == 0
    assert json.loads(stats.read_text())["bytes_from_peers"] == len(NEW)


def test_without_memory_for_both_the_first_version_goes_before_the_fetch(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = site.node
    node.try_once()
    site.order("new")
    node.ask()
    least = (len(NEW) + ram.LEAST_FREE) >> 10
    monkeypatch.setattr(places, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemTotal:        4000000 kB\nMemAvailable:   {least - 1:>8} kB\n")
    again = node.try_once()
    assert (again.bytes_filled, again.bytes_from_head) == (0, len(NEW))
    assert node.held() == [NEW]
