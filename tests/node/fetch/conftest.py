# SPDX-License-Identifier: Apache-2.0
"""A swarm of real processes in network namespaces: a small head (head_process.py) and nodes (node_process.py)."""

import contextlib
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from rookery.run import PIPE, Child

HERE = Path(__file__).parent
PATIENCE = 60.0  # s, against hanging only


class Talker:
    """A process that prints JSON lines, and what it said so far."""

    def __init__(self, child: Child, log: Path) -> None:
        self.child, self.log = child, log
        self.said: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.said.append({"ended": True})
            self._news.notify_all()

    def wait_for(self, key: str, at_least: float = 0) -> dict[str, Any]:
        """The first thing said that has `key` (a number of at least so much); fails when the process ends before."""
        with self._news:
            deadline = time.monotonic() + PATIENCE
            while True:
                for words in self.said:
                    value = words.get(key)
                    if value is not None and (not isinstance(value, int | float) or value >= at_least):
                        return words
                if (self.said and "ended" in self.said[-1]) or time.monotonic() > deadline:
                    text = self.log.read_text()[-3000:]
                    raise AssertionError(f"never said {key!r}; last said {self.said[-3:]}\n{text}")
                self._news.wait(1.0)

    def stats(self) -> dict[str, Any]:
        """The account of a node that finished."""
        found: dict[str, Any] = self.wait_for("stats")["stats"]
        return found

    def kill(self) -> None:
        """SIGKILL, as when the power goes."""
        self.child.kill()
        self.child.wait()

    def end(self) -> list[dict[str, Any]]:
        """SIGTERM, and everything that was said."""
        self.child.terminate()
        self.child.wait(10)
        self._thread.join(10)
        return self.said


class Swarm:
    """The room with a head's directory and its blob."""

    def __init__(self, room: netns.Room, directory: Path, stack: contextlib.ExitStack) -> None:
        self.room, self.directory, self.stack = room, directory, stack
        self.shelf = directory / "head"
        self.shelf.mkdir()
        self.blob = self.shelf / "blob"
        self.offer = self.shelf / "offer.json"
        self.content = b""
        self.head_host = room.host("10.77.0.1/24")
        self._logs = 0

    def put(self, megabytes: float, seed: int = 1) -> bytes:
        """Lay a blob of random bytes on the head's shelf."""
        self.content = random.Random(seed).randbytes(int(megabytes * 1_000_000))
        self.blob.write_bytes(self.content)
        return self.content

    def start(self, host: netns.Host, script: str, *words: object) -> Talker:
        """Run one of the scripts beside this file inside a host."""
        self._logs += 1
        log = self.directory / f"log{self._logs}"
        errors = self.stack.enter_context(log.open("wb"))
        argv = [sys.executable, str(HERE / script), *map(str, words)]
        child = self.stack.enter_context(self.room.process(host, argv, stdout=PIPE, stderr=errors))
        return Talker(child, log)

    def head(self, *words: object) -> Talker:
        """Start the head (again), and wait until it answers."""
        talker = self.start(self.head_host, "head_process.py", self.shelf, self.head_host.address, *words)
        talker.wait_for("ready")
        return talker

    def host(self, number: int, rate: int = 0) -> netns.Host:
        """A host for a node; rate in bits per second each way."""
        return self.room.host(f"10.77.0.{number}/24", rate=rate)

    def node(self, host: netns.Host, *words: object, offer: Path | None = None) -> Talker:
        """Start a node that fetches to `path(host)`."""
        return self.start(host, "node_process.py", offer or self.offer, self.path(host), *words)

    def path(self, host: netns.Host) -> Path:
        """Where the node on a host puts the file."""
        folder = self.directory / host.address
        folder.mkdir(exist_ok=True)
        return folder / "got"

    def offer_with(self, **source: object) -> Path:
        """The head's offer with something of its source changed."""
        offer = json.loads(self.offer.read_text())
        offer["source"].update(source)
        changed = self.shelf / f"offer{len(list(self.shelf.iterdir()))}.json"
        changed.write_text(json.dumps(offer))
        return changed


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with netns.room() as room, contextlib.ExitStack() as stack:
        yield Swarm(room, tmp_path, stack)
