# SPDX-License-Identifier: Apache-2.0
"""The planner, alone: who takes from whom, whatever comes."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rookery.head.swarm import planner
from rookery.head.swarm.planner import LONGEST, STRIPES, Asker, Planner, layout, pause
from rookery.wire.relay import Ask, Feed
from tests.head.swarm.crowd import ROOT, TOTAL, Crowd, name

# -- the layout


@pytest.mark.parametrize("count", [*range(1, 70), 313, 3125])
def test_trees_feed_everybody_each_stripe_and_nobody_too_much(count: int) -> None:
    found = layout(count, line=False)
    assert len(found) == count
    fed: Counter[int] = Counter()
    inner: dict[int, set[int]] = {}
    for stripe in range(STRIPES):
        depth = 0
        for number in range(count):
            at, steps = number, 0
            while at >= 0:
                at, steps = found[at][stripe], steps + 1
                assert steps <= count, "a cycle"
            depth = max(depth, steps)
        if count > 2:
            assert depth <= math.log2(count) + 2
        for number in range(count):
            fed[found[number][stripe]] += 1
            if found[number][stripe] >= 0:
                inner.setdefault(found[number][stripe], set()).add(stripe)
    assert fed[-1] == STRIPES, "one copy leaves the root"
    assert all(times <= STRIPES for source, times in fed.items() if source >= 0), "a tail gives one copy at most"
    if count > 2:
        assert all(stripes == {number % STRIPES} for number, stripes in inner.items()), "interior in one tree only"


def test_a_line_is_a_line() -> None:
    assert layout(4, line=True) == ((-1, -1), (0, 0), (1, 1), (2, 2))
    assert layout(0, line=True) == layout(0, line=False) == ()


def test_pauses_grow_with_the_swarm_and_end() -> None:
    assert (pause(1), pause(1000), pause(10**6)) == (2.0, 5.0, 20.0)


# -- a young wave


@pytest.mark.parametrize("count", [1, 2, 3, 17, 63, 64])
def test_up_to_sixty_four_stand_in_one_line(count: int) -> None:
    crowd = Crowd()
    crowd.join(count, racks=4)
    crowd.check()
    parents = Counter(crowd.swarm.parent(one) for one in crowd.placed())
    assert set(parents.values()) == {1}, "nobody gives twice"
    assert parents[ROOT] == 1
    assert max(len(crowd.way(one, 0)) for one in crowd.placed()) == count + 1
    assert all(crowd.swarm.parent(one, 0) == crowd.swarm.parent(one, 1) for one in crowd.placed())


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=64))
def test_one_copy_enters_each_rack(racks: list[str]) -> None:
    crowd = Crowd()
    for number, rack in enumerate(racks):
        crowd.ask(number, rack)
    crowd.check()
    enter = Counter(
        crowd.racks[child]
        for parent, child, stripe in crowd.links()
        if stripe == 0 and crowd.racks.get(parent) != crowd.racks[child]
    )
    assert enter == Counter(set(racks))


@pytest.mark.parametrize(("count", "racks"), [(65, 1), (66, 5), (100, 1), (500, 3), (1000, 30)])
def test_a_large_swarm_has_short_ways_and_one_copy_from_the_root(count: int, racks: int) -> None:
    crowd = Crowd()
    crowd.join(count, racks)
    crowd.check()
    gives = Counter(parent for parent, _, _ in crowd.links())
    assert gives[ROOT] == STRIPES
    assert max(gives.values()) <= STRIPES, "no link has to give more than it can"
    segments = crowd.swarm.line()
    assert max(map(len, segments)) <= planner.SEGMENT
    ways = max(len(crowd.way(one, stripe)) for one in crowd.placed() for stripe in range(STRIPES))
    assert ways <= planner.SEGMENT * (math.log2(len(segments)) + 2) + 1


def test_feeds_name_the_way_up_nearest_first_and_the_head_last() -> None:
    crowd = Crowd()
    crowd.join(10)
    (feed,) = crowd.ask(9)
    assert (feed.stripe, feed.stripes) == (0, 1)
    assert feed.parents == (*(name(number) for number in (8, 7, 6, 5, 4)), ROOT)
    assert crowd.ask(0) == (Feed(0, 1, (ROOT,)),)


def test_in_trees_each_piece_is_in_exactly_one_feed() -> None:
    crowd = Crowd()
    crowd.join(300, 3)
    for number in range(300):
        feeds = crowd.ask(number, f"r{number % 3}")
        pieces = [piece for feed in feeds for piece in range(feed.stripe, 100, feed.stripes)]
        assert sorted(pieces) == list(range(100))
        assert all(feed.parents[-1] == ROOT and len(set(feed.parents)) == len(feed.parents) <= 16 for feed in feeds)


# -- who gives the opening


class Openers:
    """A planner, and whom it named to whom."""

    def __init__(self) -> None:
        self.planner, self.named = Planner(ROOT), {}

    def ask(self, number: int, **words: object) -> str:
        words = {"pieces": 0, "total": 0, "opening": not words} | words
        ask = Ask(8473, **words)  # type: ignore[arg-type]
        place = self.planner.ask("ab" * 32, "cd" * 32, Asker(name(number), "r"), ask, 0.0)
        self.named[name(number)] = place.opener
        return place.opener

    def steps(self, endpoint: str) -> int:
        """From the head to a member."""
        return 0 if endpoint == ROOT else 1 + self.steps(self.named[endpoint])


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (4, 1), (5, 2), (20, 2), (64, 3), (84, 3), (85, 4), (5000, 6)])
def test_the_opening_reaches_everybody_in_few_steps(count: int, steps: int) -> None:
    openers = Openers()
    for number in range(count):
        openers.ask(number)
    assert max(openers.steps(name(number)) for number in range(count)) == steps
    assert max(Counter(openers.named.values()).values()) <= planner.FAN, "the head is asked by as few as the others"


def test_who_does_not_ask_for_it_neither_gets_nor_gives_it() -> None:
    openers = Openers()
    for number in range(8):
        assert openers.ask(number, total=TOTAL) == ""
    assert [openers.ask(number) for number in range(8, 13)] == [ROOT] * 4 + [name(8)]
    assert openers.ask(8) == ROOT, "an answer that was lost is given again"
    assert openers.planner.swarms["ab" * 32].waves[-1].openers == [name(number) for number in range(8, 13)]


def test_an_opener_that_is_gone_is_not_named() -> None:
    openers = Openers()
    for number in range(20):
        openers.ask(number)
    openers.ask(4, total=TOTAL, leaving=True)
    assert openers.ask(20) == name(3), "the one before it"
    for number in range(4):
        openers.ask(number, total=TOTAL, leaving=True)
    assert openers.ask(21) == "", "nobody near is there: the chain brings it"


def test_who_gave_garbage_is_no_opener() -> None:
    openers = Openers()
    for number in range(8):
        openers.ask(number)
    openers.ask(2, total=TOTAL, bad=(name(1),))
    assert [openers.ask(number) for number in range(8, 13)] == [name(0)] * 4 + [name(2)]


def test_hardly_anybody_asks_the_head_when_everybody_leaves_again() -> None:
    openers = Openers()
    for number in range(500):
        openers.ask(number)
        openers.ask(number - 3, total=TOTAL, leaving=True)
    assert Counter(openers.named.values())[ROOT] <= planner.FAN


def test_who_comes_when_pieces_flow_gets_its_first_bytes_from_its_parent() -> None:
    openers = Openers()
    openers.ask(0)
    openers.ask(0, total=TOTAL, pieces=TOTAL // 2)
    assert openers.ask(1) == ""


def test_a_later_wave_opens_with_its_root() -> None:
    openers = Openers()
    openers.ask(0)
    openers.ask(0, total=TOTAL, pieces=TOTAL)
    assert openers.ask(1) == name(0)


# -- what goes wrong


def test_a_lost_node_is_bypassed_by_its_child() -> None:
    crowd = Crowd()
    crowd.join(5)
    feeds = crowd.ask(3, pieces=100, lost=(name(2),))
    assert feeds[0].parents[0] == name(1)
    assert name(2) not in crowd.placed()
    crowd.ask(2, pieces=100)  # it lives all the same
    assert crowd.swarm.parent(name(2)) == name(4), "and is put at the end"
    assert crowd.swarm.parent(name(3)) == name(1)


def test_who_has_no_torrent_yet_has_not_everything() -> None:
    found = Planner(ROOT)
    places = [found.ask("a" * 64, "key", Asker(name(number), "r"), Ask(8473, 0, 0), 0.0) for number in range(3)]
    assert [place.feeds[0].parents[0] for place in places] == [ROOT, name(0), name(1)]


@pytest.mark.parametrize("how", ["lost", "bad"])
def test_only_ones_own_parent_can_be_accused(how: str) -> None:
    crowd = Crowd()
    crowd.join(6)
    before = crowd.swarm.line()
    for number in range(6):
        others = tuple(name(other) for other in range(6) if other != number - 1)
        crowd.ask(number, **{how: (*others, ROOT, "10.9.9.9:1", "nonsense")})
        assert crowd.swarm.line() == before
    crowd.ask(3, **{how: (name(2),)})
    assert crowd.swarm.line() != before


def test_who_gave_garbage_gives_to_nobody_any_more() -> None:
    crowd = Crowd()
    crowd.join(5)
    crowd.ask(2, bad=(name(1),))
    for number in (0, 2, 3, 4, *range(5, 30)):  # those who come later, too
        assert all(name(1) not in feed.parents for feed in crowd.ask(number)), number
    for number in (0, 2, 3, 4):
        crowd.ask(number, pieces=TOTAL)
    crowd.check()


def test_a_wave_that_has_much_is_not_arranged_anew() -> None:
    crowd = Crowd()
    crowd.join(4, racks=2)
    line = crowd.swarm.line()
    crowd.ask(0, "r0", pieces=100)
    crowd.ask(9, "r0")
    crowd.check()
    assert all(set(before) <= set(after) for before, after in zip(line, crowd.swarm.line(), strict=False))
    parents = {one: crowd.swarm.parent(one) for one in crowd.placed()}
    assert parents[name(9)] in (name(1), name(2), name(3)), "a tail that is free, not in the midst"
    assert parents[name(2)] == name(0)


def test_a_straggler_gets_a_peer_of_its_rack_and_not_the_head() -> None:
    crowd = Crowd()
    crowd.join(6, racks=2)
    for number in range(6):
        crowd.ask(number, f"r{number % 2}", pieces=TOTAL)
    (feed,) = crowd.ask(50, "r1")
    assert feed.parents[0] in (name(1), name(3), name(5))
    assert feed.parents[-1] == ROOT
    crowd.check()
    (other,) = crowd.ask(51, "r9")
    assert other.parents[0] == name(50), "the next one stands behind the first"


def test_whoever_leaves_or_is_silent_is_bypassed() -> None:
    crowd = Crowd()
    crowd.join(6)
    assert crowd.ask(2, leaving=True) == ()
    assert crowd.swarm.parent(name(3)) == name(1)
    for _ in range(30):
        crowd.now += 1
        for number in (0, 1, 3, 5):  # 4 says nothing any more
            crowd.ask(number)
    assert crowd.swarm.parent(name(5)) == name(3)
    assert name(4) not in crowd.swarm.members
    crowd.check()


def test_a_node_that_forgot_everything_does_not_stand_behind_itself() -> None:
    crowd = Crowd()
    crowd.ask(0, pieces=TOTAL)
    crowd.ask(1)
    assert crowd.swarm.parent(name(1)) == name(0)
    crowd.ask(0)  # booted again: it has nothing
    crowd.check()


def test_a_dead_peer_is_replaced_by_another_that_has_everything() -> None:
    crowd = Crowd()
    for number in range(4):
        crowd.ask(number, pieces=TOTAL)
    (feed,) = crowd.ask(9)
    gone = feed.parents[0]
    (feed,) = crowd.ask(9, lost=(gone,))
    assert feed.parents[0] not in (gone, ROOT)


STEP = st.tuples(
    st.sampled_from(
        ["join", "join", "ask", "more", "lost", "bad", "slow", "fast", "hungry", "done", "forget", "leave", "wait"]
    ),
    st.integers(0, 89),
    st.integers(0, 89),
)


def play(steps: list[tuple[str, int, int]], segment: int = 3) -> Crowd:
    """Members join, ask again, lose, accuse, are slow, finish, boot again and go, in whatever order.

    With short segments, there are trees from the seventh member on.
    """
    crowd, pieces = Crowd(segment), dict.fromkeys(range(400), 0)
    for what, number, other in steps:
        words: dict[str, object] = {}
        if what == "wait":
            crowd.now += other / 4
            continue
        if what == "join":  # many at once, so that lines become trees
            for one in range(number, number + other // 2):
                crowd.ask(one, f"r{one % 3}", pieces=pieces[one])
            crowd.check()
            continue
        if what == "more":
            pieces[number] = min(pieces[number] + 10 * other, TOTAL)
        elif what in ("done", "forget"):
            pieces[number] = TOTAL if what == "done" else 0
        parents = ()
        if name(number) in crowd.swarm._place:
            parents = tuple(dict.fromkeys(crowd.swarm.parent(name(number), stripe) for stripe in range(STRIPES)))
        if what in ("lost", "bad"):
            words[what] = (*parents, name(other))
        elif what in ("slow", "fast"):
            words["rate"] = 1e5 if what == "slow" else 1e7
        words |= {"hungry": what == "hungry", "leaving": what == "leave"}
        crowd.ask(number, f"r{number % 3}", pieces=pieces[number], parents=parents, **words)
        assert (name(number) in crowd.swarm._place) or what == "leave" or pieces[number] == TOTAL
        crowd.check()
    return crowd


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40), st.sampled_from([1, 3, planner.SEGMENT]))
def test_whatever_comes_everybody_is_fed_without_a_cycle(steps: list[tuple[str, int, int]], segment: int) -> None:
    crowd = play(steps, segment)
    # And whoever asks again is told a way that ends at the head.
    for endpoint, member in list(crowd.swarm.members.items()):
        feeds = crowd.swarm.ask(Asker(endpoint, member.rack), Ask(8473, member.pieces, TOTAL), crowd.now)
        assert feeds
        for feed in feeds:
            assert feed.parents[-1] == ROOT
            assert endpoint not in feed.parents
            assert len(feed.parents) <= 16


@pytest.mark.parametrize("seed", range(20))
def test_a_long_and_wild_life(seed: int) -> None:
    dice = random.Random(seed)
    kinds = [
        "join",
        "ask",
        "more",
        "more",
        "lost",
        "bad",
        "slow",
        "fast",
        "fast",
        "hungry",
        "done",
        "forget",
        "leave",
        "wait",
    ]
    play(
        [(dice.choice(kinds), dice.randrange(90), dice.randrange(90)) for _ in range(200)],
        (1, 3, planner.SEGMENT)[seed % 3],
    )


# -- several blobs


def test_swarms_of_blobs_do_not_know_each_other() -> None:
    found = Planner(ROOT)
    one, two = Asker(name(1), "r"), Asker(name(2), "r")
    ask = Ask(8473, 0, TOTAL)
    first = found.ask("a" * 64, "key", one, ask, 0.0)
    assert first.feeds == found.ask("b" * 64, "other", two, ask, 0.0).feeds == (Feed(0, 1, (ROOT,)),)
    assert (first.key, first.seconds) == ("key", planner.SETTLE)
    assert found.ask("a" * 64, "key", two, ask, 0.0).feeds[0].parents == (name(1), ROOT)
    assert all(found.ask("a" * 64, "key", one, ask, 1.0).seconds == planner.SETTLE for _ in range(20)), "it is young"
    much = Ask(8473, 500, TOTAL)
    assert found.ask("a" * 64, "key", one, much, 1.0).seconds == pause(2)


def test_a_swarm_that_nobody_is_in_any_more_is_forgotten() -> None:
    found = Planner(ROOT)
    found.ask("a" * 64, "key", Asker(name(1), "r"), Ask(8473, 0, TOTAL), 0.0)
    found.ask("b" * 64, "key", Asker(name(2), "r"), Ask(8473, 0, TOTAL), 1000.0)
    assert list(found.swarms) == ["b" * 64]


def test_a_line_stays_within_its_limit() -> None:
    assert LONGEST // planner.SEGMENT == STRIPES


@pytest.mark.parametrize("seed", range(20))
def test_who_is_put_at_the_end_of_trees_takes_from_tails_that_have_room(seed: int) -> None:
    dice = random.Random(seed)
    crowd = Crowd(segment=2)
    crowd.join(16)
    for number in range(16):
        crowd.ask(number, pieces=TOTAL // 2)  # nothing is arranged anew from here on
    for number in dice.sample(range(16), 5):
        lost = name(number)
        children = [n for n in range(16) if lost in {crowd.swarm.parent(name(n), s) for s in range(STRIPES)}]
        for child in children:
            crowd.ask(child, pieces=TOTAL // 2, lost=(lost,))  # a cable that was out for a moment
        crowd.ask(number, pieces=TOTAL // 2)
        crowd.check()
        feeds = Counter(source for segment in crowd.swarm.waves[-1].segments for source in segment.sources)
        assert feeds[ROOT] == STRIPES, "one copy leaves the head"
        assert max(feeds.values()) <= STRIPES
