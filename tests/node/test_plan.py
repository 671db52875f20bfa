# SPDX-License-Identifier: Apache-2.0
"""What a node does, from what it knows: every case in tests/plans/**/*.json holds both.

A case: {"about", "cmdline", "machine": a file of tests/machines, "lease", "orders", "manifest", "image"; "plan" or
"error"}. After a change that is meant, write the plans anew with ROOKERY_WRITE_PLANS=1 and read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rookery import codec
from rookery.errors import ErrorKind, RookeryError
from rookery.node import cmdline, probe
from rookery.node.action import Kind
from rookery.node.network import Lease
from rookery.node.plan import FIRST, LAST, MOST_REFUSALS, Known, needs_new_start, next_step, plan, resume_at
from rookery.node.settle import Image
from rookery.wire.manifest import Manifest
from rookery.wire.orders import Orders
from rookery.wire.report import STEPS, Step

TESTS = Path(__file__).parents[1]
PLANS = sorted((TESTS / "plans").rglob("*.json"))


def known(case: dict[str, Any]) -> Known:
    def part(name: str, kind: Any) -> Any:
        return codec.decode(kind, case[name], what=name) if case.get(name) else None

    machine = json.loads((TESTS / "machines" / f"{case['machine']}.json").read_text()) if case.get("machine") else None
    return Known(
        line=cmdline.parse(case["cmdline"]),
        lease=part("lease", Lease),
        facts=probe.facts(machine["record"], machine["addresses"]) if machine else None,
        orders=part("orders", Orders),
        manifest=part("manifest", Manifest),
        image=part("image", Image),
    )


@pytest.mark.parametrize("path", PLANS, ids=lambda path: str(path.relative_to(TESTS / "plans").with_suffix("")))
def test_plan(path: Path) -> None:
    case = json.loads(path.read_text())
    try:
        found = {"plan": [codec.encode(action) for action in plan(known(case))]}
    except RookeryError as error:
        found = {"error": codec.encode(error.record)}
    if os.environ.get("ROOKERY_WRITE_PLANS"):
        rest = {name: value for name, value in case.items() if name not in ("plan", "error")}
        path.write_text(json.dumps({**rest, **found}, indent=1) + "\n")
    else:
        assert found == {name: case[name] for name in ("plan", "error") if name in case}


def test_there_are_plans() -> None:
    assert len(PLANS) >= 6


@pytest.mark.parametrize("path", PLANS, ids=lambda path: str(path.relative_to(TESTS / "plans").with_suffix("")))
def test_a_plan_goes_forward_and_ends_with_the_switch(path: Path) -> None:
    actions = json.loads(path.read_text()).get("plan", [])
    order = [STEPS.index(Step(action["step"])) for action in actions]
    assert order == sorted(order)
    assert all(action["reason"] for action in actions)
    if any(action["step"] == Step.SETTLE for action in actions):
        assert actions[-1]["kind"] == Kind.SWITCH


def test_steps_follow_each_other() -> None:
    steps, step = [], FIRST
    while step is not None:
        steps.append(step)
        step = next_step(step)
    assert steps == list(STEPS[STEPS.index(FIRST) : STEPS.index(LAST) + 1])


@pytest.mark.parametrize(
    ("step", "kind", "expected"),
    [
        (Step.MODULES, ErrorKind.MISSING, Step.MODULES),
        (Step.NETWORK, ErrorKind.UNAVAILABLE, Step.NETWORK),
        (Step.HELLO, ErrorKind.UNAVAILABLE, Step.NETWORK),
        (Step.HELLO, ErrorKind.UNAUTHORIZED, Step.HELLO),
        (Step.ORDERS, ErrorKind.UNAVAILABLE, Step.NETWORK),
        (Step.ORDERS, ErrorKind.UNAUTHORIZED, Step.HELLO),
        (Step.ORDERS, ErrorKind.CORRUPT, Step.ORDERS),
        (Step.FETCH, ErrorKind.UNAUTHORIZED, Step.HELLO),
        (Step.FETCH, ErrorKind.UNAVAILABLE, Step.ORDERS),
        (Step.VERIFY, ErrorKind.CORRUPT, Step.ORDERS),
        (Step.ROOT, ErrorKind.FAILED, Step.ORDERS),
        (Step.SETTLE, ErrorKind.INTERNAL, Step.ORDERS),
    ],
)
def test_where_to_take_up(step: Step, kind: ErrorKind, expected: Step) -> None:
    assert resume_at(step, kind) is expected


@pytest.mark.parametrize(
    ("step", "kind", "refusals", "expected"),
    [
        (Step.HELLO, ErrorKind.UNAUTHORIZED, 1, False),
        (Step.HELLO, ErrorKind.UNAUTHORIZED, MOST_REFUSALS - 1, False),
        (Step.HELLO, ErrorKind.UNAUTHORIZED, MOST_REFUSALS, True),
        (Step.HELLO, ErrorKind.UNAUTHORIZED, MOST_REFUSALS + 1, True),  # the machine would not restart
        (Step.HELLO, ErrorKind.UNAVAILABLE, MOST_REFUSALS, False),
        (Step.HELLO, ErrorKind.INVALID, MOST_REFUSALS, False),
        (Step.ORDERS, ErrorKind.UNAUTHORIZED, MOST_REFUSALS, False),  # hello comes first
    ],
)
def test_when_only_a_new_start_helps(step: Step, kind: ErrorKind, refusals: int, expected: bool) -> None:
    assert needs_new_start(step, kind, refusals) is expected


def test_a_failure_never_leads_forward() -> None:
    for step in STEPS[STEPS.index(FIRST) : STEPS.index(LAST) + 1]:
        for kind in ErrorKind:
            assert STEPS.index(resume_at(step, kind)) <= STEPS.index(step)
