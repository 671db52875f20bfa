# SPDX-License-Identifier: Apache-2.0
"""The part of the benchmark that races Rookery against the others: same bytes, same links, same run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab import netns
from lab.swarm.bench import PATIENCE, Bench, say, told
from lab.swarm.crew import crew
from lab.swarm.measure import Outcome, System
from lab.swarm.others import MULTICAST, systems
from lab.swarm.record import Check, Row
from lab.swarm.stage import ADDRESS, MBIT, HeadPlace, Load, Stage, scratch
from rookery.errors import RookeryError

NAME = "Rookery"


@dataclass(frozen=True)
class Rookery:
    """Rookery itself, raced by the rules of the others. place: the head's directory. load: what is moved."""

    place: HeadPlace
    load: Load
    name: str = NAME

    def run(
        self,
        room: netns.Room,
        head: netns.Host,
        nodes: Sequence[netns.Host],
        file: Path,
        sha256: str,
        work: Path,
    ) -> Outcome:
        """As lab.swarm.measure.System says."""
        assert file.stat().st_size == self.load.bytes
        try:
            with contextlib.ExitStack() as stack:
                serving = stack.enter_context(self.place.serving(room, head))
                members = stack.enter_context(crew(self.place.offer(self.load.size), work))
                there = Stage(room, head, serving, self.load, members)
                for host in nodes:
                    members.add(host)
                wire = there.together(members.members, PATIENCE)
                right = [member for member in members.members if member.is_right(sha256)]
                missing = len(nodes) - len(right)
                error = f"{missing} nodes have not the right file" if missing else ""
                return Outcome(tuple(member.seconds for member in right), wire.sent, wire.cpu, error)
        except RookeryError as error:
            return Outcome((), 0, 0.0, f"{self.name}: {error}")


def others(bench: Bench) -> Iterator[Row]:
    """Every system with every number of nodes; each number's rows stand against T(1), that of Rookery alone."""
    for load in bench.wanted.loads(64, 100):
        alone = bench.alone(load, "others")
        yield alone
        wanted = bench.wanted.systems or ("",)
        rivals = [one for one in systems(load.rate * MBIT) if any(name in one.name for name in wanted)]
        for count in sorted(set(bench.wanted.nodes or (2, 4, 8, 16)) - {1}):
            rows = [_raced(bench, load, count, system, alone) for system in (Rookery(bench.place, load), *rivals)]
            yield judged(rows[0], rows[1:])
            yield from rows[1:]


def judged(ours: Row, theirs: Sequence[Row]) -> Row:
    """Rookery's row with the checks that it is the first in time, and in the head's bytes but for multicast."""
    finished = [row for row in theirs if row.seconds and not row.missing]
    unicast = [row for row in finished if row.system not in MULTICAST]
    checks = []
    if finished:
        best = min(finished, key=lambda row: row.last)
        checks.append(Check(f"last node, against the best other ({best.system})", _share(ours.last, best.last), 1.0))
    if unicast:
        best = min(unicast, key=lambda row: row.copies)
        checks.append(
            Check(f"copies, against the best without multicast ({best.system})", _share(ours.copies, best.copies), 1.0)
        )
    return replace(ours, checks=(*checks, *ours.checks))


def _raced(bench: Bench, load: Load, count: int, system: System, alone: Row) -> Row:
    say(f"{system.name}, {count} nodes, {load}")
    file, digest = bench.place.file(load.size), bench.place.digest(load.size)
    with netns.room() as room, scratch(bench.place.directory, (count + 1) * load.bytes) as work:
        work.chmod(0o755)  # for servers that drop their rights
        head = room.host(f"{ADDRESS}/16", rate=load.rate * MBIT)
        nodes = [room.host(f"10.80.0.{10 + number}/16", rate=load.rate * MBIT) for number in range(count)]
        outcome = system.run(room, head, nodes, file, digest, work)
    missing = count - len(outcome.seconds)
    row = Row(
        "others",
        "race",
        count,
        load.size,
        load.rate,
        system=system.name,
        seconds=tuple(round(second, 3) for second in outcome.seconds),
        missing=missing,
        alone=alone.last,
        copies=outcome.head_bytes / bench.curl(load).head_bytes,
        wire_copies=outcome.head_bytes / load.bytes,
        cpu=outcome.cpu,
        note=outcome.error,
        checks=(Check("nodes without the right file", float(missing), 0.0),) if system.name == NAME else (),
    )
    say(f"  {told(row)}")
    return row


def _share(ours: float, best: float) -> float | None:
    return ours / best if ours and best else None
