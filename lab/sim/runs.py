# SPDX-License-Identifier: Apache-2.0
"""The tables: which cases are run, for which question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from lab.sim import bounds
from lab.sim.fabric import Fabric
from lab.sim.policy import STRIPES
from lab.sim.swarm import Case, Faults, arrivals, chain_only, run
from rookery.head.publish.pieces import MOST_PIECES, piece_size

Row = dict[str, Any]

GIGABIT = 1e9 / 8
DELAY = 0.002  # s, where nothing else is said
SIZES = (10**9, 4 * 10**9)
RATES = (1, 10)  # Gbit/s
POWERS = tuple(round(10 ** (step / 4)) for step in range(21))
COUNTS = tuple(sorted({*POWERS, 2, 4, 8, 16, 32, 64, 65, 96, 128, 256, 512, 2000, 5000, 20000, 50000}))
PIECES = tuple(2**power << 10 for power in (6, 7, 8, 9, 10))
LARGE = (1000, 10_000, 100_000)


def base(nodes: int, size: int = 10**9, gbit: float = 1, delay: float = DELAY) -> Case:
    """The policy as it is: its segments, its stripes, its pieces."""
    return Case(nodes, size, piece_size(size), gbit * GIGABIT, delay)


def curve() -> Iterator[Row]:
    """T(N)/T(1) from 1 to 100,000 nodes: policy, one chain, HTTP, and no schedule is better."""
    for size, gbit, nodes in product(SIZES, RATES, COUNTS):
        case = base(nodes, size, gbit)
        found = run(case)
        yield {
            "size": size,
            "gbit": gbit,
            "nodes": nodes,
            "policy": found.ratio,
            "mean": found.mean / case.alone,
            "depth": found.depth,
            "seconds": found.last,
            "chain": run(chain_only(case)).ratio,
            "http": bounds.unicast(nodes, size, case.rate) / case.alone,
            "least": bounds.least(nodes, case.pieces),
        }


def limits(marks: tuple[float, ...] = (1.05, 1.25)) -> Iterator[Row]:
    """The most nodes with which the policy stays within each mark (above 100,000: None)."""
    for size, gbit, delay in product(SIZES, RATES, (0.001, 0.002, 0.005)):
        found: Row = {"size": size, "gbit": gbit, "delay": delay}
        for mark in marks:
            found[str(mark)] = _most(partial(_within, mark, size, gbit, delay))
        yield found


def _within(mark: float, size: int, gbit: float, delay: float, nodes: int) -> bool:
    return run(base(nodes, size, gbit, delay)).ratio <= mark


def _most(holds: Callable[[int], bool]) -> int | None:
    """The largest N up to 100,000 before it first does not hold, to 3 %; None when it always does."""
    low = 1
    for high in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 100_000):
        if not holds(high):
            break
        low = high
    else:
        return None
    while high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def choices() -> Iterator[Row]:
    """Which segment length and which piece are best: for the two trees of the policy, and for one chain."""
    for nodes, gbit, delay in product((64, 256, 1000, 10_000), RATES, (0.001, 0.002, 0.005)):
        for segment, piece in product((8, 16, 32, 64), PIECES):
            case = replace(base(nodes, 10**9, gbit, delay), segment=segment, piece=piece, one_chain=0)
            if case.pieces <= 2 * MOST_PIECES:
                found = run(case)
                yield {"nodes": nodes, "gbit": gbit, "delay": delay, "segment": segment, "piece": piece} | {
                    "ratio": found.ratio,
                    "depth": found.depth,
                }


def works() -> Iterator[Row]:
    """The same question when each piece costs a node processor time besides."""
    for gbit, work, piece in product(RATES, (0.0001, 0.0003, 0.001), PIECES):
        case = replace(base(1000, 10**9, gbit), piece=piece, work=work)
        found = run(case)
        yield {"gbit": gbit, "work": work, "piece": piece, "seconds": found.last, "over_wire": found.last * gbit / 8}


def stripes() -> Iterator[Row]:
    """More trees: with s stripes every last node feeds s segments, and the way grows with log_s N."""
    for nodes, segment, count in product((1000, 10_000), (8, 16, 32), (2, 4, 8)):
        found = run(replace(base(nodes), segment=segment, stripes=count))
        fast = run(replace(base(nodes, gbit=10), segment=segment, stripes=count))
        yield {"nodes": nodes, "segment": segment, "stripes": count, "depth": found.depth} | {
            "at 1": found.ratio,
            "at 10": fast.ratio,
        }


def heads() -> Iterator[Row]:
    """A head with a faster card than the nodes feeds several copies at once: the trees are shorter."""
    for nodes, copies in product(LARGE, (1, 2, 4, 10)):
        found = run(replace(base(nodes), copies=copies))
        yield {"nodes": nodes, "copies": copies, "ratio": found.ratio, "depth": found.depth}
    for part in (0.5, 0.25):
        case = replace(base(1000), head_rate=part * GIGABIT)
        yield {"nodes": 1000, "copies": part, "ratio": run(case).ratio, "depth": run(case).depth}


def faults() -> Iterator[Row]:
    """Nodes die at any time of the transfer. heal 0.1 s: the process died; 2 s: the machine went silent."""
    for nodes, share, heal, size in product((64, *LARGE), (0.01, 0.001), (0.1, 2.0), SIZES):
        draws = 5 if nodes <= 1000 else 1
        if (nodes == 100_000 and (size != SIZES[0] or share < 0.01)) or (nodes in (64, 10_000) and share < 0.01):
            continue
        healthy = run(base(nodes, size))
        found = [run(replace(base(nodes, size), faults=Faults(share, heal, seed))) for seed in range(1, draws + 1)]
        yield {"nodes": nodes, "share": share, "heal": heal, "size": size, "healthy": healthy.ratio} | {
            "ratio": sum(one.ratio for one in found) / draws,
            "mean": sum(one.mean for one in found) / draws / base(1, size).alone,
            "moved": max(one.moved for one in found),
        }


def hiccups() -> Iterator[Row]:
    """Delays that vary: an exponential one on top of a fixed one, together DELAY on average."""
    for nodes, part in product((64, 1000), (0.0, 0.1, 0.25, 0.5)):
        case = replace(base(nodes), delay=DELAY * (1 - part), jitter=DELAY * part)
        yield {"nodes": nodes, "jitter": DELAY * part, "ratio": run(case).ratio}


def fabrics() -> Iterator[Row]:
    """Fat trees: racks and pods with uplinks narrower than what is below them, with and without the racks in the order
    of the chain."""
    narrows = ((1, 1), (2, 1), (4, 1), (4, 4))
    for nodes, rack, (narrow, core), segment in product(LARGE, (32, 40), narrows, (8, 32)):
        if nodes == LARGE[-1] and rack != 32:
            continue
        fabric = Fabric(rack, narrow, core)
        case = replace(base(nodes), segment=min(segment, rack), one_chain=0)
        copies = fabric.copies(case.segment)
        known = run(replace(case, between=fabric.between(case.segment)))
        blind = run(replace(case, rate=case.rate * fabric.blind()))
        yield {"nodes": nodes, "rack": rack, "narrow": narrow, "core": core, "segment": segment, "copies": copies} | {
            "used": fabric.used(case.segment),
            "used_core": fabric.used_core(case.segment),
            "known": known.ratio,
            "blind": blind.last / case.alone,
        }


def slow() -> Iterator[Row]:
    """Where a node at a tenth of the rate hangs: on a tail that feeds others besides, or on one that feeds nobody."""
    for nodes, behind in product((1000, 10_000), (False, True)):
        found = run(replace(base(nodes), between=1.0 if behind else 0.9))
        yield {"nodes": nodes, "on": "a tail that feeds nobody" if behind else "tails that feed others"} | {
            "ratio": found.ratio
        }


def comers() -> Iterator[Row]:
    """Poisson arrivals over one transfer time; each stands behind the one before it."""
    for nodes, gbit, seed in product((64, 1000, 10_000), RATES, (1, 2)):
        case = base(nodes, gbit=gbit)
        draw = np.random.default_rng(seed)
        took = arrivals(case, np.cumsum(draw.exponential(case.alone / nodes, nodes)))
        fluid = bounds.fluid(case.size, case.rate, case.rate, stay=0.0)
        yield {"nodes": nodes, "gbit": gbit, "seed": seed, "mean": float(took.mean()) / case.alone} | {
            "worst": float(took.max()) / case.alone,
            "fluid": fluid / case.alone,
        }


def everything() -> dict[str, list[Row]]:
    """All tables."""
    tables = (curve, limits, choices, works, stripes, heads, faults, hiccups, fabrics, slow, comers)
    return {table.__name__: list(table()) for table in tables} | {
        "base": [asdict(base(1)) | {"stripes": STRIPES}],
    }
