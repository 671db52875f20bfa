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
        self.moved: set[int] = set()

    def parent(self, number: int) -> str:
        return self.swarm.parent(name(number))

    def say(self, number: int) -> None:
        parent = self.taken[number]
        speed = min(
            [self.speeds[number], *(self.speeds[one] for one in range(len(self.speeds)) if name(one) == parent)]
        )
        measured = speed * self.dice.uniform(0.9, 1.4)  # bursts
        steady = self.dice.choice([0.0, measured * 0.9])
        if number in self.moved and self.dice.random() < 0.5:
            measured = steady = 0.0  # it has only just come there
        self.moved.discard(number)
        self.ask(number, rate=measured, steady=steady, parents=(parent,))
        if self.parent(number) != parent:
            self.taken[number] = self.parent(number)  # from there it takes, and measures, until it asks again
            self.moved.add(number)

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
    crowd.play(16)
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


@pytest.mark.parametrize(("steady", "seconds"), [(0.0, members.ALONE), (SLOW, members.ALONE_STEADY)])
def test_without_a_child_it_takes_a_moment(steady: float, seconds: float) -> None:
    crowd = Crowd()
    crowd.join(4)
    for part in (0.0, 0.5, 0.9, 1.0):
        crowd.now = 5.0 + part * seconds  # the torrent took long
        for number in range(3):
            crowd.ask(number, rate=FAST, steady=FAST, parents=(crowd.swarm.parent(name(number)),))
        crowd.ask(3, rate=SLOW, steady=steady, parents=(name(2),))
        assert crowd.swarm.members[name(3)].slow is (part == 1.0)


@pytest.mark.parametrize(("steady", "slow"), [(1.0e7, False), (0.5e7, False), (0.3e7, True), (0.0, False)])
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
    for number in (1, 2):
        assert seconds(number, name(number - 1), FAST, 0.3) == planner.SETTLE
    assert seconds(4, "", 0.0, 0.4) == planner.SETTLE
    assert seconds(3, name(2), SLOW, 0.4) == planner.HASTE
    assert seconds(4, "", 0.0, 0.5) == planner.HASTE, "it has measured nothing, and stands behind a slow link"
    assert seconds(3, name(2), SLOW, 0.4, pieces=100) > planner.HASTE, "it has all"
    assert seconds(2, name(1), FAST, 0.5) == planner.SETTLE


def test_it_does_not_ask_in_haste_for_ever() -> None:
    found = Planner(ROOT)
    for number in range(4):
        found.ask("a" * 64, "key", Asker(name(number), "r"), Ask(8473, 0, 100), 15.0)

    def seconds(number: int, rate: float, now: float) -> float:
        ask = Ask(8473, 50, 100, rate=rate, parents=(name(number - 1),))
        return found.ask("a" * 64, "key", Asker(name(number), "r"), ask, now).seconds

    for number in (1, 2):
        for _ in range(planner.SETTLE_ASKS):
            seconds(number, FAST, 20.0)
    asked = [seconds(3, SLOW, 20.1 + at / 10) for at in range(15)]
    assert asked[:9] == [planner.HASTE] * 9, "also when it has asked often"
    assert asked[-1] == planner.SETTLE, "those in haste do not count"


# -- what is measured where


def known(*those: Member) -> Speeds:
    """Speeds of some members, and of five fast ones."""
    others = [Member(f"fast{number}", "r", rate=FAST, steady=FAST, behind="q") for number in range(5)]
    speeds = Speeds(ROOT, {one.endpoint: one for one in (*those, *others)})
    speeds.look(0.0)
    return speeds


