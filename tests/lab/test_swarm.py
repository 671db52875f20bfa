# SPDX-License-Identifier: Apache-2.0
"""The quick form of the swarm's benchmark: eight nodes together, and with each fault, as ratios to one alone.

The limits leave room for a noisy machine; `make bench-swarm` has the real ones.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import netns
from lab.swarm import plots, report
from lab.swarm.bench import Bench, Wanted
from lab.swarm.crew import TOP
from lab.swarm.faults import garbage, headless, killed, liar, outage
from lab.swarm.measure import Traffic, device_traffic, traffic
from lab.swarm.parts import together
from lab.swarm.races import judged
from lab.swarm.record import Book, Check, Row, thinned
from lab.swarm.stage import HeadPlace, Load
from rookery.run import run, start

NODES = 8
LISTEN = (
    "import socket;l=socket.create_server(('',9));print('ready',flush=True)\ns,_=l.accept()\nwhile s.recv(65536): pass"
)
WANTED = Wanted(sizes=(32,), rates=(40,), nodes=(NODES,))

# The first start of a head packs its agent.
slow = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    place = HeadPlace(tmp_path_factory.mktemp("bench"))
    place.prepare()
    return Bench(place, WANTED)


class TestAsRatios:
    pytestmark = slow

    def test_eight_take_the_time_of_one_and_one_copy_leaves_the_head(self, bench: Bench) -> None:
        alone, row = together(bench)
        assert (alone.missing, row.missing) == (0, 0)
        assert len(row.seconds) == NODES
        assert alone.last <= 1.25 * alone.more["curl"], alone
        assert row.ratio <= 1.25, row
        assert row.copies <= 1.3, row
        assert row.first_byte <= 3, row

    # As a ratio to 6.7 s, 3 s without a cable are much.
    @pytest.mark.parametrize(
        ("fault", "survivors", "ratio"),
        [
            (killed, NODES - NODES // 3, 1.6),
            (headless, NODES, 1.6),
            (garbage, NODES, 1.6),
            (liar, NODES, 1.6),
            (outage, NODES, 2.0),
        ],
    )
    def test_every_survivor_of_a_fault_is_right(
        self, bench: Bench, fault: Callable[[Bench, Load, int], Row], survivors: int, ratio: float
    ) -> None:
        (load,) = bench.wanted.loads(0, 0)
        row = fault(bench, load, NODES)
        assert row.missing == 0
        assert len(row.seconds) == survivors
        assert row.ratio <= ratio, row
        # The head is dead; a liar's pieces came to somebody, and whoever had wrong pieces banned for them.
        of_time, *others = row.checks
        assert of_time.what == "last survivor / T(1)"
        assert all(check.held for check in others), others


class TestRoom:
    pytestmark = slow

    def test_ctrl_c_takes_everything_down(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        words = ["--only", "together", "--sizes", "10", "--rate", "10", "--nodes", "2"]
        places = ["--directory", str(tmp_path / "head"), "--output", str(tmp_path / "out")]
        with log.open("wb") as sink:
            process = start([sys.executable, "-m", "lab.swarm", *words, *places], stdout=sink, stderr=sink, cwd=TOP)
            try:
                until = time.monotonic() + 240
                while "one node alone" not in log.read_text():
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < until, log.read_text()
                    time.sleep(0.1)
                time.sleep(2)  # into the middle of it
                os.kill(process.pid, signal.SIGINT)  # only to it: the others are for it to end
                assert process.wait(60) == 130, log.read_text()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        assert "interrupted" in log.read_text()
        assert not list(Path("/run/netns").glob(f"rkroom-{process.pid}-*"))
        assert not list(Path("/dev/shm").glob(f"rookery-swarm-{process.pid}-*"))
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in seen(path)]

    def test_racks_reach_each_other_over_shaped_uplinks_that_count(self) -> None:
        with netns.room() as lab:
            racks = [lab.rack(rate=8_000_000) for _ in range(2)]
            one, two = (lab.host(f"10.80.{number}.10/16", rack=rack) for number, rack in enumerate(racks, start=1))
            send = f"import socket;s=socket.create_connection(('{two.address}',9));s.sendall(bytes(1000000));s.close()"
            with lab.process(two, [sys.executable, "-c", LISTEN], stdout=-1) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                run([*one.inside, sys.executable, "-c", send])
                child.wait(20)
            came, went = (
                device_traffic(racks[1].namespace, netns.UPLINK),
                device_traffic(racks[0].namespace, netns.UPLINK),
            )
            assert 1_000_000 < came.received < 1_200_000
            assert 1_000_000 < went.sent < 1_200_000
            assert traffic(two).received > 1_000_000


def seen(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


CURVES = {"n1": ((0.0, 0.0), (1.0, 1.0)), "n2": ((0.0, 0.0), (0.5, 0.3))}


def row(part: str, case: str, **more: object) -> Row:
    usual = {"nodes": 8, "size": 16, "rate": 50, "seconds": (2.9, 3.0), "alone": 2.8, "copies": 1.02, "curves": CURVES}
    return Row(part, case, **{**usual, **more})  # type: ignore[arg-type]


ROWS = {
    "together": [row("together", "alone", nodes=1, more={"curl": 2.7}), row("together", "together", cpu=91.0)],
    "faults": [row("faults", "a third is killed", more={"killed": ["n2"], "at": 0.5}, seconds=(2.9,))],
    "racks": [row("racks", "4 racks", more={"into": {"1": 1.1, "2": 1.2}, "out": {"1": 1.0, "2": 0.0}, "bound": 2.8})],
    "others": [row("others", "race", system="Rookery"), row("others", "race", system="udpcast", seconds=(4.0,))],
}


def test_rows_stay_in_the_book_and_a_part_replaces_its_own(tmp_path: Path) -> None:
    book = Book(tmp_path / "swarm.json")
    for part, rows in ROWS.items():
        book.put(part, rows, "2026-01-01")
    book.put("racks", ROWS["racks"][:1], "2026-01-02")
    again = Book(tmp_path / "swarm.json").rows
    assert list(again) == list(ROWS)
    assert again["together"][1].last == 3.0
    assert again["together"][1].busy


def test_rows_of_another_number_or_system_stay_when_they_are_to_be_kept(tmp_path: Path) -> None:
    book = Book(tmp_path / "swarm.json")
    book.put("others", [*ROWS["others"], row("others", "race", system="uftp", nodes=4)], "2026-01-01")
    new = [row("others", "race", system="udpcast", seconds=(5.0,)), row("others", "race", system="uftp", nodes=2)]
    book.put("others", new, "2026-01-02", keep=True)
    kept = Book(tmp_path / "swarm.json").rows["others"]
    assert [(one.nodes, one.system, one.last) for one in kept] == [
        (2, "uftp", 3.0),
        (4, "uftp", 3.0),
        (8, "udpcast", 5.0),
        (8, "Rookery", 3.0),
    ]


def test_the_page_says_what_held_and_where_the_processor_was_the_limit(tmp_path: Path) -> None:
    book = Book(tmp_path / "swarm.json")
    checked = row(
        "together", "together", cpu=91.0, checks=(Check("T(N) / T(1)", 1.07, 1.05), Check("first", None, 0.5))
    )
    book.put("together", [ROWS["together"][0], checked], "2026-01-01")
    page = report.text(book)
    assert "| curl from nginx | 1 | 2.70 |" in page
    assert "| together | 8 | 3.00 | 2.95 | 1.071 | 1.020 |" in page
    assert "91 **!**" in page
    assert "| T(N) / T(1) | 16, 50 | 8 | 1.070 | 1.05 | **no** (processor) |" in page


def test_the_terminal_shows_the_same_tables_and_the_page_the_commits(tmp_path: Path) -> None:
    book = Book(tmp_path / "swarm.json")
    book.put("together", ROWS["together"], "2026-01-01")
    (commit,) = book.commits("together")
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", commit)
    page, shown = report.text(book), report.shown(ROWS["together"])
    assert f", commit {commit}." in page
    assert all(line in page for line in shown.splitlines())
    assert "## All start together" in shown
    assert "÷ T(1)" in shown


def test_every_plot_is_drawn_and_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    made = plots.draw(ROWS, tmp_path)
    assert {path.name for path in made} == {
        f"swarm-{name}.svg" for name in ("scale", "progress", "faults", "racks", "others")
    }
    first = [path.read_bytes() for path in made]
    assert [path.read_bytes() for path in plots.draw(ROWS, tmp_path)] == first


def test_rookery_is_judged_against_the_best_that_finished() -> None:
    ours = row("others", "race", system="Rookery")
    multicast = row("others", "race", system="udpcast", seconds=(4.0,), copies=1.0)
    broken = row("others", "race", system="rsync daemon", seconds=(0.1,), missing=7)
    other = row("others", "race", system="nginx + curl", seconds=(20.0,), copies=8.0)
    checks = {check.what: check for check in judged(ours, [multicast, broken, other]).checks}
    assert checks["last node, against the best other (udpcast)"].value == 0.75
    assert checks["copies, against the best without multicast (nginx + curl)"].held


def test_a_curve_keeps_its_end_and_few_points() -> None:
    curve = [(100.0 + number / 10, number) for number in range(1001)]
    thin = thinned(curve, 100.0, 1000)
    assert len(thin) < 70
    assert (thin[0], thin[-1]) == ((0.0, 0.0), (100.0, 1.0))


def test_traffic_is_a_difference() -> None:
    assert Traffic(5, 7) - Traffic(2, 3) == Traffic(3, 4)
