# SPDX-License-Identifier: Apache-2.0
"""Who is slow: whatever the order in which links are measured, those with a slow link stand last, and nobody else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rookery.head.swarm import members, planner
from rookery.head.swarm.members import Member, Speeds
from rookery.head.swarm.planner import Asker, Planner
from rookery.wire.relay import Ask
from tests.head.swarm.crowd import ROOT, Crowd, name

FAST, SLOW = 1e7, 1e6


class Wired(Crowd):
    """Members on links of their own speed, who say what is measured between them and their parent."""

    def __init__(self, speeds: list[float], dice: random.Random) -> None:
        super().__init__()
        self.speeds, self.dice = speeds, dice
        self.join(len(speeds))
        self.taken = {number: self.parent(number) for number in range(len(speeds))}

    def parent(self, number: int) -> str:
        return self.swarm.parent(name(number))

    def say(self, number: int) -> None:
        parent = self.taken[number]
        speed = min(
            [self.speeds[number], *(self.speeds[one] for one in range(len(self.speeds)) if name(one) == parent)]
        )
        measured = speed * self.dice.uniform(0.9, 1.4)  # bursts
        self.ask(number, rate=measured, steady=self.dice.choice([0.0, measured * 0.9]), parents=(parent,))
        self.taken[number] = self.parent(number)  # from there it takes, and measures, until it asks again

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            everybody = list(range(len(self.speeds)))
            self.dice.shuffle(everybody)
            for number in everybody:
                self.now += 0.35 / len(everybody)
                self.say(number)
                self.check()

    def found(self) -> set[int]:
        return {number for number in range(len(self.speeds)) if self.swarm.members[name(number)].slow}

    def last(self, count: int) -> set[str]:
        order = [one for segment in self.swarm.line() for one in segment]
        return set(order[len(order) - count :])


@settings(max_examples=150, deadline=None)
@given(st.integers(8, 24), st.integers(0, 4), st.integers(0, 2**32))
def test_the_slow_ones_are_found_and_nobody_else(count: int, slow: int, seed: int) -> None:
    dice = random.Random(seed)
    speeds = [SLOW] * min(slow, count // 4) + [FAST] * (count - min(slow, count // 4))
    dice.shuffle(speeds)
    crowd = Wired(speeds, dice)
    crowd.play(12)
    wanted = {number for number, speed in enumerate(speeds) if speed == SLOW}
    assert crowd.found() == wanted
    assert crowd.last(len(wanted)) == {name(number) for number in wanted}


def test_a_fast_one_between_two_slow_ones_is_not_taken_for_slow() -> None:
    speeds = [FAST, FAST, SLOW, FAST, SLOW, FAST, FAST, FAST]
    crowd = Wired(speeds, random.Random(0))
    for number in (7, 6, 4, 3):  # 5 has not measured yet: of 4 nobody knows whether it is to blame
        crowd.say(number)
    crowd.now += members.REFRESH * 2
    crowd.say(3)
    assert crowd.found() == set(), "its link is slow to both sides, and may be so through them"
    crowd.play(8)
    assert crowd.found() == {2, 4}


def test_a_slow_one_is_known_when_both_sides_have_measured() -> None:
    crowd = Wired([FAST, FAST, SLOW, FAST, FAST], random.Random(0))
    for number in (0, 1, 4, 3):
        crowd.say(number)
    crowd.now += members.REFRESH * 2
    assert crowd.found() == set()
    crowd.say(2)
    assert crowd.found() == {2}
    assert crowd.last(1) == {name(2)}


def test_without_a_child_it_takes_a_second() -> None:
    crowd = Wired([FAST, FAST, FAST, SLOW], random.Random(0))
    for now in (0.0, 0.4, 0.8):
        crowd.now = now
        for number in range(4):
            crowd.say(number)
        assert crowd.found() == set()
    crowd.now = members.ALONE
    crowd.say(3)
    assert crowd.found() == {3}


@pytest.mark.parametrize(("steady", "slow"), [(1.0e7, False), (0.5e7, False), (0.3e7, True), (0.0, True)])
def test_nobody_is_slow_because_bursts_make_others_seem_fast(steady: float, slow: bool) -> None:
    crowd = Crowd()
    crowd.join(5)
    for _ in range(4):
        for number in range(5):
            crowd.now += 0.1
            parent = crowd.swarm.parent(name(number)) if name(number) in crowd.placed() else ROOT
            # The link of the first to its child is as slow as its own.
            first = name(0) in (name(number), parent)
            rate, kept = (1e7, steady) if first else (20e7, 1e7)
            crowd.ask(number, rate=rate, steady=kept, parents=(parent,), pieces=1)
    crowd.check()
    assert crowd.swarm.members[name(0)].slow is slow


def test_who_has_one_fast_link_is_not_slow() -> None:
    """A head with less than the nodes have, or one that is busy."""
    crowd = Crowd()
    crowd.join(5)
    for _ in range(10):
        for number in range(5):
            crowd.now += 0.1
            parent = crowd.swarm.parent(name(number))
            crowd.ask(number, rate=SLOW if parent == ROOT else FAST, parents=(parent,))
    assert not any(member.slow for member in crowd.swarm.members.values())
    assert crowd.swarm.parent(name(0)) == ROOT


def test_who_may_wait_behind_a_slow_one_asks_again_soon() -> None:
    found = Planner(ROOT)

    def seconds(number: int, parent: str, rate: float, now: float, pieces: int = 0) -> float:
        ask = Ask(8473, pieces, 100, rate=rate, steady=rate, parents=(parent,) if rate else ())
        return found.ask("a" * 64, "key", Asker(name(number), "r"), ask, now).seconds

    for number in range(5):
        assert seconds(number, "", 0.0, 0.0) == planner.SETTLE
    for number in (1, 2, 4):
        assert seconds(number, name(number - 1), FAST, 0.3) == planner.SETTLE
    assert seconds(3, name(2), SLOW, 0.4) == planner.HASTE
    assert seconds(3, name(2), SLOW, 0.4, pieces=100) > planner.HASTE, "it has all"
    assert seconds(2, name(1), FAST, 0.5) == planner.SETTLE


def test_it_does_not_ask_in_haste_for_ever() -> None:
    them = {name(number): Member(name(number), "r", rate=FAST, steady=FAST) for number in range(4)}
    speeds = Speeds(them)
    waiting = them[name(3)]
    waiting.rate = waiting.steady = SLOW
    speeds.look(0.0)
    assert speeds.is_waiting(waiting, 0.5)
    assert not speeds.is_waiting(waiting, members.ALONE)
    waiting.told_at = 1.0
    assert speeds.is_waiting(waiting, 1.5)
    waiting.slow = True
    assert not speeds.is_waiting(waiting, 1.5)