def lonely(**words: object) -> Member:
    """One that has a slow link, and no child."""
    return Member("x", "r", rate=SLOW, told=("p",), behind="p", measures=2, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parent", "slow"),
    [
        (Member("p", "r", rate=FAST, steady=FAST), True),
        (Member("p", "r", rate=SLOW), False),
        (Member("p", "r", rate=FAST, steady=FAST, slow=True), False),
        (Member("p", "other rack", rate=FAST, steady=FAST), False),
        (Member("p", "r", pieces=1, total=1, slow=True), False),
        (Member("p", "r", pieces=1, total=1, rate=SLOW), False),
        (None, False),  # it is gone
    ],
)
def test_a_lonely_one_is_judged_by_a_parent_that_is_not_to_blame(parent: Member | None, slow: bool) -> None:
    child = lonely()
    speeds = known(child, *([parent] if parent else []))
    assert (child in speeds.found(child, members.ALONE)) is slow


def test_nobody_is_judged_by_a_link_that_it_has_no_more() -> None:
    child, parent = lonely(), Member("p", "r", rate=FAST, steady=FAST)
    child.told = ("other",)
    assert not list(known(child, parent).found(child, members.ALONE))
    child.told, child.behind = (ROOT,), ROOT
    assert child in known(child, parent).found(child, members.ALONE)


def test_who_has_everything_is_not_judged() -> None:
    child, parent = lonely(pieces=1, total=1), Member("p", "r", rate=FAST, steady=FAST)
    assert not list(known(child, parent).found(child, members.ALONE))


def test_two_halves_are_no_slow_link() -> None:
    child, parent = Member("x", "r", told=("p", "q")), Member("p", "r", rate=FAST, steady=FAST)
    speeds = known(child, parent, Member("q", "r", rate=FAST, steady=FAST))
    for parents in (("p",), ("p", "q")):
        speeds.note(child, Ask(8473, 0, 1, rate=SLOW, parents=parents), 0.0)
        assert (child.rate, child.behind) == (SLOW, "")
        assert not list(speeds.found(child, 10.0))
        assert not parent.feeding
    child.feeding = SLOW  # what it gives is slow, too
    assert not list(speeds.found(child, 0.5))
    assert list(speeds.found(child, members.ALONE)) == [child]


def test_a_first_measure_is_not_enough() -> None:
    """The parent may have been busy; in a swarm of thousands the next one comes seconds later."""
    child, parent = lonely(), Member("p", "r", rate=FAST, steady=FAST)
    child.measures = 1
    speeds = known(child, parent)
    assert not list(speeds.found(child, 20.0))
    speeds.note(child, Ask(8473, 0, 1, rate=FAST, parents=("p",)), 20.0)
    assert not list(speeds.found(child, 20.0))
    speeds.note(child, Ask(8473, 0, 1, rate=SLOW, parents=("p",)), 20.0)
    assert list(speeds.found(child, 20.0)) == [child]


def test_the_first_one_is_given_time_where_the_head_is_slow() -> None:
    """Its child is slow, too, and is moved: it is not to blame for either, as its next child shows."""
    crowd = Crowd()
    crowd.join(6)
    for number, rate, parent in ((5, FAST, 4), (4, FAST, 3), (3, FAST, 2), (2, SLOW, 1), (1, SLOW, 0)):
        crowd.now += 0.02
        crowd.ask(number, rate=rate, steady=rate, parents=(name(parent),))
    for _ in range(3):
        crowd.now += 0.2
        crowd.ask(0, rate=SLOW, steady=SLOW, parents=(ROOT,))
        crowd.ask(2, rate=SLOW, steady=SLOW, parents=(name(1),))
    assert crowd.swarm.members[name(1)].slow
    assert not crowd.swarm.members[name(0)].slow
    crowd.ask(2, rate=FAST, steady=FAST, parents=(name(0),))
    crowd.now += 5
    crowd.ask(0, rate=SLOW, steady=SLOW, parents=(ROOT,))
    assert not crowd.swarm.members[name(0)].slow


def test_one_very_fast_pair_does_not_make_the_others_slow() -> None:
    child, parent = lonely(), Member("p", "r", rate=FAST, steady=FAST)
    quick = Member("quick", "r", rate=10 * FAST, steady=10 * FAST, behind=ROOT)
    assert list(known(child, parent, quick).found(child, members.ALONE)) == [child]


