# SPDX-License-Identifier: Apache-2.0
"""What a running node loses to giving: `make bench-background`.

    python3 -m lab.background [--only WORD ...] [--rounds 5] [--seconds 3] [--into docs/benchmarks]

A compute benchmark (processes that digest a fixed buffer, on every processor they may use) runs all the time. In every
second window a node gives beside it: the code of `rookery-seed.service` with its scheduling and its cap, to takers
through the relay and through the mesh. What the benchmark does less in these windows is the loss. Where systemd puts
the unit matters more than its scheduling: control groups share a processor by their own weights, whatever policy the
processes inside have. So each case says how giver and benchmark stand to each other (`PLACINGS`). Needs root, two
processors and the kernel's control groups for them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import platform
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab import netns
from lab.givers import HEAD, MB, TOP, Shelf, started
from lab.swarm.measure import traffic
from lab.tracker import processor_seconds
from rookery import __version__
from rookery.errors import ErrorKind, RookeryError
from rookery.run import Child, run, spawn

GIVER, TAKER = "10.88.0.2", "10.88.0.3"
WORK_CPU, OTHER_CPU = 0, 1
PER_CPU = 2  # processes of the benchmark
BUFFER = bytes(range(256)) * 256  # what is digested: 64 KiB
BATCH = 16  # buffers between two notes in the shared counter
SIZE = 250  # MB, of the blob: more than a window's worth at the cap
SETTLING = 1.5  # s between the takers' start and a window
PERIOD = 100_000  # µs over which a quota holds; systemd's default
ALLOWED = 2.0  # percent
CONTROL = Path("/sys/fs/cgroup")
TAKERS = {"both": (2, 1), "relay": (3, 0), "mesh": (0, 3)}  # by the relay, by the mesh


@dataclass(frozen=True)
class Placing:
    """How giver and benchmark stand to each other. weight: systemd's CPUWeight of the giver's group against 100 of the
    benchmark's, or `idle`; empty: one group holds both. quota: systemd's CPUQuota, percent, 0 none."""

    what: str
    weight: str
    quota: int


PLACINGS = {
    "one-group": Placing("both in one group: SCHED_IDLE and nice 19 alone", "", 0),
    "service": Placing("groups of equal weight, quota 20 % (a service without CPUWeight)", "100", 20),
    "weight-1": Placing("the giver's group of weight 1 to 100, quota 20 %", "1", 20),
    "idle": Placing("the giver's group idle (CPUWeight=idle), quota 20 %", "idle", 20),
}
CAPS = (50, 10)  # MB/s
LAYOUTS = {
    "one core": "benchmark and giver on processor 0, takers on processor 1",
    "all cores": "benchmark and giver on all processors, takers on all of them too (SCHED_IDLE, a group of weight 1)",
}


@dataclass(frozen=True)
class Case:
    """What is measured."""

    layout: str
    placing: str
    cap: int
    by: str = "both"

    @property
    def name(self) -> str:
        """As --only takes it."""
        return f"{self.layout}/{self.placing}/{self.cap}/{self.by}".replace(" ", "-")


@dataclass(frozen=True)
class Window:
    """One window. per_second: buffers digested. sent: bytes per second that left the giver's card. processor: of the
    giver, percent of one."""

    per_second: float
    sent: float = 0.0
    processor: float = 0.0


CASES = [
    *(Case("one core", "service", cap, by) for by in TAKERS for cap in CAPS),
    *(Case("one core", "weight-1", cap) for cap in CAPS),
    *(Case("one core", placing, max(CAPS)) for placing in ("idle", "one-group")),
    *(Case("all cores", placing, cap) for placing in ("service", "weight-1") for cap in CAPS),
]
CONTROL_CASE = Case("one core", "nobody gives", 0)


class Groups:
    """Control groups of the processor, in the first or the second version of that interface."""

    def __init__(self, top: Path) -> None:
        self._top, self._second = top, (CONTROL / "cgroup.controllers").exists()

    def make(self, name: str, weight: str = "100", quota: int = 0) -> Path:
        """A group; weight and quota as `Placing`."""
        group = self._top / name
        group.mkdir()
        if weight == "idle":
            (group / "cpu.idle").write_text("1")
        elif self._second:
            (group / "cpu.weight").write_text(weight)
        else:
            (group / "cpu.shares").write_text(str(max(int(weight) * 1024 // 100, 2)))
        if quota:
            share = quota * PERIOD // 100
            if self._second:
                (group / "cpu.max").write_text(f"{share} {PERIOD}")
            else:
                (group / "cpu.cfs_quota_us").write_text(str(share))
        return group


@contextlib.contextmanager
def groups() -> Iterator[Groups]:
    """Groups of this run; removed when the block is left. Raises RookeryError `missing`."""
    second = (CONTROL / "cgroup.controllers").exists()
    top = (CONTROL if second else CONTROL / "cpu") / f"rookery-background-{os.getpid()}"
    try:
        top.mkdir()
        if second:
            (top / "cgroup.subtree_control").write_text("+cpu")
    except OSError as error:
        raise RookeryError(f"no control groups for the processor: {error}", kind=ErrorKind.MISSING) from error
    try:
        yield Groups(top)
    finally:
        for group in [*top.glob("*/"), top]:
            _remove(group)


def _remove(group: Path) -> None:
    for _ in range(50):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def enter(group: Path, child: Child) -> None:
    """Move a process with its threads into a group."""
    (group / "cgroup.procs").write_text(str(child.pid))


@contextlib.contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """This thread, and what it starts meanwhile, on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compute(counter: Path, number: int) -> None:
    """The benchmark: digest the buffer while the parent lives, and note how often in the shared counter."""
    parent = os.getppid()
    with counter.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        done = 0
        while os.getppid() == parent:
            for _ in range(BATCH):
                hashlib.sha256(BUFFER).digest()
            done += BATCH
            struct.pack_into("<Q", shared, 8 * number, done)


