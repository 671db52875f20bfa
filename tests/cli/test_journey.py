# SPDX-License-Identifier: Apache-2.0
"""Drawing, from statuses alone."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console, RenderableType

from rookery.api.types import Copies, NodeStatus, StateCount, Status, Transfer
from rookery.cli import journey, render
from rookery.errors import ErrorKind, ErrorRecord

FETCHING = NodeStatus(
    "n01", "provisioning", 0.0, "base:latest", "ab" * 32, "fetch", 1, {"kernel": 1.25, "network": 3.0},
    Transfer(100_000_000, 40_000_000, 10_000_000, 0, 30_000_000, rate=5_000_000, peers=3),
)  # fmt: skip
READY = replace(FETCHING, name="n02", state="ready", step="ready", seconds={"kernel": 1.0, "fetch": 9.5})
FAILED = replace(
    FETCHING, name="n03", state="failed", step="orders", attempt=3,
    error=ErrorRecord(ErrorKind.CORRUPT, "the manifest's signature is wrong"),
)  # fmt: skip
STATUS = Status(
    0.0,
    (FETCHING, READY, FAILED),
    (StateCount("provisioning", "n01", 1), StateCount("ready", "n02", 1), StateCount("failed", "n03", 1)),
    (Copies("ab" * 32, "base", 100_000_000, 113_000_000, 1.13, 3),),
)


def drawn(what: RenderableType, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_where_a_node_is() -> None:
    assert journey.where(FETCHING) == "fetch"
    assert journey.where(READY) == "ready"
    assert journey.where(FAILED) == "orders failed, attempt 3: the manifest's signature is wrong"
    assert journey.from_where(FETCHING) == "75 % peers, 25 % head"
    assert journey.from_where(NodeStatus("x", "new", 0.0)) == ""


def test_final_table_has_all_that_is_asked_of_it() -> None:
    text = drawn(journey.final(STATUS), 100)
    for piece in (
        "kernel",
        "1.25",
        "fetch",
        "9.50",
        "all steps",
        "10.0 MB",
        "30.0 MB",
        "75 %",
        "ready",
        "abababababab",
    ):
        assert piece in text, piece
    assert "The head sent 1.13 copies of base (abababababab, 100.0 MB): 113.0 MB to 3 nodes." in " ".join(text.split())


def test_many_nodes_stand_below_each_other() -> None:
    many = tuple(replace(READY, name=f"n{number:03}") for number in range(100))
    text = drawn(journey.steps_table(many))
    assert "KERNEL" in text
    assert text.count("\n") == 101


def test_live_view_is_bounded_and_shows_trouble_first() -> None:
    ready = tuple(replace(READY, name=f"r{number:03}") for number in range(100))
    text = drawn(journey.live(Status(0.0, (*ready, FETCHING, FAILED)), {"n01": 5_000_000.0}, 12.0))
    assert text.count("5.0 MB/s") == 2
    row = next(line for line in text.splitlines() if line.startswith("n01"))
    assert row.split()[-6:] == ["5.0", "MB/s", "25", "%", "75", "%"]
    assert "100 of 102 ready, 1 failed" in text
    assert "n01" in text
    assert "the manifest's signature is wrong" in text
    assert "and 62 more" in text


def test_lines_tell_only_what_changed() -> None:
    first = journey.lines({}, STATUS)
    assert first == [
        "n01: provisioning, fetch",
        "n02: ready, 75 % peers, 25 % head",
        "n03: failed, orders failed, attempt 3: the manifest's signature is wrong, 75 % peers, 25 % head",
    ]
    before = {node.name: node for node in STATUS.nodes}
    assert journey.lines(before, STATUS) == []
    later = replace(STATUS, nodes=(replace(FETCHING, step="verify"), READY, FAILED))
    assert journey.lines(before, later) == ["n01: provisioning, verify, 75 % peers, 25 % head"]
    assert journey.transfer_line(STATUS, {"n01": 5_000_000}) == "fetching on 1 node: 40.0 MB of 100.0 MB, 5.0 MB/s"
    assert journey.transfer_line(STATUS, {}) == "fetching on 1 node: 40.0 MB of 100.0 MB"


def test_sizes_and_times() -> None:
    assert [render.size(count) for count in (0, 999, 1000, 127_400_000, 2e15)] == [
        "0 B", "999 B", "1.0 kB", "127.4 MB", "2000.0 TB",
    ]  # fmt: skip
    assert [render.seconds(count) for count in (0.416, 12.34, 245, 3 * 3600 + 720, 5 * 86400)] == [
        "0.42 s", "12.3 s", "4 min 05 s", "3 h 12 min", "5 d",
    ]  # fmt: skip