def test_nobody_speaks_for_a_stranger() -> None:
    child, stranger = Member("x", "r", told=("p",)), Member("s", "r")
    known(child, stranger).note(child, Ask(8473, 0, 1, rate=FAST, steady=FAST, parents=("s",)), 0.0)
    assert (stranger.feeding, stranger.fed) == (0.0, "")


def test_a_slow_one_is_found_among_links_that_bursts_make_seem_faster() -> None:
    above, below = Member("a", "r", rate=FAST, steady=FAST), Member("b", "r", feeding=FAST, feeding_steady=FAST)
    slow = Member("s", "r", rate=SLOW, steady=SLOW, behind="a", feeding=SLOW, feeding_steady=SLOW, fed="b")
    them = [Member(f"burst{number}", "r", rate=4.5 * FAST, steady=FAST, behind="q") for number in range(5)]
    speeds = Speeds(ROOT, {one.endpoint: one for one in (above, below, slow, *them)})
    speeds.look(0.0)
    assert list(speeds.found(slow, 0.0)) == [slow]
    # And whose own burst seemed fast is not for that reason a fast one.
    above.rate, above.steady, below.feeding = 4.5 * FAST, SLOW, 0.0
    below.feeding_steady = 0.0
    assert not list(speeds.found(slow, 0.0))


def test_a_few_links_are_no_measure() -> None:
    them = {str(number): Member(str(number), "r") for number in range(40)}
    them["1"].rate = them["2"].rate = FAST
    them["3"].rate, them["3"].behind, them["3"].told, them["3"].measures = SLOW, ROOT, (ROOT,), 2
    speeds = Speeds(ROOT, them)
    speeds.look(0.0)
    assert not list(speeds.found(them["3"], 10.0))
    for number in range(10, 20):
        them[str(number)].rate = FAST
    speeds.look(1.0)
    assert list(speeds.found(them["3"], 10.0)) == [them["3"]]


def test_what_is_measured_behind_a_slow_one_does_not_count_for_the_median() -> None:
    slow = [Member(f"s{number}", "r", slow=True, rate=SLOW) for number in range(3)]
    behind = [Member(f"b{number}", "r", rate=SLOW, behind=f"s{number}") for number in range(3)]
    child, parent = lonely(), Member("p", "r", rate=FAST, steady=FAST)
    assert child in known(child, parent, *slow, *behind).found(child, members.ALONE)


def test_the_best_link_to_a_child_counts_and_the_last_child() -> None:
    parent = Member("p", "r", rate=SLOW, behind=ROOT, told=(ROOT,))
    former, child = Member("f", "r", told=("p",), slow=True), Member("c", "r", told=("p",), feeding=FAST)
    speeds = known(parent, former, child)
    speeds.note(former, Ask(8473, 0, 1, rate=SLOW * 1.5, parents=("p",)), 0.0)
    speeds.note(child, Ask(8473, 0, 1, rate=SLOW, steady=SLOW, parents=("p",)), 0.0)
    assert (parent.feeding, parent.feeding_steady, parent.fed) == (SLOW * 1.5, 0.0, "c")
    assert parent in list(speeds.found(child, 0.0))
    speeds.note(child, Ask(8473, 0, 1, rate=9 * FAST, parents=("p",)), 0.0)
    assert (parent.feeding, parent.feeding_steady) == (9 * FAST, 0.0)
    speeds.note(child, Ask(8473, 0, 1, rate=9 * FAST, steady=FAST, parents=("p",)), 0.0)
    assert (parent.feeding, parent.feeding_steady) == (9 * FAST, FAST)
    speeds.note(child, Ask(8473, 0, 1, rate=SLOW, steady=SLOW, parents=("p",)), 0.0)
    assert parent.feeding == 9 * FAST
