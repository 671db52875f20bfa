# SPDX-License-Identifier: Apache-2.0
"""The runs in namespaces (swarm.json) against the simulator: one delay is fitted, then each row is computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.sim.swarm import Case, run
from rookery.head.publish.pieces import piece_size

BUSY = 80.0  # percent of all cores from which on the processor is part of a measured result
FITTED = 16  # nodes: rows of up to so many give the delay, larger ones are predictions


@dataclass(frozen=True)
class Seen:
    """One measured row. seconds: of the last node; alone: T(1) of the run; rate: bytes per second; cpu: %."""

    nodes: int
    size: int
    piece: int
    rate: float
    seconds: float
    alone: float
    cpu: float


@dataclass(frozen=True)
class Compared:
    """A row, measured and computed. simulated: seconds of the last node. fitted: whether it gave the delay."""

    seen: Seen
    simulated: float
    fitted: bool

    @property
    def off(self) -> float:
        """(simulated - measured) / measured."""
        return self.simulated / self.seen.seconds - 1


def read(path: Path) -> list[Seen]:
    """The rows of part `together` with more than one node in which everybody got everything; none without a file."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["parts"].get("together", {"rows": []})["rows"]
    found = []
    for row in rows:
        size = row["size"] * 1_000_000
        if row["nodes"] > 1 and row["seconds"] and not row["missing"] and row["alone"]:
            last = max(row["seconds"])
            rate = row["rate"] * 1e6 / 8
            found.append(Seen(row["nodes"], size, piece_size(size), rate, last, row["alone"], row["cpu"]))
    return found


def fit(rows: Sequence[Seen]) -> float:
    """The delay per hop, seconds, that explains rows of few nodes best (least squares), at least 0.

    What T(N) has above T(1) is (N - 1) hops of one piece on the wire and the delay each.
    """
    chosen = [row for row in rows if row.nodes <= FITTED and row.cpu < BUSY] or list(rows)
    hops = [(row.nodes - 1, row.seconds - row.alone - (row.nodes - 1) * row.piece / _rate(row)) for row in chosen]
    return max(sum(n * extra for n, extra in hops) / sum(n * n for n, _ in hops), 0.0) if hops else 0.0


def compare(rows: Sequence[Seen], delay: float) -> list[Compared]:
    """Compute each row with the policy and that delay. T(1), start and last digest included, is taken as measured."""
    found = []
    for row in rows:
        case = Case(row.nodes, row.size, row.piece, _rate(row), delay)
        fitted = row.nodes <= FITTED and row.cpu < BUSY
        found.append(Compared(row, row.alone + run(case).last - case.alone, fitted))
    return found


def _rate(row: Seen) -> float:
    """Payload, bytes per second: TCP and IP take 3.5 % of Ethernet's frames."""
    return row.rate * 0.965
