# SPDX-License-Identifier: Apache-2.0
"""The place of a run: a real head on a host of a room, a published file of random bytes, and hosts for nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import netns
from lab.swarm import measure
from lab.swarm.crew import Crew, Member, crew
from lab.swarm.measure import Wire
from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.run import Child, run

ADDRESS = "10.80.0.1"
MBIT = 1_000_000
MB = 1_000_000
PACKING_SECONDS = 600.0  # the first start of a head packs its agent
MEMORY = Path("/dev/shm")
LOOK = 0.02  # s between two looks at the nodes
SETTLING = 0.5  # s of rest before a run, and again to see what else the processor does
WATCH = 0.25  # s between two calls of a watcher


@dataclass(frozen=True)
class Load:
    """What is moved. size: of the file, MB (10^6 bytes). rate: of every link, each way, Mbit/s (10^6 bits)."""

    size: int
    rate: int

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        return self.size * MB

    @property
    def ideal(self) -> float:
        """Seconds that the bare bytes take on one link."""
        return self.bytes * 8 / (self.rate * MBIT)

    def __str__(self) -> str:
        return f"{self.size} MB at {self.rate} Mbit/s"


class HeadPlace:
    """A head's directory that is kept between runs, so that the agent is packed and files are published once.

    directory: where it, its log and the published files are. segment: nodes of one segment of the chain; 0: as the
    head has it.
    """

    def __init__(self, directory: Path, segment: int = 0) -> None:
        self.directory, self._segment = directory, segment
        self._head = directory / "head"
        self.log = directory / "head.log"
        self._digests: dict[int, str] = {}

    def prepare(self) -> None:
        """Make the head's directory, if there is none yet. Raises RookeryError as `rookery init`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self._head / "rookery.toml").exists():
            run(self._words("init", "--interface", netns.DEVICE, "--address", ADDRESS))
            if self._segment:
                settings = self._head / "rookery.toml"
                settings.write_text(settings.read_text().replace("# segment = 32", f"segment = {self._segment}"))

    def file(self, size: int) -> Path:
        """A file of `size` MB of random bytes; made once."""
        path = self.directory / f"random-{size}.bin"
        if not path.exists() or path.stat().st_size != size * MB:
            with path.open("wb") as out:
                for _ in range(size):
                    out.write(os.urandom(MB))
        return path

    def digest(self, size: int) -> str:
        """The SHA-256 of that file, hex."""
        if size not in self._digests:
            self._digests[size] = files.sha256_file(self.file(size))
        return self._digests[size]

    @contextlib.contextmanager
    def serving(self, room: netns.Room, host: netns.Host) -> Iterator[Child]:
        """The head as a process on a host, from when it answers until the block is left."""
        with (
            self.log.open("ab") as sink,
            room.process(host, self._words("serve"), stdout=sink, stderr=sink) as child,
        ):
            until = time.monotonic() + PACKING_SECONDS
            while run(self._words("image", "list", "--json"), check=False).code != 0:
                if child.poll() is not None or time.monotonic() > until:
                    raise RookeryError(
                        "the head did not start",
                        details="\n".join(self.log.read_text(errors="replace").splitlines()[-20:]),
                    )
                time.sleep(0.1)
            yield child

    def offer(self, size: int) -> str:
        """The URL that a node fetches the file of `size` MB by. The head is running; it is published if it was not."""
        name = f"random-{size}"
        done = run(self._words("ticket", name, "--json"), check=False)
        if done.code != 0:
            done = run(self._words("publish", str(self.file(size)), "--as", name, "--json"))
        return str(json.loads(done.stdout)["url"])

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rookery.cli", *words, "--dir", str(self._head)]


class Stage:
    """A room with a serving head, and nodes that are added to it. Made by `stage()`, for one run.

    room, head: of lab.netns. serving: the head's process. load: what is moved. crew: the nodes.
    """

    def __init__(self, room: netns.Room, head: netns.Host, serving: Child, load: Load, nodes: Crew) -> None:
        self.room, self.head, self.serving, self.load, self.crew = room, head, serving, load, nodes
        self._numbers: dict[int, int] = {}

    def node(self, rate: float | None = None, rack: netns.Rack | None = None, subnet: int = 0) -> Member:
        """A node on a host of its own. rate: of its link, Mbit/s; the load's when None. subnet: the third byte of its
        address, one for each rack."""
        return self.crew.add(self.host(rate, rack, subnet))

    def host(self, rate: float | None = None, rack: netns.Rack | None = None, subnet: int = 0) -> netns.Host:
        """A host for a node."""
        number = self._numbers[subnet] = self._numbers.get(subnet, 9) + 1
        bits = round((self.load.rate if rate is None else rate) * MBIT)
        return self.room.host(f"10.80.{subnet}.{number}/16", rate=bits, rack=rack)

    def nodes(self, count: int) -> list[Member]:
        """Equal nodes."""
        return [self.node() for _ in range(count)]

    def together(self, members: Sequence[Member], patience: float) -> Wire:
        """Let them start together and wait until all are finished, `patience` times the ideal time at most."""
        return self.play([(0.0, member.go) for member in members], members, patience)

    def play(
        self,
        deeds: Sequence[tuple[float, Callable[[], None]]],
        members: Sequence[Member],
        patience: float,
        watch: Callable[[Wire], None] | None = None,
    ) -> Wire:
        """When all stand at the barrier, do each deed at its second; return when all members are finished.

        patience: how long to wait at most, in ideal times after the last deed. watch: called four times a second.
        """
        self.crew.wait_ready()
        waiting = sorted(deeds, key=lambda deed: deed[0])
        time.sleep(SETTLING)
        before = measure.Load()
        time.sleep(SETTLING)
        wire = Wire(self.head)
        wire.background = before.percent()
        began = watched = time.monotonic()
        until = began + waiting[-1][0] + patience * self.load.ideal + 30
        while (now := time.monotonic()) < until:
            while waiting and now - began >= waiting[0][0]:
                waiting.pop(0)[1]()
            if not waiting and all(member.finished for member in members):
                break
            wire.look()
            if watch is not None and now - watched >= WATCH:
                watched = now
                watch(wire)
            time.sleep(min(LOOK, max(waiting[0][0] - (now - began), 0.0)) if waiting else LOOK)
        return wire.stop()


@contextlib.contextmanager
def stage(place: HeadPlace, load: Load, nodes: int) -> Iterator[Stage]:
    """A stage for a run of so many nodes; everything of it is gone when the block is left."""
    with netns.room() as room, scratch(place.directory, nodes * load.bytes) as work:
        head = room.host(f"{ADDRESS}/16", rate=load.rate * MBIT)
        with place.serving(room, head) as serving, crew(place.offer(load.size), work) as members:
            yield Stage(room, head, serving, load, members)


@contextlib.contextmanager
def scratch(fallback: Path, needed: int) -> Iterator[Path]:
    """An empty directory for `needed` bytes of copies: in memory when there is plenty of it, so that 64 nodes on one
    disk do not measure the disk; else in `fallback`."""
    plenty = MEMORY.is_dir() and min(_available(), shutil.disk_usage(MEMORY).free) > needed * 1.1 + 4_000 * MB
    where = MEMORY if plenty else fallback
    if not plenty and shutil.disk_usage(where).free < needed * 1.1:
        raise RookeryError(f"{needed / 1e9:.0f} GB are needed in {where}", kind=ErrorKind.NO_SPACE)
    with tempfile.TemporaryDirectory(prefix=f"rookery-swarm-{os.getpid()}-", dir=where) as made:
        yield Path(made)


def _available() -> int:
    """Bytes of memory that may be taken."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
