# SPDX-License-Identifier: Apache-2.0
"""A node keeps to its cap, relay and mesh together, and marks what it gives as background traffic."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import background, netns
from lab.givers import HEAD, MB, Shelf, started
from lab.swarm.measure import traffic
from rookery.relay.frames import BACKGROUND, RELAY_PORT

GIVER, TAKER, NODE = "10.88.0.2", "10.88.0.3", "10.88.0.4"
RATE = 2 * MB
SECONDS = 5.0
ALL_PROTOCOLS = 0x0003  # ETH_P_ALL
OUTGOING = 4  # PACKET_OUTGOING


class Place:
    """A head that refuses nothing, and hosts."""

    def __init__(self, room: netns.Room, shelf: Shelf, stack: contextlib.ExitStack) -> None:
        self.room, self.shelf, self._stack = room, shelf, stack
        self.head, self.giver, self.taker, self.node = (
            room.host(f"{address}/24") for address in (HEAD, GIVER, TAKER, NODE)
        )

    def start(self, host: netns.Host, role: str, *words: object) -> None:
        self._stack.enter_context(started(self.room, host, role, self.shelf, *words))

    def take(self, giver: netns.Host) -> None:
        """One takes by the relay, one by the mesh."""
        for role in ("relay", "mesh"):
            self.start(self.taker, role, "--giver", giver.address)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    shelf = Shelf(tmp_path)
    shelf.fill(40)
    with netns.room() as room, contextlib.ExitStack() as stack:
        yield Place(room, shelf, stack)


def leaving(host: netns.Host, seconds: float) -> float:
    """Bytes per second that leave a host's card."""
    began, before = time.monotonic(), traffic(host).sent
    time.sleep(seconds)
    return (traffic(host).sent - before) / (time.monotonic() - began)


def until_it_gives(host: netns.Host, patience: float = 30.0) -> None:
    before, until = traffic(host).sent, time.monotonic() + patience
    while traffic(host).sent - before < MB:
        assert time.monotonic() < until, "it gives nothing"
        time.sleep(0.1)


@pytest.mark.system
def test_after_boot_relay_and_mesh_together_keep_to_the_seed_rate(place: Place) -> None:
    place.start(place.head, "head")
    place.start(place.giver, "giver", "--rate", RATE)
    place.take(place.giver)
    until_it_gives(place.giver)
    assert 0.5 * RATE < leaving(place.giver, SECONDS) < 1.3 * RATE


@pytest.mark.system
def test_a_node_that_fetches_by_the_chain_keeps_to_node_rate(place: Place) -> None:
    place.start(place.head, "head", "--parents", f"{GIVER}:{RELAY_PORT}")
    place.start(place.giver, "giver")
    place.room.shape(place.giver, 40_000_000)  # so that it fetches all the time
    place.start(place.node, "fetcher", "--rate", RATE)
    time.sleep(0.5)
    place.take(place.node)
    until_it_gives(place.node)
    came = traffic(place.node).received
    assert 0.5 * RATE < leaving(place.node, 3.0) < 1.3 * RATE
    assert traffic(place.node).received - came > 9 * MB


@pytest.mark.system
def test_a_node_that_fetches_by_the_mesh_keeps_to_node_rate(place: Place) -> None:
    # A parent that nobody hears: the node gives up the chain and goes on in the mesh, and gives in both.
    place.start(place.head, "head", "--parents", f"{TAKER}:1")
    place.start(place.giver, "giver")
    place.room.shape(place.giver, 20_000_000)
    place.start(place.node, "fetcher", "--rate", RATE, "--giver", GIVER)
    place.take(place.node)
    until_it_gives(place.node)
    assert 0.5 * RATE < leaving(place.node, SECONDS) < 1.3 * RATE


@pytest.mark.system
def test_what_the_relay_gives_is_marked_as_lower_effort(place: Place) -> None:
    place.start(place.head, "head")
    place.start(place.giver, "giver", "--rate", RATE)
    with (
        netns.entered(place.giver.namespace),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS)) as card,
    ):
        card.bind((netns.DEVICE, ALL_PROTOCOLS))
        card.settimeout(20)
        place.start(place.taker, "relay", "--giver", GIVER)
        marks = []
        while len(marks) < 20:
            packet, (_, _, kind, *_) = card.recvfrom(65536)
            is_tcp = kind == OUTGOING and packet[0] == 0x45 and packet[9] == socket.IPPROTO_TCP
            # Of a handshake, the mark is the listener's: only what carries data counts.
            if is_tcp and int.from_bytes(packet[20:22], "big") == RELAY_PORT and len(packet) > 1000:
                marks.append(packet[1])
    assert set(marks) == {BACKGROUND}


def test_the_page_marks_what_lost_more_than_allowed() -> None:
    row = {"layout": "one core", "placing": "service", "by": "both", "cap": 50, "loss": 13.1, "rounds": 1, "seconds": 1}
    more = {"loss_of_rounds": [12.0, 14.0], "sent_mb_per_second": 50.0, "giver_processor": 13.0, "alone_per_second": 9}
    page = background.page(json.loads(json.dumps({"machine": "2 x some", "rows": [row | more]})))
    assert "| one core | service | both | 50 | 13.10 **!** | 12.0 to 14.0 | 50.0 | 13.0 |" in page
