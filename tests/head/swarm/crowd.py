# SPDX-License-Identifier: Apache-2.0
"""Members that ask the planner, and what must hold whatever they say."""

from __future__ import annotations

from rookery.head.swarm import planner
from rookery.head.swarm.planner import STRIPES, Asker, Swarm
from rookery.wire.relay import Ask, Feed

ROOT = "10.0.0.1:8473"
TOTAL = 1000


def name(number: int) -> str:
    return f"10.1.{number // 250}.{number % 250 + 1}:8473"


class Crowd:
    """Members that ask, as nodes do: each says whom it takes from, and what it has."""

    def __init__(self, segment: int = planner.SEGMENT) -> None:
        self.swarm = Swarm(ROOT, segment)
        self.now = 0.0
        self.racks: dict[str, str] = {}

    def ask(self, number: int, rack: str = "r", **words: object) -> tuple[Feed, ...]:
        endpoint = name(number)
        self.racks[endpoint] = rack
        words = {"pieces": 0, "total": TOTAL} | words
        return self.swarm.ask(Asker(endpoint, rack), Ask(8473, **words), self.now)  # type: ignore[arg-type]

    def join(self, count: int, racks: int = 1, first: int = 0) -> None:
        for number in range(first, first + count):
            self.ask(number, f"r{number % racks}")

    def placed(self) -> list[str]:
        return list(self.swarm._place)

    def way(self, endpoint: str, stripe: int) -> list[str]:
        """From a member up to who is not placed; fails on a cycle."""
        found = [endpoint]
        while found[-1] in self.swarm._place:
            found.append(self.swarm.parent(found[-1], stripe))
            assert len(set(found)) == len(found), f"a cycle: {found}"
        return found

    def check(self) -> None:
        """Everybody stands once, and reaches the head, or somebody who has everything. (Who was told to be lost stands
        nowhere until it asks again.)"""
        swarm = self.swarm
        stand = [endpoint for wave in swarm.waves for segment in wave.segments for endpoint in segment.members]
        assert sorted(stand) == sorted(swarm._place), "each stands in one place"
        assert all(segment.members for wave in swarm.waves for segment in wave.segments)
        assert set(stand) <= set(swarm.members)
        for endpoint in stand:
            for stripe in range(STRIPES):
                top = self.way(endpoint, stripe)[-1]
                assert top == ROOT or swarm.members[top].complete, f"{endpoint} hangs on {top}"

    def links(self) -> list[tuple[str, str, int]]:
        """Every parent, child, stripe."""
        return [(self.swarm.parent(one, stripe), one, stripe) for one in self.placed() for stripe in range(STRIPES)]
