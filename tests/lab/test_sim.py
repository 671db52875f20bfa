# SPDX-License-Identifier: Apache-2.0
import heapq
import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from lab.sim import bounds, flow, measured, page
from lab.sim.fabric import Fabric
from lab.sim.layout import HEAD, Layout, segment_lengths
from lab.sim.policy import layout, trees
from lab.sim.swarm import Case, Faults, arrivals, chain_only, run
from rookery.head.swarm import planner
from rookery.wire.relay import Ask

SWARM = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "swarm.json"
GIGABIT = 1e9 / 8


def test_a_wire_carries_one_piece_after_the_other() -> None:
    ready = np.random.default_rng(1).uniform(0, 5, 200)
    expected, free = [], 0.0
    for at in ready:
        free = max(at, free) + 0.03
        expected.append(free)
    assert np.allclose(flow.carry(ready, 0.03), expected)


def test_a_gap_stops_a_wire_and_a_later_one_does_not() -> None:
    ready = np.zeros(10)
    assert np.allclose(flow.carry_with_gap(ready, ready, 1.0, 3.5, 6.0)[2:5], [3.0, 7.0, 8.0])
    assert np.allclose(flow.carry_with_gap(ready, ready, 1.0, 30.0, 40.0), flow.carry(ready, 1.0))


@pytest.mark.parametrize("nodes", [1, 2, 8, 64])
def test_one_chain_is_the_closed_form(nodes: int) -> None:
    case = Case(nodes, 10**9, 1 << 17, GIGABIT, 0.002)
    assert run(case).last == pytest.approx(bounds.chain(nodes, 10**9, 1 << 17, GIGABIT, 0.002))


