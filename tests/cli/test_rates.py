# SPDX-License-Identifier: Apache-2.0
"""Rates, from reports alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rookery.api.types import NodeStatus, Status, Transfer
from rookery.cli.rates import Rates

MB = 1_000_000


def fetching(at: float, got: int, name: str = "n01") -> NodeStatus:
    transfer = Transfer(1000 * MB, got, got // 4, 0, got - got // 4, rate=999 * MB)
    return NodeStatus(name, "provisioning", 0.0, step="fetch", transfer=transfer, reported_at=at)


def status(at: float, *nodes: NodeStatus) -> Status:
    return Status(at, nodes)


def test_a_burst_is_no_rate_and_the_window_moves_on() -> None:
    rates = Rates()
    assert rates.look(status(0.1, fetching(0, 0))) == {}
    assert rates.look(status(1.1, fetching(1, 50 * MB))) == {}
    assert rates.look(status(2.1, fetching(2, 60 * MB))) == {"n01": 30 * MB}
    assert rates.look(status(2.5, fetching(2, 60 * MB))) == {"n01": 30 * MB}  # the same report, looked at again
    for second in range(3, 9):
        last = rates.look(status(second, fetching(second, 60 * MB + (second - 2) * 10 * MB)))
    assert last == {"n01": 10 * MB}


def test_seldom_reports_are_enough() -> None:
    rates = Rates()
    rates.look(status(0, fetching(0, 0)))
    assert rates.look(status(30, fetching(30, 300 * MB))) == {"n01": 10 * MB}
    assert rates.look(status(59, fetching(30, 300 * MB))) == {"n01": 10 * MB}
    assert rates.look(status(60, fetching(60, 900 * MB))) == {"n01": 20 * MB}


@pytest.mark.parametrize(
    "changes", [{"state": "ready", "step": "ready"}, {"step": "verify"}, {"state": "failed"}, {"state": "waiting"}]
)
def test_a_node_that_does_not_fetch_has_none(changes: dict[str, str]) -> None:
    rates = Rates()
    rates.look(status(0, fetching(0, 0), fetching(0, 0, "n02")))
    found = rates.look(status(4, replace(fetching(4, 40 * MB), **changes), fetching(4, 40 * MB, "n02")))
    assert found == {"n02": 10 * MB}
    assert rates.look(status(5, fetching(5, 50 * MB))) == {}


def test_a_node_that_fell_silent_or_began_again_has_none() -> None:
    rates = Rates()
    rates.look(status(0, fetching(0, 0)))
    assert rates.look(status(4, fetching(4, 40 * MB))) == {"n01": 10 * MB}
    assert rates.look(status(30, fetching(4, 40 * MB))) == {}
    assert rates.look(status(31, fetching(31, 0))) == {}
    assert rates.look(status(33, fetching(33, 40 * MB))) == {"n01": 20 * MB}
