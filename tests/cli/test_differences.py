# SPDX-License-Identifier: Apache-2.0
"""`rookery serve`, `publish` and `fetch` as real processes on hosts of their own: the second version costs what
changed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from rookery import run
from rookery.cli.connection import connect
from rookery.head.config import Paths
from rookery.wire import chunks

# The first test of a run may have to wait until an agent is packed.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADDRESS = "10.78.0.1"
SIZE = 30_000_000
PATIENCE = 120.0


def wait_until(true: Callable[[], object], what: str, step: float = 0.05) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(step)


def first_version(size: int = SIZE) -> bytes:
    return random.Random(1).randbytes(size)


def second_version(old: bytes) -> bytes:
    """A stretch changed, something put in, something taken out, something at the end."""
    dice, third = random.Random(2), len(old) // 3
    return (
        old[:third]
        + dice.randbytes(300_000)
        + old[third + 300_000 : 2 * third]
        + b"put in"
        + old[2 * third + 5000 :]
        + dice.randbytes(100_000)
    )


class Host:
    """A host that fetches into a directory of its own."""

    def __init__(self, flood: Flood, number: int) -> None:
        self.flood = flood
        self.host = flood.room.host(f"10.78.0.{number}/24")
        self.to = flood.directory / f"host{number}"
        self.to.mkdir()

    def start(self, url: str, *more: str) -> run.Child:
        stats = self.to / "stats"
        stats.unlink(missing_ok=True)
        argv = [*words("fetch", url, "--to", str(self.to), "--stats", str(stats)), *more]
        sink = self.flood.stack.enter_context((self.to / "log").open("ab"))
        return self.flood.stack.enter_context(self.flood.room.process(self.host, argv, stdout=sink, stderr=sink))

    def stats(self, child: run.Child) -> dict[str, Any]:
        assert child.wait(PATIENCE) == 0, (self.to / "log").read_text()
        return self.read()

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.to / "stats").read_text())
        return found

    def fetch(self, url: str, *more: str) -> dict[str, Any]:
        return self.stats(self.start(url, *more))

    @property
    def file(self) -> Path:
        return self.to / "data.img"


class Flood:
    """A running head in a room, and what it publishes."""

    def __init__(self, place: Any, room: netns.Room, directory: Path, stack: contextlib.ExitStack) -> None:
        self.place, self.room, self.directory, self.stack = place, room, directory, stack
        self.source = directory / "data.img"
        self.number = 1

    def publish(self, content: bytes) -> str:
        """The URL of a new version."""
        self.source.write_bytes(content)
        done = self.place.process("publish", str(self.source), "--as", "data", "--json")
        assert done.code == 0, done.stderr
        url: str = json.loads(done.stdout)["url"]
        return url

    def host(self) -> Host:
        self.number += 1
        return Host(self, self.number)

    def sent(self) -> int:
        """Bytes of blobs that the head's seeder and relay gave."""
        with connect(self.place.directory) as client:
            return sum(given.sent for given in client.head().seeding)


def words(*more: str) -> list[str]:
    return [sys.executable, "-m", "rookery.cli", *more]


@pytest.fixture
def flood(place: Any, tmp_path: Path) -> Iterator[Flood]:
    paths = Paths(place.directory)
    paths.config.write_text(re.sub(r'(?m)^address = "[^"]*"', f'address = "{ADDRESS}"', paths.config.read_text()))
    with netns.room() as room, contextlib.ExitStack() as stack:
        head = room.host(f"{ADDRESS}/24")
        sink = stack.enter_context(place.log.open("ab"))
        argv = [*words("serve"), "--dir", str(place.directory)]
        child = stack.enter_context(room.process(head, argv, stdout=sink, stderr=sink))
        place.wait(child)
        yield Flood(place, room, tmp_path, stack)