class Bench:
    """A running benchmark, and a room in which somebody can give beside it."""

    def __init__(self, case: Case, room: netns.Room, shelf: Shelf, made: Groups, stack: contextlib.ExitStack) -> None:
        self._case, self._room, self._shelf = case, room, shelf
        self._everything = set(range(os.cpu_count() or 1))
        self._work = {WORK_CPU} if case.layout == "one core" else self._everything
        self._others = {OTHER_CPU} if case.layout == "one core" else self._everything
        self._group = made.make("work")
        self._aside = made.make("aside", "100" if case.layout == "one core" else "1")
        placing = PLACINGS.get(case.placing)
        self._background = (
            made.make("background", placing.weight, placing.quota) if placing and placing.weight else None
        )
        self._head, self._giver, self._taker = (room.host(f"{address}/24") for address in (HEAD, GIVER, TAKER))
        self._counter = shelf.directory / "counter"
        self._workers = len(self._work) * PER_CPU
        self._counter.write_bytes(bytes(8 * self._workers))
        steer(room, self._giver, case)
        self._aside_role(stack, self._head, "head")
        for number in range(self._workers):
            with pinned(self._work):
                words = [sys.executable, "-m", "lab.background", "--compute", str(self._counter), str(number)]
                enter(self._group, stack.enter_context(spawn(words, cwd=TOP)))
        time.sleep(SETTLING)

    def window(self, gives: bool, seconds: float) -> Window:
        """Count for so long, with somebody who gives beside it or without."""
        if not gives:
            time.sleep(0.5)
            return self._count(seconds, None)
        with contextlib.ExitStack() as stack:
            with pinned(self._work):
                cap = self._case.cap * MB
                child = stack.enter_context(started(self._room, self._giver, "giver", self._shelf, "--rate", cap))
            enter(self._background or self._group, child)
            time.sleep(0.5)
            relays, meshes = TAKERS[self._case.by]
            for role in ["relay"] * relays + ["mesh"] * meshes:
                self._aside_role(stack, self._taker, role, "--giver", GIVER)
            time.sleep(SETTLING)
            return self._count(seconds, child)

    def _aside_role(self, stack: contextlib.ExitStack, host: netns.Host, role: str, *words: object) -> None:
        idle = ["--idle"] if self._case.layout == "all cores" else []
        with pinned(self._others):
            enter(self._aside, stack.enter_context(started(self._room, host, role, self._shelf, *words, *idle)))

    def _count(self, seconds: float, giver: Child | None) -> Window:
        sent, busy = traffic(self._giver).sent, processor_seconds(giver.pid) if giver else 0.0
        began, before = time.monotonic(), self._done()
        time.sleep(seconds)
        took, done = time.monotonic() - began, self._done() - before
        busy = (processor_seconds(giver.pid) if giver else 0.0) - busy
        return Window(done / took, (traffic(self._giver).sent - sent) / took, 100 * busy / took)

    def _done(self) -> int:
        return sum(struct.unpack(f"<{self._workers}Q", self._counter.read_bytes()))


def steer(room: netns.Room, giver: netns.Host, case: Case) -> None:
    """What comes out of the giver's card is worked on by the other processor, as by other machines; what comes in, by
    the giver's. Without that, whoever sends does the bridge's and the receivers' work, too."""
    if case.layout != "one core":
        return
    for namespace, device, cpu in ((room.hub, giver.port, OTHER_CPU), (giver.namespace, netns.DEVICE, WORK_CPU)):
        path = f"/sys/class/net/{device}/queues/rx-0/rps_cpus"
        run(["ip", "netns", "exec", namespace, "tee", path], stdin=f"{1 << cpu:x}".encode())