@pytest.mark.parametrize(("pieces", "ratio"), [(2048, 1.49), (8192, 1.12), (32768, 1.03)])
def test_a_chain_of_a_thousand(pieces: int, ratio: float) -> None:
    case = Case(1000, pieces << 16, 1 << 16, GIGABIT, 0.0)
    assert run(chain_only(case)).ratio == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize("stripes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("segments", [1, 2, 3, 7, 11, 12, 64, 313])
def test_trees_hold_everybody_and_nobody_gives_more_than_a_copy(segments: int, stripes: int) -> None:
    found = layout(segments, stripes)
    for stripe in range(found.stripes):
        assert min(found.depth(stripe)) == 0  # ends: no tree bites its tail
        assert [row[stripe] for row in found.sources].count(HEAD) == 1
    assert max(found.feeds()) <= found.stripes


@pytest.mark.parametrize("segments", range(3, 80))
def test_the_planner_lays_out_the_same_two_trees(segments: int) -> None:
    assert Layout(planner.layout(segments, line=False)) == layout(segments, 2)


def test_the_planner_places_a_young_wave_as_the_simulator_does() -> None:
    swarm = planner.Swarm("head:1")
    for number in range(200):
        swarm.ask(planner.Asker(f"n{number}:1", f"rack {number // 32}"), Ask(1, 0, 1000), number / 1000)
    (wave,) = swarm.waves
    tails = {segment.members[-1]: number for number, segment in enumerate(wave.segments)}
    placed = tuple(tuple(tails.get(source, HEAD) for source in segment.sources) for segment in wave.segments)
    assert placed == trees(len(wave.segments), 2).sources
    assert sorted(len(segment.members) for segment in wave.segments) == [8, 32, 32, 32, 32, 32, 32]


def test_kinds_of_segments_stand_for_all_of_them() -> None:
    case = Case(1000, 10**8, 1 << 17, GIGABIT, 0.002)
    alike = run(case)
    each = run(Case(1000, 10**8, 1 << 17, GIGABIT, 0.002, faults=Faults(0.0, 1.0)))
    assert (alike.last, alike.mean) == pytest.approx((each.last, each.mean), rel=1e-3)


@pytest.mark.parametrize(
    ("nodes", "segment", "delay"), [(96, 32, 0.002), (128, 8, 0.0), (300, 16, 0.005), (40, 1, 0.001)]
)
def test_piece_by_piece_gives_the_same(nodes: int, segment: int, delay: float) -> None:
    case = Case(nodes, 128 << 17, 1 << 17, GIGABIT, delay, segment=segment, one_chain=0)
    # Pieces that are ready at the same moment may go in either order.
    assert run(case).last == pytest.approx(piece_by_piece(case), abs=3 * case.piece / case.rate)


def piece_by_piece(case: Case) -> float:
    """The same policy by events, without any of the simulator's code for time: a queue for every wire."""
    lengths = segment_lengths(case.nodes, case.segment, case.one_chain)
    forest = trees(len(lengths), case.stripes)
    # Wires: (segment, place) from the node before; (segment, 0, stripe) between segments.
    free: dict[tuple[int, ...], float] = {}
    events: list[tuple[float, int, int, int, int]] = []
    order, last = count(), 0.0

    def send(wire: tuple[int, ...], now: float, rate: float, piece: int) -> None:
        free[wire] = max(free.get(wire, 0.0), now) + case.piece / rate
        heapq.heappush(events, (free[wire] + case.delay, next(order), wire[0], wire[1], piece))

    feeds = forest.feeds()
    for segment, sources in enumerate(forest.sources):
        for piece in range(case.pieces):
            if sources[piece % len(sources)] == HEAD:
                send((segment, 0, piece % len(sources)), 0.0, case.rate / len(sources), piece)
    while events:
        now, _, segment, place, piece = heapq.heappop(events)
        last = now
        if place + 1 < lengths[segment]:
            send((segment, place + 1), now, case.rate, piece)
        stripe = piece % forest.stripes
        if place + 1 == lengths[segment]:
            for other, sources in enumerate(forest.sources):
                if sources[stripe] == segment:
                    send((other, 0, stripe), now, case.rate / feeds[segment], piece)
    return last


@pytest.mark.parametrize("nodes", [2, 64, 100, 1000, 10_000])
def test_nothing_beats_the_bound(nodes: int) -> None:
    case = Case(nodes, 10**9, 1 << 17, GIGABIT, 0.0)
    assert run(case).ratio >= bounds.least(nodes, case.pieces) - 1e-9
    assert bounds.least(1000, 8192) == pytest.approx(1 + 9 / 8192)


def test_a_dead_node_costs_its_orphans_the_time_to_heal() -> None:
    healthy = Case(64, 10**9, 1 << 17, GIGABIT, 0.002)
    one = Case(64, 10**9, 1 << 17, GIGABIT, 0.002, faults=Faults(1 / 64, 1.0))
    assert 0.5 < run(one).last - run(healthy).last < 1.05


def test_arrivals_take_what_the_fluid_model_says() -> None:
    case = Case(64, 10**9, 1 << 17, GIGABIT, 0.002)
    starts = np.cumsum(np.random.default_rng(3).exponential(case.alone / 64, 64))
    fluid = bounds.fluid(case.size, case.rate, case.rate, stay=0.0)
    assert float(arrivals(case, starts).mean()) == pytest.approx(fluid, rel=0.02)
    # Nodes that stay make the wires down the limit, and a swarm that trades half as well needs twice as long.
    assert bounds.fluid(100, 10, 5, stay=15) == 10
    assert bounds.fluid(100, 10, 5, stay=0, effectiveness=0.5) == 40


def test_racks() -> None:
    assert Fabric(40, 4).copies(32) == 2
    assert Fabric(40, 4).used(32) == pytest.approx(0.2)
    assert Fabric(32, 4).between(8) == 1.0
    assert Fabric(4, 4).between(2) == 0.5
    assert Fabric(32, 4).blind() == 0.25


def test_pods() -> None:
    assert Fabric(32, 4, 4).used_core(32) == pytest.approx(0.5)
    assert Fabric(32, 4, 4).between(32) == 1.0
    assert Fabric(32, 4, 4).between(8) == 0.5
    assert Fabric(32, 4, 4).blind() == 1 / 16


def test_only_marked_tables_are_written(tmp_path: Path) -> None:
    path = tmp_path / "sim.md"
    path.write_text("before\n<!-- table: slow -->\nold\n<!-- end -->\nafter\n")
    page.fill(path, {"slow": [{"nodes": 1000, "on": "a tail", "ratio": 1.5}]})
    assert "old" not in path.read_text()
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("after\n")
    assert "| 1,000 | a tail | 1.500 |" in path.read_text()


def test_a_delay_is_found_again(tmp_path: Path) -> None:
    rows = []
    for nodes in (1, 8, 16, 64):
        last = bounds.chain(nodes, 256_000_000, 1 << 16, 0.965e8 / 8, 0.004)
        row = {"nodes": nodes, "size": 256, "rate": 100, "seconds": [last - 1, last], "missing": 0, "cpu": 20.0}
        rows.append(row | {"alone": bounds.chain(1, 256_000_000, 1 << 16, 0.965e8 / 8, 0.004)})
    path = tmp_path / "swarm.json"
    path.write_text(json.dumps({"parts": {"together": {"rows": rows}}}))
    seen = measured.read(path)
    assert [row.nodes for row in seen] == [8, 16, 64]
    assert measured.fit(seen) == pytest.approx(0.004, rel=0.01)
    assert all(abs(row.off) < 1e-3 for row in measured.compare(seen, measured.fit(seen)))
    assert measured.read(tmp_path / "none.json") == []


def test_measured_runs_are_met_within_a_tenth() -> None:
    # Where the processor was the limit, the row is of the machine and not of the policy.
    seen = [row for row in measured.read(SWARM) if row.cpu < measured.BUSY]
    found = {(row.seen.nodes, row.seen.rate): row.off for row in measured.compare(seen, measured.fit(seen))}
    assert len(found) == len(seen) >= 5
    assert max(map(abs, found.values()), default=0.0) <= 0.10, found