def test_two_nodes_update_and_a_third_gets_it_all_from_them(flood: Flood) -> None:
    old = first_version()
    new = second_version(old)
    one, two, three = flood.host(), flood.host(), flood.host()
    url = flood.publish(old)
    for child in [one.start(url), two.start(url)]:
        assert child.wait(PATIENCE) == 0
    assert one.file.read_bytes() == two.file.read_bytes() == old
    # Their chunk indexes came with them, down the chain: the head's route is for those who have only the file.
    assert all(len(chunks.parse((host.to / ".data.img.chunks").read_bytes())) > 1000 for host in (one, two))

    url, before = flood.publish(new), flood.sent()
    giving = one.start(url, "--seed", "600")
    wait_until(lambda: one.file.stat().st_size == len(new), "the first node has updated")
    updated = two.fetch(url)
    assert updated["bytes_from_head"] == 0
    assert 400_000 <= updated["bytes_from_peers"] <= 700_000
    assert updated["bytes_had"] == updated["bytes_filled"] == SIZE + 100_000 - 5000 + 6 - updated["bytes_from_peers"]
    # One that has nothing is given all of it, filled pieces too.
    fresh = three.fetch(url)
    assert fresh["bytes_from_peers"] == fresh["bytes_total"]
    assert one.file.read_bytes() == two.file.read_bytes() == three.file.read_bytes() == new
    giving.terminate()
    assert one.stats(giving)["bytes_from_head"] == flood.sent() - before <= 700_000


def test_both_at_once_take_one_copy_of_the_difference(flood: Flood) -> None:
    old = first_version()
    new = second_version(old)
    hosts = [flood.host(), flood.host()]
    url = flood.publish(old)
    for host in hosts:
        host.file.write_bytes(old)  # as copied from elsewhere: the head knows its chunks by its digest
    url, before = flood.publish(new), flood.sent()
    children = [host.start(url, "--seed", "5") for host in hosts]
    for host, child in zip(hosts, children, strict=True):
        assert host.stats(child)["bytes_filled"] > SIZE - 700_000
        assert host.file.read_bytes() == new
    assert 400_000 <= flood.sent() - before <= 1_400_000


def test_an_older_version_that_has_rotten_does_no_harm(flood: Flood) -> None:
    old = first_version()
    new = second_version(old)
    host = flood.host()
    host.fetch(flood.publish(old))
    rotten = bytearray(old)
    for place in range(0, SIZE, SIZE // 10):
        rotten[place] ^= 1
    host.file.write_bytes(rotten)
    stats = host.fetch(flood.publish(new))
    assert host.file.read_bytes() == new
    assert 400_000 < stats["bytes_from_head"] < 2_000_000
    assert stats["hash_failures"] == 0


def test_one_that_is_killed_while_it_fills_goes_on(flood: Flood) -> None:
    old = first_version(250_000_000)
    new = second_version(old)
    host = flood.host()
    flood.publish(old)
    host.file.write_bytes(old)
    url, part = flood.publish(new), host.to / ".data.img.part"

    def under_way() -> bool:
        return part.exists() and part.stat().st_blocks * 512 > 10_000_000

    child = host.start(url)
    wait_until(under_way, "it fills", step=0.001)
    child.kill()
    child.wait(PATIENCE)
    assert host.file.read_bytes() == old, "the older version stays until the new one is whole"
    left = part.stat().st_blocks * 512
    assert 10_000_000 < left < len(new)
    stats = host.fetch(url)
    assert host.file.read_bytes() == new
    assert stats["bytes_had"] - stats["bytes_filled"] >= 9_000_000
    assert stats["bytes_from_head"] < 1_000_000


def test_a_named_file_is_of_use_and_the_account_says_so(flood: Flood, tmp_path: Path) -> None:
    old = first_version()
    flood.publish(old)
    (tmp_path / "elsewhere").write_bytes(old)
    url, host = flood.publish(second_version(old)), flood.host()
    host.fetch(url, "--have", str(tmp_path / "elsewhere"))
    assert host.file.read_bytes() == second_version(old)
    assert re.search(
        r"29\.\d MB from older versions; from 0 peers 0 %, from the head 100 %", (host.to / "log").read_text()
    )
    # The same content under another name: nothing is fetched.
    other = flood.host()
    stats = other.fetch(url, "--have", str(host.file))
    assert (stats["bytes_filled"], stats["bytes_from_head"], stats["bytes_from_peers"]) == (stats["bytes_total"], 0, 0)
    assert os.stat(other.file).st_size == stats["bytes_total"]
