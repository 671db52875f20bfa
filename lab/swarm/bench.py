# SPDX-License-Identifier: Apache-2.0
"""What all parts of the benchmark share: what was asked for, T(1) and one copy of curl for every load, and rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lab.swarm.baseline import one_copy
from lab.swarm.crew import Member
from lab.swarm.measure import Outcome, Wire
from lab.swarm.record import Check, Row, measured
from lab.swarm.stage import HeadPlace, Load, stage

PATIENCE = 6.0  # ideal times after which a run is given up
FIRST_BYTE = 0.5  # s
COPIES = 1.10
DISTURBED = 15.0  # percent of the processor before the start


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for; a part has its own numbers where it is empty. sizes: MB. rates: Mbit/s.
    nodes: how many. seed: of the dice. systems: parts of the names of those that Rookery is raced against."""

    sizes: tuple[int, ...] = ()
    rates: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    seed: int = 1
    systems: tuple[str, ...] = ()

    def loads(self, size: int, rate: int) -> list[Load]:
        """Every size with every rate; `size` and `rate` when none was asked for."""
        return [Load(one, other) for one in self.sizes or (size,) for other in self.rates or (rate,)]

    def count(self, usual: int) -> int:
        """Nodes of a part that has one number of them: the largest that was asked for."""
        return max(self.nodes, default=usual)


class Bench:
    """One run of the benchmark. place: the head's directory. wanted: what was asked for."""

    def __init__(self, place: HeadPlace, wanted: Wanted) -> None:
        self.place, self.wanted = place, wanted
        self._alone: dict[Load, Row] = {}
        self._curl: dict[Load, Outcome] = {}

    def at(self, place: HeadPlace) -> Bench:
        """The same bench with another head; what was measured of one node alone holds there, too."""
        found = Bench(place, self.wanted)
        found._alone, found._curl = self._alone, self._curl
        return found

    def dice(self, what: str) -> random.Random:
        """Dice that fall the same in every run with the same seed. what: for which purpose."""
        return random.Random(f"{self.wanted.seed} {what}")

    def curl(self, load: Load) -> Outcome:
        """One copy by curl from nginx on such a link; measured once. Raises RookeryError when that is not possible."""
        if load not in self._curl:
            say(f"one curl from nginx, {load}")
            self._curl[load] = one_copy(self.place.file(load.size), self.place.digest(load.size), load)
            say(f"  {self._curl[load].last:.2f} s, the bare bytes take {load.ideal:.2f} s")
        return self._curl[load]

    def alone(self, load: Load, part: str) -> Row:
        """One node alone, T(1); measured once for each load."""
        if load not in self._alone:
            curl = self.curl(load)
            say(f"one node alone, {load}")
            with stage(self.place, load, 1) as place:
                members = place.nodes(1)
                wire = place.together(members, PATIENCE)
                self._alone[load] = self.row(part, "alone", load, members, wire, against=0.0, more={"curl": curl.last})
        row = self._alone[load]
        return replace(row, part=part, checks=self._alone_checks(row))

    def row(
        self,
        part: str,
        case: str,
        load: Load,
        members: Sequence[Member],
        wire: Wire,
        *,
        checks: Sequence[Check] = (),
        note: str = "",
        more: Mapping[str, Any] | None = None,
        against: float | None = None,
        began: float | None = None,
    ) -> Row:
        """The row of a run that is over. checks: beside the one that everybody has everything. against: T(1); that of
        the load when None."""
        size, digest = load.bytes, self.place.digest(load.size)
        found = measured(members, wire, size, self.curl(load).head_bytes, digest, began)
        row = Row(
            part,
            case,
            len(members),
            load.size,
            load.rate,
            alone=self.alone(load, part).last if against is None else (against or max(found.seconds, default=0.0)),
            checks=(*checks, Check("nodes without the right file", float(found.missing), 0.0)),
            note=note or _disturbed(wire),
            more=more or {},
            **vars(found),
        )
        say(f"  {told(row)}")
        return row

    @staticmethod
    def _alone_checks(row: Row) -> tuple[Check, ...]:
        return (
            Check("T(1) / curl", row.last / row.more["curl"] if row.more["curl"] else None, 1.03),
            Check("copies by the head", row.copies, COPIES),
            Check("first byte, s", row.first_byte, FIRST_BYTE),
            Check("nodes without the right file", float(row.missing), 0.0),
        )


def told(row: Row) -> str:
    """A row in one line."""
    words = [f"last {row.last:.2f} s = {row.ratio:.3f} T(1)", f"{row.copies:.3f} copies", f"processor {row.cpu:.0f} %"]
    if row.busy:
        words.append("THE PROCESSOR IS THE LIMIT")
    words += [row.note] if row.note else []
    words += [f"missed: {check.what} {_shown(check)} (limit {check.limit:g})" for check in row.checks if not check.held]
    return ", ".join(words)


def _disturbed(wire: Wire) -> str:
    quiet = wire.background < DISTURBED
    return "" if quiet else f"something else took {wire.background:.0f} % of the processor before the start"


def _shown(check: Check) -> str:
    return "unknown" if check.value is None else f"{check.value:.3f}"


def with_checks(row: Row, *checks: Check) -> Row:
    """The same row with more checks, before those that it has."""
    return replace(row, checks=(*checks, *row.checks))


def say(text: str) -> None:
    """One line of progress."""
    print(f"-- {text}", flush=True)
