# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import ErrorKind, ErrorRecord
from rookery.head.catalog.rows import Node
from rookery.head.fleet import states
from rookery.wire.facts import Facts, NetworkCard
from rookery.wire.orders import Word
from rookery.wire.report import STEPS, NodeState, Report, Step

V1, V2 = "1" * 64, "2" * 64
A, B = "a" * 32, "b" * 32
FACTS = Facts("x86_64", "uefi", 1, "cpu", 3 << 30, "6.1", "0.1")
BROKEN = ErrorRecord(ErrorKind.CORRUPT, "piece 3 is not what its digest says")


def _booted(**changes: object) -> Node:
    node = Node("n1", macs=("52:54:00:00:00:01",), image="base:stable", **changes)
    node, _ = states.asked_to_boot(node, V1, 10.0)
    node, _ = states.said_hello(node, A, FACTS, 30.0)
    return node


def _report(sequence: int, step: Step, boot_id: str = A, **more: object) -> Report:
    return Report(boot_id=boot_id, sequence=sequence, step=step, **more)


def test_a_journey() -> None:
    node = Node("n1", image="base:stable")
    node, told = states.asked_to_boot(node, V1, 10.0)
    assert (node.state, node.version, node.started_at, node.state_since) == (NodeState.BOOTING, V1, 10.0, 10.0)
    assert told == (("booting", "asked to boot, gets base:stable (version 111111111111)"),)
    node, told = states.said_hello(node, A, FACTS, 30.0)
    assert (node.state, node.facts, node.state_since) == (NodeState.PROVISIONING, FACTS, 30.0)
    assert told == (("provisioning", "said hello: a machine, 1 processor, 3.0 GiB, uefi"),)
    own = {"kernel": 2.0, "modules": 1.0, "network": 3.0, "probe": 1.0, "hello": 0.1}
    node, told = states.reported(node, _report(1, Step.FETCH, seconds=own, version=V1), 31.0)
    assert (node.state, told) == (NodeState.PROVISIONING, ())
    assert node.report is not None
    assert node.report.seconds == {"firmware": 13.0, **own}
    node, told = states.reported(node, _report(2, Step.FETCH, error=BROKEN, attempt=2, seconds=own), 32.0)
    assert (node.state, node.state_since) == (NodeState.FAILED, 32.0)
    assert told == (("failed", "step fetch failed (attempt 2): piece 3 is not what its digest says"),)
    node, told = states.reported(node, _report(3, Step.FETCH, error=BROKEN, attempt=3, seconds=own), 33.0)
    assert (node.state_since, told) == (32.0, ())
    node, told = states.reported(node, _report(4, Step.FETCH, attempt=4, seconds=own), 34.0)
    assert (node.state, told) == (NodeState.PROVISIONING, (("provisioning", "goes on with step fetch (attempt 4)"),))
    node, told = states.reported(node, _report(5, Step.READY, seconds=own, system="running"), 70.0)
    assert (node.state, node.version, node.reported_at) == (NodeState.READY, V1, 70.0)
    assert told == (("ready", "ready after 60 s, runs version 111111111111; systemd says running"),)
    assert node.report is not None
    assert node.report.seconds["firmware"] == 13.0


def test_without_an_image_it_waits_and_says_so_once() -> None:
    node, told = states.asked_to_boot(Node("n1"), None, 10.0)
    assert (node.state, told) == (NodeState.WAITING, (("waiting", "asked to boot; no image is assigned, so it waits"),))
    again, told = states.asked_to_boot(node, None, 20.0)
    assert (again, told) == (node, ())


def test_a_missing_image_is_named() -> None:
    _, told = states.asked_to_boot(Node("n1", image="x:y"), None, 10.0, "there is no image 'x'")
    assert told == (("waiting", "asked to boot; there is no image 'x', so it waits"),)


def test_discovered_machines_wait_as_such_until_named_or_assigned() -> None:
    node = Node("x-525400000001", state=NodeState.DISCOVERED)
    assert states.asked_to_boot(node, None, 10.0) == (node, ())
    named, _ = states.asked_to_boot(dataclasses.replace(node, name="n1"), None, 10.0)
    assert named.state is NodeState.WAITING
    assigned, _ = states.asked_to_boot(dataclasses.replace(node, image="base:x"), V1, 10.0)
    assert assigned.state is NodeState.BOOTING


