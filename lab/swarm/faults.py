# SPDX-License-Identifier: Apache-2.0
"""The part of the benchmark in which things break: nodes die, the head dies, a node lies, cables are out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from lab.swarm.bench import PATIENCE, Bench, say, with_checks
from lab.swarm.measure import Wire
from lab.swarm.record import Check, Row
from lab.swarm.stage import Load, stage

LIMIT = 1.25  # of the last surviving node's time over T(1)
OUTAGE = 3.0  # s
SHARE_CUT = 0.05
KILLED = 1 / 3
BEFORE = 0.3  # s


def faults(bench: Bench) -> Iterator[Row]:
    """All of them, each with its own stage."""
    count, (load, *_) = bench.wanted.count(16), bench.wanted.loads(256, 50)
    yield bench.alone(load, "faults")
    for case in (killed, headless, garbage, liar, outage):
        yield case(bench, load, count)


def killed(bench: Bench, load: Load, count: int) -> Row:
    """A third of the nodes is killed at half of T(1)."""
    doomed = max(int(count * KILLED), 1)
    say(f"{count} nodes, {doomed} of them are killed in the middle, {load}")
    half = bench.alone(load, "faults").last / 2
    with stage(bench.place, load, count) as place:
        members = place.nodes(count)
        victims = bench.dice("killed").sample(members, doomed)
        deeds = [(0.0, member.go) for member in members] + [(half, member.kill) for member in victims]
        wire = place.play(deeds, members, PATIENCE)
        more = {"killed": [member.name for member in victims], "at": half}
        row = bench.row("faults", "a third is killed", load, members, wire, more=more)
    return _judged(row)


def headless(bench: Bench, load: Load, count: int) -> Row:
    """Half of the nodes start at once, half at 0.5 T(1); the whole head is killed when one copy is out: as soon as
    one node has every piece."""
    say(f"{count} nodes, half of them later, and the head is killed when one copy is out, {load}")
    half = bench.alone(load, "faults").last / 2
    died: list[float] = []
    with stage(bench.place, load, count) as place:
        members = place.nodes(count)

        def watch(wire: Wire) -> None:
            # Bytes on the wire do not tell: the last pieces may still wait while announces made up for them.
            if not died and any(member.whole >= load.bytes for member in members):
                died.append(wire.elapsed())
                place.serving.kill()

        deeds = [(0.0 if number % 2 == 0 else half, member.go) for number, member in enumerate(members)]
        wire = place.play(deeds, members, PATIENCE, watch)
        more = {"at": died[0] if died else None}
        row = bench.row("faults", "the head is killed", load, members, wire, more=more)
    note = f"the head died after {died[0]:.1f} s" if died else "the head was not killed: one copy was never out"
    return _judged(replace(row, note=note), Check("runs in which the head lived on", float(not died), 0.0))


def garbage(bench: Bench, load: Load, count: int) -> Row:
    """One more node is there already, says that it has everything, and gives wrong bytes."""
    say(f"{count} nodes and one that gives garbage, {load}")
    with stage(bench.place, load, count + 1) as place:
        liar = place.crew.add(place.host(), garbage=True)
        members = place.nodes(count)
        place.together([liar], PATIENCE)
        liar.spoilt.wait(60)
        wire = place.together(members, PATIENCE)
        address = liar.host.address
        got = sum(member.stats.get("peers", {}).get(address, 0) for member in members)
        failures = sum(member.stats.get("hash_failures", 0) for member in members)
        banned = sum(address in member.stats.get("banned", ()) for member in members)
        more = {"wrong_bytes": got, "failures": failures, "banned_by": banned}
        row = bench.row("faults", "a peer gives garbage", load, members, wire, more=more)
    note = f"{got / 1e6:.1f} MB came from it, {failures} wrong pieces, banned by {banned} nodes"
    # Who never took a wrong byte has no reason to ban anybody.
    unpunished = Check("wrong pieces that nobody banned for", float(failures > 0 and not banned), 0.0)
    return _judged(replace(row, note=note), unpunished)


def liar(bench: Bench, load: Load, count: int) -> Row:
    """One more node starts before the others, so that somebody takes from it, and spoils what it passes on."""
    say(f"{count} nodes behind one that spoils what it passes on, {load}")
    with stage(bench.place, load, count + 1) as place:
        bad = place.crew.add(place.host(), lie=True)
        honest = place.nodes(count)
        wire = place.play([(0.0, bad.go), *((BEFORE, member.go) for member in honest)], honest, PATIENCE)
        failures = sum(member.stats.get("hash_failures", 0) for member in honest)
        banned = sum(bad.host.address in member.stats.get("banned", ()) for member in honest)
        more = {"failures": failures, "banned_by": banned}
        row = bench.row("faults", "a node spoils what it passes on", load, honest, wire, more=more)
    note = f"{failures} wrong pieces, banned by {banned} nodes"
    return _judged(
        replace(row, note=note),
        Check("runs in which nobody was given a wrong piece", float(not failures), 0.0),
        Check("wrong pieces that nobody banned for", float(failures > 0 and not banned), 0.0),
    )


def outage(bench: Bench, load: Load, count: int) -> Row:
    """The cables of 5 % of the nodes, one at least, are out for the first seconds."""
    cut = max(round(count * SHARE_CUT), 1)
    say(f"{count} nodes, {cut} of them without a cable for {OUTAGE:g} s, {load}")
    with stage(bench.place, load, count) as place:
        members = place.nodes(count)
        unlucky = bench.dice("outage").sample(members, cut)
        place.crew.wait_ready()
        for member in unlucky:
            place.room.cut(member.host)
        deeds: list[tuple[float, Callable[[], None]]] = [(0.0, member.go) for member in members]
        deeds += [(OUTAGE, partial(place.room.cut, member.host, connected=True)) for member in unlucky]
        wire = place.play(deeds, members, PATIENCE)
        more = {"cut": [member.name for member in unlucky], "tries": sum(member.tries for member in members)}
        row = bench.row("faults", "first connections fail", load, members, wire, more=more)
    return _judged(row)


def _judged(row: Row, *checks: Check) -> Row:
    return with_checks(row, Check("last survivor / T(1)", row.ratio or None, LIMIT), *checks)
