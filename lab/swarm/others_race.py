# SPDX-License-Identifier: Apache-2.0
"""How other systems are raced: their programs in namespaces, one start for all nodes, one stop-watch for everybody.

The same rules for each of them:

- Programs that can wait (receivers of a multicast, a Python process that has imported its modules) are ready before
  the clock starts. All others are started before it too, but held by flock(1) on one file, and the kernel lets all of
  them go at once: starting 64 processes one after another is not in anybody's time.
- A node's seconds end when its program says it has the whole file: it exits with 0, or it calls its hook, or (udpcast,
  which writes in order and then lingers for a lost acknowledgement) its file has the full length.
- Every copy's SHA-256 is taken after the last node is done, outside of the time, for everybody alike. What a program
  hashes by itself while it fetches (pieces of a torrent) is its own work and is in its time.
- Nodes that are done go on giving until the last is done, where the system has such a thing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lab import netns
from lab.swarm.measure import Outcome, Wire
from rookery.errors import ErrorKind, RookeryError
from rookery.run import Child, which

LIMIT = 900.0  # seconds for one system and one N
PREPARATION = 30.0  # seconds for servers and receivers to become ready
PAUSE = 0.01  # seconds between looks at the nodes: the resolution of a node's time
LINES = 3  # of a failed program's output that an error shows


@dataclass(frozen=True)
class Taker:
    """A node's program, running or held. done: whether it has the whole file; asked about a hundred times a second."""

    child: Child
    log: Path
    copy: Path
    done: Callable[[], bool]