def test_firmware_that_asks_twice_is_one_event() -> None:
    node, _ = states.asked_to_boot(Node("n1", image="base:x"), V1, 10.0)
    again, told = states.asked_to_boot(node, V1, 12.0)
    assert (again.started_at, again.state_since, told) == (12.0, 10.0, ())
    _, told = states.asked_to_boot(again, V1, 60.0)
    assert told != ()
    _, told = states.asked_to_boot(again, V2, 13.0)
    assert told != ()


def test_the_same_boots_hello_again_changes_nothing_but_facts() -> None:
    node, _ = states.reported(_booted(), _report(5, Step.FETCH), 40.0)
    again, told = states.said_hello(node, A, dataclasses.replace(FACTS, cpus=9), 41.0)
    assert told == ()
    assert again == dataclasses.replace(node, facts=dataclasses.replace(FACTS, cpus=9))


def test_a_new_boot_starts_afresh() -> None:
    node, _ = states.reported(_booted(), _report(99, Step.READY), 40.0)
    node, _ = states.asked_to_boot(node, V2, 50.0)
    node, _ = states.said_hello(node, B, FACTS, 60.0)
    assert (node.state, node.version) == (NodeState.PROVISIONING, V2)
    ignored, told = states.reported(node, _report(100, Step.READY), 61.0)
    assert (ignored, told) == (node, ())
    node, _ = states.reported(node, _report(1, Step.FETCH, boot_id=B), 62.0)
    assert (node.state, node.report and node.report.sequence) == (NodeState.PROVISIONING, 1)


def test_a_request_to_boot_in_a_running_nodes_name_is_set_right_by_its_next_report() -> None:
    node, _ = states.reported(_booted(), _report(7, Step.READY, version=V1), 40.0)
    asked, _ = states.asked_to_boot(node, V2, 50.0)
    assert (asked.state, asked.version) == (NodeState.BOOTING, V2)
    assert states.may_fetch(asked)
    back, told = states.reported(asked, _report(8, Step.READY, version=V1), 51.0)
    assert (back.state, back.version) == (NodeState.READY, V1)
    assert told == (("ready", "still runs: the request to boot did not come of it"),)


def test_trouble_after_ready_is_told_and_stays_ready() -> None:
    node, _ = states.reported(_booted(), _report(7, Step.READY), 40.0)
    node, told = states.reported(node, _report(8, Step.READY, error=BROKEN), 41.0)
    assert (node.state, [kind for kind, _ in told]) == (NodeState.READY, ["trouble"])
    node, told = states.reported(node, _report(9, Step.FETCH), 42.0)
    assert (node.state, told) == (NodeState.READY, ())


def test_a_stranger_with_the_nodes_token_is_noticed() -> None:
    node, _ = states.asked_to_boot(Node("n1", macs=("52:54:00:00:00:01",), image="b:x"), V1, 1.0)
    own = dataclasses.replace(FACTS, network_cards=(NetworkCard("eth0", "52:54:00:00:00:01"), NetworkCard("b", "x")))
    assert [kind for kind, _ in states.said_hello(node, A, own, 2.0)[1]] == ["provisioning"]
    other = dataclasses.replace(FACTS, network_cards=(NetworkCard("eth0", "52:54:00:00:00:02"),))
    assert [kind for kind, _ in states.said_hello(node, A, other, 2.0)[1]] == ["provisioning", "stranger"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("00000000-0000-0000-0000-000000000000", None),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", None),
        ("To be filled by O.E.M.\x00", None),
        ("", None),
    ],
)
def test_only_a_real_uuid_is_kept(text: str, kept: str | None) -> None:
    node, _ = states.said_hello(Node("n1"), A, dataclasses.replace(FACTS, uuid=text), 1.0)
    assert node.uuid == kept


def test_a_version_that_is_none_is_not_kept() -> None:
    node, _ = states.reported(_booted(), _report(1, Step.FETCH, version="x\x00" * 10), 40.0)
    assert node.version == V1


