# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.node.fetch.policy import (
    Limits,
    Situation,
    Why,
    cells,
    choose,
    first_run,
    own_pieces,
    rest,
    retry_delay,
)

LIMITS = Limits()
MISSING = tuple(range(100))
GIVING = Situation(elapsed=30.0, gave=True, quiet=0.1, stuck=0.1, rate=1e6, orphans={})


def why(situation: Situation, missing: tuple[int, ...] = MISSING) -> Why:
    return choose(situation, missing, frozenset(), LIMITS)[0]


def test_while_the_swarm_gives_nothing_is_asked_by_http() -> None:
    assert choose(GIVING, MISSING, frozenset(), LIMITS) == (Why.SWARM_GIVES, ())


def test_at_the_start_the_swarm_has_its_moment_and_then_http_begins() -> None:
    silent = Situation(elapsed=0.5, gave=False, quiet=0.5, stuck=0.0, rate=0.0, orphans={})
    assert why(silent) is Why.NOT_YET
    late = replace(silent, elapsed=LIMITS.start, quiet=LIMITS.start)
    assert choose(late, MISSING, frozenset(), LIMITS) == (Why.SILENT, MISSING)


def test_a_swarm_that_stops_is_replaced_and_gets_the_work_back_when_it_gives_again() -> None:
    assert why(replace(GIVING, quiet=LIMITS.quiet - 0.1)) is Why.SWARM_GIVES
    assert why(replace(GIVING, quiet=LIMITS.quiet)) is Why.QUIET
    assert why(replace(GIVING, quiet=0.0)) is Why.SWARM_GIVES


def test_the_last_pieces_are_waited_for_less_long() -> None:
    waited = replace(GIVING, quiet=LIMITS.end)
    assert why(waited, MISSING) is Why.SWARM_GIVES
    assert why(waited, MISSING[: LIMITS.end_pieces]) is Why.QUIET


def test_a_trickle_and_blocks_that_never_make_a_piece_count_as_nothing() -> None:
    assert why(replace(GIVING, rate=LIMITS.slow - 1)) is Why.SLOW
    assert why(replace(GIVING, rate=LIMITS.slow - 1, elapsed=LIMITS.start)) is Why.SWARM_GIVES
    assert why(replace(GIVING, stuck=LIMITS.stuck)) is Why.STUCK


def test_pieces_that_nobody_has_are_asked_for_our_own_sooner_than_others() -> None:
    orphans = {3: LIMITS.nobody, 7: LIMITS.nobody, 9: LIMITS.nobody_else}
    asked = choose(replace(GIVING, orphans=orphans), MISSING, frozenset({7}), LIMITS)
    assert asked == (Why.NOBODY, (7, 9))


def test_nothing_is_missing() -> None:
    assert choose(replace(GIVING, quiet=100.0), (), frozenset(), LIMITS) == (Why.NOTHING_MISSING, ())


def test_own_pieces_come_first_and_the_rest_from_there_on() -> None:
    late = replace(GIVING, gave=False)
    assert choose(late, (1, 2, 5, 6, 8), frozenset({5, 6}), LIMITS)[1] == (5, 6, 8, 1, 2)


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_every_missing_piece_is_asked_for_once(missing: set[int], own: set[int]) -> None:
    asked = choose(replace(GIVING, quiet=99.0), sorted(missing), own, LIMITS)[1]
    assert sorted(asked) == sorted(missing)


def test_runs_are_consecutive_bounded_and_leave_out_what_is_under_way() -> None:
    assert first_run((5, 6, 7, 9), set(), 10) == range(5, 8)
    assert first_run((5, 6, 7, 9), {5}, 10) == range(6, 8)
    assert first_run((5, 6, 7, 9), {6}, 10) == range(5, 6)
    assert first_run((5, 6, 7, 9), set(), 2) == range(5, 7)
    assert not first_run((5, 6), {5, 6}, 10)
    assert not first_run((), set(), 10)


@given(st.integers(1, 10_000))
def test_cells_cover_every_piece_once(pieces: int) -> None:
    assert [piece for run in cells(pieces) for piece in run] == list(range(pieces))


@given(st.sets(st.ip_addresses(v=4).map(str), min_size=1, max_size=12), st.integers(1, 3000))
def test_nodes_that_know_each_other_divide_the_pieces_without_a_word(names: set[str], pieces: int) -> None:
    shares = [own_pieces(name, names, pieces) for name in names]
    assert sum(map(len, shares)) == pieces
    assert frozenset().union(*shares) == frozenset(range(pieces))


def test_alone_everything_is_ones_own() -> None:
    assert own_pieces("10.0.0.2", (), 500) == frozenset(range(500))


def test_who_joins_takes_from_the_others_and_moves_nothing_between_them() -> None:
    names = {f"10.0.0.{number}" for number in range(2, 10)}
    for name in names:
        before, after = own_pieces(name, names, 2048), own_pieces(name, names | {"10.0.0.99"}, 2048)
        assert after <= before
    assert 2048 // 18 < len(own_pieces("10.0.0.99", names, 2048)) < 2048 // 3


@pytest.mark.parametrize(
    ("failures", "least", "most"), [(1, 0.25, 0.75), (2, 0.5, 1.5), (5, 4.0, 12.0), (99, 4.0, 12.0)]
)
def test_retries_slow_down_and_spread(failures: int, least: float, most: float) -> None:
    assert retry_delay(failures, 0.0) == least
    assert retry_delay(failures, 1.0) == most


def test_a_wrong_piece_rests_longer_each_time_and_never_for_long() -> None:
    assert [rest(times) for times in (0, 1, 2, 3, 4, 5)] == [5, 10, 20, 40, 60, 60]
    assert rest(5000) == 60.0
