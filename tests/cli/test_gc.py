# SPDX-License-Identifier: Apache-2.0
"""Collecting while a deployment runs: a real head, and nodes with sessions of their own that fetch from it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from rookery import codec, run
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
from rookery.wire.manifest import Role, parse_payload
from rookery.wire.orders import FetchOffer, Hello, Orders
from rookery.wire.report import Report, Step, Transfer

# The first test of a run may have to wait until an agent is packed.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADDRESS = "10.83.0.1"
SIZE = 12_000_000
MBIT = 1_000_000


def mac(number: int) -> str:
    return f"52:54:00:83:00:{number:02x}"


@pytest.fixture
def versions(place: Any, tmp_path: Path) -> tuple[Version, Version]:
    """Two versions of `base` in a head that does not run: `latest` is the first, `next` the second. Nodes n1 and n2."""
    paths = Paths(place.directory)
    paths.config.write_text(re.sub(r'(?m)^address = "[^"]*"', f'address = "{ADDRESS}"', paths.config.read_text()))
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    made = []
    for tag in ("latest", "next"):
        parts = [tmp_path / name for name in ("root.squashfs", "kernel", "drivers.cpio")]
        for part, size in zip(parts, (SIZE, 10_000, 10_000), strict=True):
            part.write_bytes(os.urandom(size))
        built = BuiltImage(*parts, kernel_release="6.1.0", architecture="x86_64", packages={})
        made.append(publisher.image("base", built, "", tag, silent, threading.Event()))
    catalog.add_nodes([Node(f"n{number}", (mac(number),), image="base:latest") for number in (1, 2)])
    catalog.close()
    return made[0], made[1]


class Machine:
    """A node as far as the head can tell: it asks for its script, says hello, takes orders, reports; and its fetch."""

    def __init__(self, place: Any, number: int) -> None:
        self.number, self.url = number, f"http://{ADDRESS}:{load(place.directory).network.port}"
        self.boot_id = f"{number:032x}"

    def script(self) -> str:
        url = f"{self.url}{routes.SCRIPT}?mac={mac(self.number)}&uuid=&arch=x86_64&firmware=efi"
        with urllib.request.urlopen(url) as answer:
            return str(answer.read().decode())

    def orders(self) -> Orders:
        token = re.search(r"rookery\.token=(\S+)", self.script())
        assert token
        facts = Facts("x86_64", "uefi", 2, "QEMU", 1 << 30, "6.1.0", "0")
        welcome = NodeHead(self.url).hello(Hello(token[1], self.boot_id, facts))
        self.head = NodeHead(self.url, welcome.credential)
        return self.head.orders()

    def report(self, sequence: int, step: Step, version: str) -> None:
        transfer = Transfer(total=SIZE, done=SIZE if step is Step.READY else SIZE // 2)
        self.head.report(Report(self.boot_id, sequence, step, {}, transfer, version, system="running"))


@contextlib.contextmanager
def fetching(room: netns.Room, machine: Machine, orders: Orders, key: str, to: Path) -> Iterator[run.Child]:
    to.mkdir()
    (to / "offer.json").write_text(codec.dumps(FetchOffer(orders.manifest, orders.source)))
    host = room.host(f"10.83.0.{machine.number + 1}/24")
    words = ["fetch", str(to / "offer.json"), "--key", key, "--to", str(to)]
    with (to / "log").open("wb") as sink:
        argv = [sys.executable, "-m", "rookery.cli", *words]
        with room.process(host, argv, stdout=sink, stderr=sink) as child:
            yield child


def test_collecting_in_the_middle_of_a_deployment(
    place: Any, versions: tuple[Version, Version], tmp_path: Path
) -> None:
    old, new = versions
    new_blobs = {blob.sha256 for blob in parse_payload(new.manifest.signed_bytes).blobs}
    root = parse_payload(old.manifest.signed_bytes).blob(Role.ROOT)
    store = Paths(place.directory).blobs

    def call(*words: str, code: int = 0) -> run.Completed:
        done = place.process(*words)
        assert done.code == code, done.stderr
        return done  # type: ignore[no-any-return]

    with netns.room() as room, contextlib.ExitStack() as stack:
        host = room.host(f"{ADDRESS}/24")
        log = stack.enter_context(place.log.open("ab"))
        argv = [sys.executable, "-m", "rookery.cli", "serve", "--dir", str(place.directory)]
        place.wait(stack.enter_context(room.process(host, argv, stdout=log, stderr=log)))
        room.shape(host, 16 * MBIT)
        machines = [Machine(place, 1), Machine(place, 2)]
        key = SiteKey.load(Paths(place.directory)).public
        with netns.entered(host.namespace):
            orders = [machine.orders() for machine in machines]
        fetches = [
            stack.enter_context(fetching(room, machine, order, key, tmp_path / f"n{machine.number}"))
            for machine, order in zip(machines, orders, strict=True)
        ]
        # The tag moves on while they are on their way: nothing but the nodes holds the first version now.
        call("image", "tag", "base", "latest", "next")
        collected = 0
        while any(fetch.poll() is None for fetch in fetches):
            found = json.loads(call("image", "gc", "-y", "--json").stdout)
            assert found["going"] == []
            assert "run by n[1-2]" in {item["reason"] for item in found["staying"]}
            collected += 1
        assert collected >= 2, "the fetches were over before anything was collected"
        refused = call("image", "rm", "base", "--version", old.id, "-y", code=4)
        assert "n[1-2] running it" in refused.stderr
        for fetch, machine in zip(fetches, machines, strict=True):
            to = tmp_path / f"n{machine.number}"
            assert fetch.wait(60) == 0, (to / "log").read_text()
            assert (to / "root.squashfs").read_bytes() == (store / root.sha256).read_bytes()
        with netns.entered(host.namespace):
            for machine in machines:
                machine.report(1, Step.READY, old.id)
            assert json.loads(call("image", "gc", "-y", "--json").stdout)["going"] == []
            # One is started again and gets the second version; the other still runs the first.
            machines[0].boot_id = "f" * 32
            assert parse_payload(machines[0].orders().manifest.signed_bytes).version == new.id
            found = json.loads(call("image", "gc", "-y", "--json").stdout)
            assert {item["reason"] for item in found["staying"]} == {"tagged latest, next", "run by n2"}
            machines[1].boot_id = "e" * 32
            machines[1].orders()
        found = json.loads(call("image", "gc", "-y", "--json").stdout)
        assert [version["id"] for version in found["going"]] == [old.id]
        left = {path.name for path in store.iterdir() if re.fullmatch(r"[0-9a-f]{64}", path.name)}
        assert left == new_blobs
        call("image", "verify", "--all")