@pytest.mark.parametrize(
    ("state", "may_seed", "expected"),
    [
        (NodeState.NEW, True, False),
        (NodeState.DISCOVERED, True, False),
        (NodeState.PROVISIONING, False, True),
        (NodeState.FAILED, False, True),
        (NodeState.READY, True, True),
        (NodeState.READY, False, False),
        (NodeState.BOOTING, False, False),
    ],
)
def test_who_may_fetch(state: NodeState, may_seed: bool, expected: bool) -> None:
    assert states.may_fetch(Node("n1", state=state, may_seed=may_seed)) is expected


def test_only_ready_nodes_are_told_to_stop() -> None:
    for state in NodeState:
        expected = Word.STOP_SEEDING if state is NodeState.READY else Word.GO_ON
        assert states.word(Node("n1", state=state, may_seed=False)) is expected
        assert states.word(Node("n1", state=state, may_seed=True)) is Word.GO_ON


REPORTS = st.builds(
    Report,
    boot_id=st.sampled_from([A, B]),
    sequence=st.integers(0, 6),
    step=st.sampled_from(STEPS),
    seconds=st.dictionaries(st.sampled_from([step.value for step in STEPS]), st.floats(0, 100), max_size=4),
    error=st.sampled_from([None, None, BROKEN]),
    version=st.sampled_from(["", V1, V2, "rubbish"]),
)
HAPPENINGS = st.lists(
    st.one_of(
        REPORTS.map(lambda report: ("report", report)),
        st.sampled_from([A, B]).map(lambda boot_id: ("hello", boot_id)),
        st.sampled_from([V1, V2, None]).map(lambda version: ("boot", version)),
    ),
    max_size=30,
)


def _apply(node: Node, happening: tuple[str, object], now: float) -> tuple[Node, tuple[tuple[str, str], ...]]:
    match happening:
        case ("report", Report() as report):
            return states.reported(node, report, now)
        case ("hello", str(boot_id)):
            return states.said_hello(node, boot_id, FACTS, now)
        case ("boot", version):
            return states.asked_to_boot(node, version, now)
    raise AssertionError(happening)


@given(HAPPENINGS)
def test_whatever_happens_in_whatever_order(happenings: list[tuple[str, object]]) -> None:
    node = Node("n1", image="base:x")
    for now, happening in enumerate(happenings):
        after, told = _apply(node, happening, float(now))
        kind, value = happening
        # Operator's fields are the operator's.
        assert (after.name, after.image, after.may_seed, after.macs) == ("n1", "base:x", True, ())
        # The clock of a state runs from its beginning, and each change of state is told.
        assert after.state_since == (node.state_since if after.state is node.state else float(now))
        if after.state is not node.state:
            assert told
        if isinstance(value, Report):
            last = node.report
            if last is None or last.boot_id != value.boot_id or value.sequence < last.sequence:
                assert (after, told) == (node, ())
            else:
                assert after.report is not None
                assert after.report.sequence >= last.sequence
                assert after.state in (NodeState.PROVISIONING, NodeState.READY, NodeState.FAILED)
                if node.state is NodeState.READY:
                    assert after.state is NodeState.READY
                assert all(spent >= 0 for spent in after.report.seconds.values())
        # Ready is what the node itself said in this boot, and nothing else.
        if after.state is NodeState.READY and node.state is not NodeState.READY:
            assert kind == "report"
        # The same once more is no news.
        assert _apply(after, happening, float(now)) == (after, ())
        node = after


@given(st.lists(st.integers(1, 50), min_size=1, unique=True), st.randoms())
def test_lost_and_overtaken_reports_do_no_harm(sequences: list[int], chance) -> None:
    """Whatever part of the reports arrives, in whatever order, the newest of them decides."""
    steps = sorted(sequences)
    arriving = [_report(number, STEPS[steps.index(number) % 12]) for number in sequences]
    chance.shuffle(arriving)
    node = _booted()
    for report in arriving:
        node, _ = states.reported(node, report, 50.0)
    assert node.report is not None
    assert (node.report.sequence, node.report.step) == (steps[-1], STEPS[(len(steps) - 1) % 12])