def measure(case: Case, shelf: Shelf, rounds: int, seconds: float) -> dict[str, Any]:
    """One case: so many rounds of a window with and one without, in alternating order; as it goes into the file."""
    found: dict[bool, list[Window]] = {True: [], False: []}
    with netns.room() as room, groups() as made, contextlib.ExitStack() as stack:
        bench = Bench(case, room, shelf, made, stack)
        for number in range(rounds):
            for gives in (True, False) if number % 2 else (False, True):
                found[gives].append(bench.window(gives and case.cap > 0, seconds))
    pairs = zip(found[True], found[False], strict=True)
    each = [100 * (1 - given.per_second / alone.per_second) for given, alone in pairs]
    given, alone = (statistics.median(window.per_second for window in found[gives]) for gives in (True, False))
    return {
        **asdict(case),
        "loss": round(100 * (1 - given / alone), 2),
        "loss_of_rounds": [round(value, 2) for value in each],
        "alone_per_second": round(alone),
        "sent_mb_per_second": round(statistics.median(window.sent for window in found[True]) / MB, 2),
        "giver_processor": round(statistics.median(window.processor for window in found[True]), 1),
        "rounds": rounds,
        "seconds": seconds,
    }


def page(found: dict[str, Any]) -> str:
    """The page for people."""
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "# What a running node loses to giving, measured",
        "",
        f"By `make bench-background` on {found['machine']}; [background.json](background.json) has the numbers, too.",
        "",
        f"The benchmark: {PER_CPU} processes for each processor that digest 64 KiB again and again, all the time. In",
        f"every second window a node gives a blob of {SIZE} MB beside it, with the code, the scheduling (SCHED_IDLE,",
        "nice 19) and the cap of `rookery-seed.service`; two take it by the relay and one by the mesh, or three by one",
        "of them. The loss compares the medians of both kinds of windows; beside it, the least and the most of single",
        "pairs of windows. The first row, in which nobody gives, shows how far to trust the others. The kernel's work",
        "for the network is in the loss.",
        "",
        *(f"- {name}: {what}" for name, what in LAYOUTS.items()),
        *(f"- {name}: {placing.what}" for name, placing in PLACINGS.items()),
        "",
        "On one core, what leaves the giver's card is worked on by the other processor, as by other machines. On all",
        "cores the takers' work, and the kernel's for them, is in the loss too, though other machines would do it.",
        "",
        "| processors | placing | by | cap, MB/s | loss, % | of pairs, % | sent, MB/s | giver's processor, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        pairs = f"{min(row['loss_of_rounds']):.1f} to {max(row['loss_of_rounds']):.1f}"
        mark = "" if row["loss"] <= ALLOWED else " **!**"
        lines.append(
            f"| {row['layout']} | {row['placing']} | {row['by']} | {row['cap'] or ''} | {row['loss']:.2f}{mark} |"
            f" {pairs} | {row['sent_mb_per_second']:.1f} | {row['giver_processor']:.1f} |"
        )
    return "\n".join([*lines, "", f"**!**: more than {ALLOWED:g} %.", ""])


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and write page and JSON."""
    parser = argparse.ArgumentParser(prog="python3 -m lab.background", description="what a node loses to giving")
    parser.add_argument("--compute", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names, as one-core/idle/50; others are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a window")
    parser.add_argument("--into", type=Path, help="directory for background.json and background.md")
    given = parser.parse_args(words)
    if given.compute:
        compute(Path(given.compute[0]), int(given.compute[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # everything is taken down on the way out
    file = given.into / "background.json" if given.into else None
    rows = {_name(row): row for row in json.loads(file.read_text())["rows"]} if file and file.exists() else {}
    every = [CONTROL_CASE, *CASES]
    with tempfile.TemporaryDirectory(prefix="rookery-background-", dir="/dev/shm") as made, pinned({OTHER_CPU}):
        shelf = Shelf(Path(made))
        shelf.fill(SIZE)
        for case in every:
            if any(part in case.name for part in given.only):
                rows[case.name] = measure(case, shelf, given.rounds, given.seconds)
                print(rows[case.name], file=sys.stderr, flush=True)
                found = book([rows[case.name] for case in every if case.name in rows])
                if file:
                    file.write_text(json.dumps(found, indent=1) + "\n")
                    file.with_suffix(".md").write_text(page(found))
    print(page(book([rows[case.name] for case in every if case.name in rows])))
    return 0


def book(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the JSON file holds."""
    machine = f"{os.cpu_count()} x {_processor()}, Linux {platform.release().partition('-')[0]}"
    return {"rookery": __version__, "machine": machine, "rows": list(rows)}


def _name(row: dict[str, Any]) -> str:
    return Case(row["layout"], row["placing"], row["cap"], row["by"]).name


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
