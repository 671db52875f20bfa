# SPDX-License-Identifier: Apache-2.0
"""The walk: which step follows, and what is said and reported, when deeds fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.node import deeds, journey, places
from rookery.node.action import Action
from rookery.node.cmdline import CommandLine
from rookery.node.console import Console
from rookery.node.deeds import Traveller
from rookery.node.network import Network
from rookery.node.plan import MOST_REFUSALS, Known
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.wire.report import Report, Step

Failures = dict[Step, list[Exception | None]]


class Deeds:
    """Stands in for the machine: remembers the steps, and fails as a test says (None: it does not, that time)."""

    def __init__(self, failures: Failures) -> None:
        self.steps: list[Step] = []
        self.failures = failures

    def do(self, traveller: Traveller, action: Action) -> str:
        if not self.steps or self.steps[-1] is not action.step:
            self.steps.append(action.step)
        if (waiting := self.failures.get(action.step)) and (error := waiting.pop(0)):
            raise error
        return "done"


@pytest.fixture
def traveller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traveller]:
    for name in ("STEP", "CRASH"):
        monkeypatch.setattr(places, name, tmp_path / name)
    monkeypatch.setattr(journey.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(deeds, "undo_root", lambda: None)
    (tmp_path / "screen").touch()
    numbers = itertools.count(1)
    reporter = Reporter(Report("ab" * 16, 0, Step.MODULES), lambda: next(numbers), lambda _record: None)
    line = CommandLine("http://10.0.0.1:8470", "token")
    try:
        yield Traveller("ab" * 16, Known(line), Network(tmp_path), Console([tmp_path / "screen"]), reporter, Head(""))
    finally:
        reporter.close()


def walk(traveller: Traveller, monkeypatch: pytest.MonkeyPatch, failures: Failures) -> list[Step]:
    stand_in = Deeds(failures)
    monkeypatch.setattr(deeds, "do", stand_in.do)
    journey._walk(traveller)
    return stand_in.steps


def test_straight_on(traveller: Traveller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Nothing is known of orders here, so the plan ends with them.
    way = [Step.MODULES, Step.NETWORK, Step.PROBE, Step.HELLO, Step.ORDERS]
    assert walk(traveller, monkeypatch, {}) == way
    assert traveller.reporter.report.error is None
    assert set(traveller.reporter.report.seconds) >= set(way)
    assert (tmp_path / "STEP").read_text() == Step.SWITCH


class Restarted(BaseException):
    """Stands in for a machine that is gone."""


def test_a_token_that_stays_refused_ends_in_a_new_start(
    traveller: Traveller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def restart() -> None:
        raise Restarted

    monkeypatch.setattr(deeds, "restart", restart)
    refused = [RookeryError("the boot token is not known", kind=ErrorKind.UNAUTHORIZED) for _ in range(MOST_REFUSALS)]
    away = RookeryError("the head does not answer", kind=ErrorKind.UNAVAILABLE)
    with pytest.raises(Restarted):
        walk(traveller, monkeypatch, {Step.HELLO: [refused[0], away, *refused[1:]]})
    screen = (tmp_path / "screen").read_text()
    assert f"refused this machine's boot token {MOST_REFUSALS} times" in screen
    assert "starts again in" in screen


def test_refusals_before_a_good_hello_do_not_count(traveller: Traveller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that ends during a long fetch leads to a hello again; only refusals in a row restart a machine."""
    monkeypatch.setattr(deeds, "restart", lambda: pytest.fail("the machine was restarted"))
    refused = [RookeryError("refused", kind=ErrorKind.UNAUTHORIZED) for _ in range(MOST_REFUSALS - 1)]
    ended = RookeryError("the credential has expired", kind=ErrorKind.UNAUTHORIZED)
    steps = walk(traveller, monkeypatch, {Step.HELLO: [*refused, None, *refused], Step.ORDERS: [ended]})
    assert steps[-4:] == [Step.HELLO, Step.ORDERS, Step.HELLO, Step.ORDERS]


def test_failures_are_shown_reported_and_tried_again(
    traveller: Traveller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reported = []
    change = traveller.reporter.change
    monkeypatch.setattr(traveller.reporter, "change", lambda **fields: (reported.append(fields), change(**fields)))
    gone = RookeryError("the head does not answer", kind=ErrorKind.UNAVAILABLE, hint="start it")
    spent = RookeryError("the credential is spent", kind=ErrorKind.UNAUTHORIZED)
    steps = walk(traveller, monkeypatch, {Step.HELLO: [gone], Step.ORDERS: [spent, ValueError("a bug")]})
    assert steps == [
        *(Step.MODULES, Step.NETWORK, Step.PROBE, Step.HELLO),
        *(Step.NETWORK, Step.PROBE, Step.HELLO, Step.ORDERS),
        *(Step.HELLO, Step.ORDERS),
    ]
    told = [(fields["step"], fields["attempt"], fields["error"].kind) for fields in reported if fields.get("error")]
    assert told == [
        (Step.HELLO, 1, ErrorKind.UNAVAILABLE),
        (Step.ORDERS, 1, ErrorKind.UNAUTHORIZED),
        (Step.ORDERS, 2, ErrorKind.INTERNAL),
    ]
    screen = (tmp_path / "screen").read_text()
    assert "hello FAILED (attempt 1): the head does not answer" in screen
    assert "try: start it" in screen
    assert "orders FAILED (attempt 2): ValueError: a bug" in screen
