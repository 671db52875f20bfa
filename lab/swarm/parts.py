# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmark in which nothing breaks: together, arrivals, unequal, racks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lab import netns
from lab.swarm.bench import COPIES, FIRST_BYTE, PATIENCE, Bench, say, with_checks
from lab.swarm.faults import killed
from lab.swarm.measure import Traffic, device_traffic
from lab.swarm.record import Check, Row
from lab.swarm.stage import MBIT, HeadPlace, Load, stage

SLOWER = 10  # a slow node's link has this part of the others' rate
RACKS = 4
SEGMENT = 2


def together(bench: Bench) -> Iterator[Row]:
    """All start at the same moment."""
    for load in bench.wanted.loads(256, 25):
        yield bench.alone(load, "together")
        for count in sorted(set(bench.wanted.nodes or (8, 16, 32, 64)) - {1}):
            say(f"{count} nodes together, {load}")
            with stage(bench.place, load, count) as place:
                members = place.nodes(count)
                wire = place.together(members, PATIENCE)
                row = bench.row("together", "together", load, members, wire)
            yield with_checks(
                row,
                Check("T(N) / T(1)", row.ratio or None, 1.05),
                Check("copies by the head", row.copies, COPIES),
                Check("first byte, s", row.first_byte, FIRST_BYTE),
            )


def arrivals(bench: Bench) -> Iterator[Row]:
    """They come when they come: Poisson arrivals over one T(1), then one more when all are done."""
    count, (load, *_) = bench.wanted.count(16), bench.wanted.loads(256, 50)
    alone = bench.alone(load, "arrivals")
    yield alone
    dice = bench.dice("arrivals")
    # A Poisson process with a known number of arrivals: their times are even and independent.
    times = sorted(dice.uniform(0, alone.last) for _ in range(count))
    say(f"{count} nodes come within {alone.last:.1f} s, {load}")
    with stage(bench.place, load, count + 1) as place:
        *members, straggler = place.nodes(count + 1)
        deeds = list(zip(times, [member.go for member in members], strict=True))
        wire = place.play(deeds, members, PATIENCE)
        row = bench.row("arrivals", "Poisson arrivals", load, members, wire)
        row = with_checks(row, Check("mean time of a node / T(1)", _of(row.mean, alone), 1.10))
        yield row
        say("one more, when all are done")
        wire = place.together([straggler], PATIENCE)
        late = bench.row("arrivals", "straggler", load, [straggler], wire)
    seconds = [*row.seconds, *late.seconds]
    mean = sum(seconds) / len(seconds) if seconds else 0.0
    yield with_checks(
        late,
        Check("mean time of all / T(1)", _of(mean, alone), 1.10),
        Check("copies by the head to it", late.copies, 0.10),
    )


