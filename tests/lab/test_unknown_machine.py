# SPDX-License-Identifier: Apache-2.0
"""A machine that nobody named, against a real head: real firmware, dnsmasq, iPXE, `rookery serve`, and the operator's
commands."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns, qemu
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import DhcpMode, Paths
from rookery.head.init import Settings, initialise
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.run import run

ADDRESS = "10.78.1.1"
MAC = "52:54:00:78:01:09"
STRANGER = "x-525400780109"

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


class Head:
    """A head that serves on the bridge of a room of its own."""

    def __init__(self, paths: Paths, room: netns.Room) -> None:
        self.paths, self.room = paths, room

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rookery.cli", *words, "--dir", str(self.paths.directory)]

    def call(self, *words: str) -> str:
        done = run(self.words(*words), check=False)
        assert done.code == 0, done.stderr
        return done.stdout

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in json.loads(self.call("status", "--json"))["nodes"]}

    def wait_for(self, guest: qemu.Guest, what: Callable[[dict[str, dict[str, Any]]], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not what(nodes := self.nodes()):
            assert guest.running, guest.complaints()
            assert time.monotonic() < until, f"{json.dumps(nodes, indent=1)}\n{guest.text()[-2000:]}"
            time.sleep(0.5)


@pytest.fixture
def head(tmp_path: Path, built: BuiltImage) -> Iterator[Head]:
    """With the example image, and without a single node."""
    paths = Paths(tmp_path / "head")
    initialise(
        paths.directory, Settings(netns.BRIDGE, ADDRESS, dhcp=DhcpMode.FULL, dhcp_range="10.78.1.100-10.78.1.150")
    )
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    publisher.image("base", built, "", "latest", silent, threading.Event())
    catalog.close()
    log = tmp_path / "head.log"
    with netns.room() as room, log.open("wb") as sink:
        room.hub_address(f"{ADDRESS}/24")
        found = Head(paths, room)
        with room.process(None, found.words("serve"), stdout=sink, stderr=sink) as process:
            until = time.monotonic() + 180
            while run(found.words("status"), check=False).code != 0:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield found


def test_a_machine_that_nobody_named_is_told_to_wait_and_boots_by_itself_once_assigned(
    head: Head, tmp_path: Path
) -> None:
    machine = qemu.Machine("stranger", MAC, tmp_path / "machine", namespace=head.room.hub, bridge=netns.BRIDGE)
    with qemu.boot(machine) as guest:
        guest.wait_for(rf"Rookery: this machine is {STRANGER} \({MAC}\) and waits for", 120)  # it wraps there
        (node,) = head.nodes().values()
        assert (node["name"], node["state"], node["image"]) == (STRANGER, "discovered", "")
        assert "discovered" in head.call("status", STRANGER)

        head.call("node", "rename", STRANGER, "n17", "-y")
        head.call("deploy", "n17", "--image", "base", "-y")
        # Nobody touches the machine: it asks again, and gets a name and a system.
        guest.wait_for("Rookery: n17 boots base:latest", 120)
        guest.wait_for("hello .* this is n17", 300)
        head.wait_for(guest, lambda nodes: nodes["n17"]["state"] == "ready", 300)
        shown = json.loads(head.call("node", "show", "n17", "--json"))
        assert shown["node"]["macs"] == [MAC]
        assert shown["facts"]["network_cards"][0]["address"].startswith("10.78.1.1")
        assert list(head.nodes()) == ["n17"]
    kinds = [event["kind"] for event in json.loads(head.call("events", "--json"))["events"]]
    wanted = ["discovered", "assigned", "booting", "provisioning", "ready"]
    assert [kind for kind in kinds if kind in wanted] == wanted