@dataclass
class Race:
    """One run of one system. Directories are below `work`; programs are ended by `end`, or when `stack` closes."""

    room: netns.Room
    head: netns.Host
    nodes: Sequence[netns.Host]
    file: Path
    sha256: str
    work: Path
    stack: contextlib.ExitStack
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = self.file.stat().st_size
        self.gate = self.work / "gate"
        self._gate = self.stack.enter_context(self.gate.open("wb"))
        fcntl.flock(self._gate, fcntl.LOCK_EX)

    def place(self, number: int) -> Path:
        """The directory of node `number` (from 0), made."""
        path = self.work / f"n{number}"
        path.mkdir(exist_ok=True)
        return path

    def copy(self, number: int) -> Path:
        """Where node `number` puts its copy."""
        return self.place(number) / self.file.name

    def hook(self, number: int) -> tuple[Path, Path]:
        """A script for a program to call when it has everything, and the file that this makes."""
        script, made = self.work / f"hook{number}", self.work / f"done{number}"
        script.write_text(f"#!/bin/sh\n: >'{made}'\n")
        script.chmod(0o755)
        return script, made

    def start(
        self, host: netns.Host, argv: Sequence[str | Path], name: str, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start a program inside a host; its output goes to the log called `name`."""
        with self.log(name).open("wb") as output:
            child = self.stack.enter_context(
                self.room.process(host, argv, stdout=output, stderr=output, env=env, cwd=self.work)
            )
        self.children.append(child)
        return child

    def held(self, host: netns.Host, argv: Sequence[str | Path], name: str) -> Child:
        """Start a program that runs only when the clock does."""
        child = self.start(host, ["flock", "--shared", "--no-fork", self.gate, *argv], name)
        self.wait(lambda: _command(child) == "flock", f"{name} is held")
        return child

    def log(self, name: str) -> Path:
        """The log of a program that was started under this name."""
        return self.work / f"{name}.log"

    def listening(self, child: Child, port: int, name: str) -> None:
        """Wait until something in the child's namespace listens at a port, of TCP or UDP."""
        wanted = f":{port:04X}"

        def ready() -> bool:
            tables = [Path(f"/proc/{child.pid}/net/{table}") for table in ("tcp", "tcp6", "udp", "udp6")]
            lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
            return any(words[1].endswith(wanted) and words[3] in {"0A", "07"} for words in lines)

        self.wait(ready, f"{name} listens at port {port}", child, self.log(name))

    def wait(self, ready: Callable[[], bool], what: str, child: Child | None = None, log: Path | None = None) -> None:
        """Wait until `ready`. Raises RookeryError after PREPARATION seconds, or when the child ends before."""
        deadline = time.monotonic() + PREPARATION
        while not ready():
            ended = child is not None and child.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = last_lines(log) if log else ""
                raise RookeryError(f"waited in vain until {what}: {tail}", kind=ErrorKind.FAILED)
            time.sleep(0.02)

    def go(self) -> None:
        """Let the held programs go."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def end(self) -> None:
        """End every program, all at once."""
        for child in self.children:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(child.poll() is None for child in self.children):
            time.sleep(0.02)


class Other:
    """A system of other people. Subclasses name their programs and say what runs on the head and on a node.

    rate: bits per second of the links, for programs that must be told. limit: seconds for one run.
    """

    name = ""
    programs: ClassVar[Mapping[str, str]] = {}  # the program, and the Debian package that brings it

    def __init__(self, rate: int, limit: float = LIMIT) -> None:
        self.rate, self.limit = rate, limit

    def serve(self, race: Race) -> None:
        """Start the head's side; ready when this returns."""
        raise NotImplementedError

    def take(self, race: Race, number: int) -> Taker:
        """Start node `number`'s side, held or waiting."""
        raise NotImplementedError

    def begin(self, race: Race) -> None:
        """The start: called when the clock starts."""
        race.go()

    def run(
        self,
        room: netns.Room,
        head: netns.Host,
        nodes: Sequence[netns.Host],
        file: Path,
        sha256: str,
        work: Path,
    ) -> Outcome:
        """Race once; see lab.swarm.measure.System. What goes wrong is in the outcome's `error`."""
        for program, package in self.programs.items():
            if which(program) is None:
                return Outcome((), 0, 0.0, f"{program} is not installed (apt install {package})")
        try:
            with contextlib.ExitStack() as stack:
                race = Race(room, head, nodes, file.resolve(), sha256, work.resolve(), stack)
                try:
                    return self._run(race)
                finally:
                    race.end()
        except (RookeryError, OSError, RuntimeError) as error:
            return Outcome((), 0, 0.0, f"{self.name}: {error}")

    def _run(self, race: Race) -> Outcome:
        self.serve(race)
        takers = [self.take(race, number) for number in range(len(race.nodes))]
        wire = Wire(race.head)
        began = time.monotonic()
        self.begin(race)
        times, error = watch(takers, began, self.limit)
        wire.stop()
        race.end()
        for number in list(times):
            if digest(takers[number].copy) != race.sha256:
                del times[number]
                error = error or f"node {number + 1} got wrong bytes"
        return Outcome(tuple(times[number] for number in sorted(times)), wire.sent, wire.cpu, error)


def watch(takers: Sequence[Taker], began: float, limit: float) -> tuple[dict[int, float], str]:
    """Wait until every node is done: seconds by node, and why some are not, or empty. began: of time.monotonic."""
    times: dict[int, float] = {}
    waiting = dict(enumerate(takers))
    error = ""
    while waiting:
        for number, taker in list(waiting.items()):
            code = taker.child.poll()  # before `done`, which may come with the exit
            if taker.done():
                times[number] = time.monotonic() - began
                del waiting[number]
            elif code is not None:
                error = error or f"node {number + 1} ended with exit code {code}: {last_lines(taker.log)}"
                del waiting[number]
        if waiting and time.monotonic() - began > limit:
            error = error or f"{len(waiting)} of {len(takers)} nodes were not done after {limit:g} s"
            break
        time.sleep(PAUSE)
    return times, error


def exited(child: Child) -> Callable[[], bool]:
    """Done when the program has exited with 0."""
    return lambda: child.poll() == 0


def grown(path: Path, size: int) -> Callable[[], bool]:
    """Done when a file that is written in order has its length."""
    return lambda: path.exists() and path.stat().st_size == size


def digest(path: Path) -> str:
    """The SHA-256 of a file, hex; empty when it is not there."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_lines(log: Path) -> str:
    """The end of a log, in one line."""
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return " | ".join([line.strip() for line in lines if line.strip()][-LINES:])


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that run a module of this tree as a process."""
    return [sys.executable, "-m", module], {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def _command(child: Child) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{child.pid}/comm").read_text().strip()
    return ""