def unequal(bench: Bench) -> Iterator[Row]:
    """A quarter of the nodes at a tenth of the rate; beside the others alone, which is what they are compared with."""
    count, (load, *_) = bench.wanted.count(16), bench.wanted.loads(128, 50)
    yield bench.alone(load, "unequal")
    slow_count = max(count // 4, 1)
    say(f"{count - slow_count} equal nodes, {load}")
    with stage(bench.place, load, count) as place:
        members = place.nodes(count - slow_count)
        control = bench.row("unequal", "the fast ones alone", load, members, place.together(members, PATIENCE))
        yield control
    say(f"the same with {slow_count} nodes at a {SLOWER}th of the rate")
    with stage(bench.place, load, count) as place:
        # Slow ones between the others, so that a chain in the order of arrival would meet them.
        members = [
            place.node(load.rate / SLOWER if _is_slow(number, slow_count, count) else None) for number in range(count)
        ]
        slow = [member for number, member in enumerate(members) if _is_slow(number, slow_count, count)]
        fast = [member for member in members if member not in slow]
        wire = place.together(members, PATIENCE + 1.5 * SLOWER)
        row = bench.row(
            "unequal",
            "a quarter is slow",
            load,
            members,
            wire,
            more={"slow": [member.name for member in slow], "control": control.last},
        )
        last = max((member.seconds for member in fast), default=0.0)
        slowest = max((member.seconds for member in slow), default=0.0)
    yield with_checks(
        replace(row, note=f"fast ones: last {last:.1f} s; slow ones: last {slowest:.1f} s"),
        Check("the fast ones with slow ones / without", last / control.last if last and control.last else None, 1.05),
        Check("the slow ones / their own ideal time", slowest / (SLOWER * load.ideal) if slowest else None, 1.25),
    )


def _is_slow(number: int, slow: int, count: int) -> bool:
    return number * slow // count != (number - 1) * slow // count


def racks(bench: Bench) -> Iterator[Row]:
    """Four racks; all nodes of one share an uplink that has one node's rate. The head is on the switch in between."""
    count, (load, *_) = bench.wanted.count(16), bench.wanted.loads(256, 50)
    each = max(count // RACKS, 1)
    alone = bench.alone(load, "racks")
    yield alone
    say(f"{RACKS} racks of {each} nodes, uplinks {each}:1, {load}")
    with stage(bench.place, load, RACKS * each) as place:
        places = {number: place.room.rack(load.rate * MBIT) for number in range(1, RACKS + 1)}
        # In turns, so that those who start one after the other are not in one rack.
        members = [place.node(rack=rack, subnet=number) for _ in range(each) for number, rack in places.items()]
        place.crew.wait_ready()
        before = {number: _uplink(rack) for number, rack in places.items()}
        wire = place.together(members, PATIENCE)
        crossed = {number: _uplink(rack) - before[number] for number, rack in places.items()}
        row = bench.row("racks", f"{RACKS} racks of {each}, {each}:1", load, members, wire)
    one = bench.curl(load).head_bytes
    into = {number: round(traffic.received / one, 3) for number, traffic in crossed.items()}
    out = {number: round(traffic.sent / one, 3) for number, traffic in crossed.items()}
    bound = rack_bound(load, load.rate, each, alone.last)
    row = replace(row, more={"into": into, "out": out, "bound": bound})
    yield with_checks(
        replace(row, note=f"bound of the topology {bound:.1f} s"),
        Check("T / bound of the topology", row.last / bound if row.last else None, 1.15),
        Check("copies into a rack, the worst", max(into.values()), 1.30),
        Check("copies out of a rack, the worst", max(out.values()), 1.30),
    )


def trees(bench: Bench) -> Iterator[Row]:
    """The shape that more than 64 nodes have, with fewer: segments of two in two trees; and a third of them killed."""
    count, (load, *_) = bench.wanted.count(16), bench.wanted.loads(128, 25)
    yield bench.alone(load, "trees")
    there = bench.at(HeadPlace(bench.place.directory / "trees", SEGMENT))
    there.place.prepare()
    say(f"{count} nodes in segments of {SEGMENT}, {load}")
    with stage(there.place, load, count) as place:
        members = place.nodes(count)
        row = there.row("trees", f"segments of {SEGMENT}", load, members, place.together(members, PATIENCE))
    yield with_checks(
        row,
        Check("T(N) / T(1)", row.ratio or None, 1.10),
        Check("copies by the head", row.copies, COPIES),
        Check("first byte, s", row.first_byte, FIRST_BYTE),
    )
    yield replace(killed(there, load, count), part="trees")


def rack_bound(load: Load, uplink: float, each: int, alone: float) -> float:
    """Seconds that no way of handing out can beat in racks of `each` nodes behind uplinks of `uplink` Mbit/s.

    The head's link carries one copy, a node's link carries one copy, and each rack's uplink carries one copy in; what
    an ordinary node adds to the bare bytes is in T(1), `alone`, which one node alone takes at the load's rate.
    """
    assert each > 0
    return alone * max(1.0, load.rate / uplink)


def _uplink(rack: netns.Rack) -> Traffic:
    return device_traffic(rack.namespace, netns.UPLINK)


def _of(seconds: float, alone: Row) -> float | None:
    return seconds / alone.last if seconds and alone.last else None
