# SPDX-License-Identifier: Apache-2.0
"""One run on paper: a case (nodes, bytes, wires, faults) gives the time of the last node and of the mean one.

Every piece on every wire is computed, nothing is sampled. What makes 100,000 nodes quick: in a healthy run segments
that stand in the same place of the same trees have the same times, so one of each kind is computed; and in a stretch
of a chain without a fault pieces are only shifted (flow.along).

A segment takes several stripes at once and passes pieces on in the order in which it gets them, so the times of one
stripe depend on the others' and round in a circle: sweeps over all trees are repeated until no time moves by more
than TOLERANCE of T(1). `Outcome.moved` says what was left.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lab.sim import flow
from lab.sim.flow import Times
from lab.sim.layout import HEAD, Layout, segment_lengths
from lab.sim.policy import ONE_CHAIN, SEGMENT, STRIPES, trees

TOLERANCE = 2e-4  # of T(1)
SWEEPS = 8


@dataclass(frozen=True)
class Faults:
    """Nodes that die. share: of all; heal: s until an orphan has the next ancestor; seed: of the draw."""

    share: float
    heal: float
    seed: int = 1


@dataclass(frozen=True)
class Case:
    """What is sent, to whom, over what. Sizes in bytes, rates in bytes per second each way, times in seconds.

    delay: from a piece's last byte to its first one onwards: digest, wake-up, latency. work: processor time per
    piece, which bounds the rate at piece / work. jitter: mean of an exponential delay that comes on top for each
    piece and node. segment: most nodes of a segment; one_chain: up to that many nodes in a single chain; stripes:
    trees. copies: how many copies the head feeds at once, over a wire of head_rate (0: rate times copies). between:
    part of `rate` that the wires between segments have (a full uplink of a rack, a slow node fed besides).
    """

    nodes: int
    size: int
    piece: int
    rate: float
    delay: float
    work: float = 0.0
    jitter: float = 0.0
    segment: int = SEGMENT
    one_chain: int = ONE_CHAIN
    stripes: int = STRIPES
    copies: int = 1
    head_rate: float = 0.0
    between: float = 1.0
    faults: Faults | None = None

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return -(-self.size // self.piece)

    @property
    def node_rate(self) -> float:
        """What a node passes on, bytes per second: its wire, or its processor."""
        return min(self.rate, self.piece / self.work) if self.work else self.rate

    @property
    def alone(self) -> float:
        """Seconds of one node alone, whose head has as fast a wire as it."""
        return self.pieces * self.piece / self.node_rate + self.delay


@dataclass(frozen=True)
class Outcome:
    """What came out. last, mean: seconds of the last node and of the mean one (those that live). ratio: last / T(1).

    depth: wires from the head to the farthest node. moved: s by which the last sweep still changed anything.
    """

    last: float
    mean: float
    ratio: float
    depth: int
    moved: float


@dataclass
class _Segment:
    length: int
    feeds: int
    weight: int
    sources: tuple[int, ...]
    deaths: tuple[tuple[int, float], ...] = ()
    first: list[Times] = field(default_factory=list)  # by stripe: when the first node has its pieces
    tail: list[Times] = field(default_factory=list)  # by stripe: when the last node has them
    heir: list[Times] = field(default_factory=list)  # by stripe: the node that feeds when the last one is dead
    last: float = 0.0
    mean: float = 0.0


def run(case: Case) -> Outcome:
    """Compute one case."""
    lengths = segment_lengths(case.nodes, case.segment, case.one_chain)
    forest = trees(len(lengths), case.stripes, case.copies)
    segments = _healthy(lengths, forest) if case.faults is None and not case.jitter else _each(case, lengths, forest)
    orders = [_order(segments, stripe) for stripe in range(forest.stripes)]
    inner = [{segment.sources[stripe] for segment in segments} for stripe in range(forest.stripes)]
    for stripe, order in enumerate(orders):  # as if each stripe were alone
        for number in order:
            segment = segments[number]
            segment.first.append(_entry(case, segments, segment, stripe))
            segment.tail.append(
                flow.along(segment.first[stripe], segment.length, case.piece / case.node_rate, case.delay)
            )
            segment.heir.append(segment.tail[stripe])
    moved = 0.0
    for _ in range(SWEEPS):
        moved = 0.0
        for stripe, order in enumerate(orders):
            for number in order:
                segment = segments[number]
                entry = _entry(case, segments, segment, stripe)
                moved = max(moved, float(np.max(np.abs(entry - segment.first[stripe]))))
                segment.first[stripe] = entry
                if number in inner[stripe]:
                    _pass_on(case, number, segment)
        if moved <= TOLERANCE * case.alone:
            break
    for number, segment in enumerate(segments):
        _pass_on(case, number, segment)
    weights = sum(segment.weight * segment.length for segment in segments)
    mean = sum(segment.mean * segment.weight * segment.length for segment in segments) / weights
    last = max(segment.last for segment in segments)
    deepest = max(max(forest.depth(stripe)) for stripe in range(forest.stripes))
    return Outcome(last, mean, last / case.alone, (deepest + 1) * max(lengths), moved)


def _healthy(lengths: tuple[int, ...], forest: Layout) -> list[_Segment]:
    """One segment of each kind: of the same length, feeding as many, and fed by the same kinds."""
    feeds = forest.feeds()
    sources = np.array(forest.sources)
    kinds = np.unique(np.array([lengths, feeds]), axis=1, return_inverse=True)[1].reshape(-1)
    count = 0
    while True:
        above = np.where(sources == HEAD, HEAD, kinds[sources])
        kinds = np.unique(np.column_stack([kinds, above]), axis=0, return_inverse=True)[1].reshape(-1)
        if kinds.max() + 1 == count:
            break
        count = int(kinds.max()) + 1
    weights = np.bincount(kinds)
    found = np.unique(kinds, return_index=True)[1]
    above = np.where(sources == HEAD, HEAD, kinds[sources])
    return [
        _Segment(lengths[one], feeds[one], int(weights[kind]), tuple(above[one].tolist()))
        for kind, one in enumerate(found.tolist())
    ]


def _each(case: Case, lengths: tuple[int, ...], forest: Layout) -> list[_Segment]:
    """All segments, with who dies in them and when."""
    feeds = forest.feeds()
    segments = [_Segment(length, feeds[number], 1, forest.sources[number]) for number, length in enumerate(lengths)]
    if case.faults:
        draw = np.random.default_rng(case.faults.seed)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for node in np.sort(draw.choice(case.nodes, round(case.faults.share * case.nodes), replace=False)).tolist():
            number = int(np.searchsorted(starts, node, side="right")) - 1
            death = (node - int(starts[number]), float(draw.uniform(0, case.alone)))
            segments[number].deaths += (death,)
    return segments


def _order(segments: list[_Segment], stripe: int) -> list[int]:
    """Sources before those that they feed."""
    fed: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        fed.setdefault(segment.sources[stripe], []).append(number)
    order = list(fed.get(HEAD, []))
    for number in order:
        order += fed.get(number, [])
    return order


def _entry(case: Case, segments: list[_Segment], segment: _Segment, stripe: int) -> Times:
    """When the first node of a segment has the pieces of a stripe."""
    stripes = len(segment.sources)
    source = segment.sources[stripe]
    heal = case.faults.heal if case.faults else 0.0
    gaps = [(at, at + heal) for place, at in segment.deaths if place == 0]
    if source == HEAD:
        lane = min((case.head_rate or case.rate * case.copies) / case.copies, case.node_rate) / stripes
        ready = heir = np.zeros(len(range(stripe, case.pieces, stripes)))
    else:
        lane = case.node_rate * case.between / segments[source].feeds
        ready, heir = segments[source].tail[stripe], segments[source].heir[stripe]
        end = segments[source].length - 1
        gaps += [(at, at + heal) for place, at in segments[source].deaths if place == end]
    if not gaps:
        return flow.carry(ready, case.piece / lane) + case.delay
    begin, end_of = min(gaps)
    return flow.carry_with_gap(ready, heir, case.piece / lane, begin, end_of) + case.delay


def _pass_on(case: Case, number: int, segment: _Segment) -> None:
    """From the first node to the last, in the order in which the first one got the pieces of all stripes."""
    ready, places = flow.merged(segment.first)
    seconds = case.piece / case.node_rate
    if case.jitter or segment.deaths:
        chain = _slowly(case, number, segment, ready)
        tail, heir = chain[-1], chain[-2] if len(chain) > 1 else chain[-1]
        dead = {place for place, _ in segment.deaths}
        done = [float(times.max()) for place, times in enumerate(chain) if place not in dead] or [0.0]
        segment.last, segment.mean = max(done), sum(done) / len(done)
    else:
        tail = heir = flow.along(ready, segment.length, seconds, case.delay)
        segment.last = float(tail[-1])
        others = segment.length - 1  # the first node, and those behind it, one hop apart
        behind = segment.last - (others - 1) / 2 * (seconds + case.delay)
        segment.mean = (float(ready[-1]) + others * behind) / segment.length
    segment.tail = [tail[place] for place in places]
    segment.heir = [heir[place] for place in places]


def _slowly(case: Case, number: int, segment: _Segment, ready: Times) -> list[Times]:
    """Node by node: with its own delays, and from the next ancestor when the one before it dies."""
    seconds, heal = case.piece / case.node_rate, case.faults.heal if case.faults else 0.0
    draw = np.random.default_rng([7, number])
    deaths = dict(segment.deaths)
    chain: list[Times] = []
    for place in range(segment.length):
        if place == 0:
            across = ready
        elif place - 1 in deaths and place > 1:
            begin = deaths[place - 1]
            across = flow.carry_with_gap(chain[-1], chain[-2], seconds, begin, begin + heal) + case.delay
        else:
            across = flow.carry(chain[-1], seconds) + case.delay
        if case.jitter:
            across = np.maximum.accumulate(across + draw.exponential(case.jitter, len(across)))
        chain.append(across)
    return chain


def arrivals(case: Case, starts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds that each node took that came at `starts` (rising) and stood behind the one before it, in one chain."""
    seconds = case.piece / case.node_rate
    ready = np.zeros(case.pieces)
    took = np.empty(len(starts))
    for node, start in enumerate(starts.tolist()):
        ready = flow.carry(np.maximum(ready, start), seconds) + case.delay
        took[node] = ready[-1] - start
    return took


def chain_only(case: Case) -> Case:
    """The same case with all nodes in a single chain."""
    return replace(case, one_chain=case.nodes)
