# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

from rookery.errors import ErrorKind, ErrorRecord
from rookery.node.console import Console, consoles, error_lines, step_line, transfer_line
from rookery.wire.report import Step, Transfer


def test_an_error_says_what_why_and_what_to_try() -> None:
    record = ErrorRecord(ErrorKind.MISSING, "the modules could not be loaded", "no loop\nno overlay", "boot others")
    assert error_lines(Step.MODULES, record, 3, 4.4) == (
        "modules FAILED (attempt 3): the modules could not be loaded",
        "    no loop",
        "    no overlay",
        "    try: boot others",
        "    next try in 4 s",
    )


def test_steps_stand_in_columns() -> None:
    assert step_line(Step.FETCH, 12.34, "done") == "fetch      12.3 s  done"


def test_transfer() -> None:
    some = Transfer(127_000_000, 34_000_000, 10_000_000, 0, 30_000_000, rate=11.2e6, peers=1)
    assert transfer_line(some) == "34 of 127 MB, 11.2 MB/s, 75 % from peers, 1 connection"
    assert transfer_line(Transfer(hash_failures=2)).endswith("nothing received yet, 0 connections, 2 damaged pieces")


def test_every_console_is_written_to(tmp_path: Path) -> None:
    screens = [tmp_path / "tty0", tmp_path / "ttyS0"]
    for screen in screens:
        screen.touch()
    Console([tmp_path / "missing", *screens]).say("one", "two")
    for screen in screens:
        assert re.fullmatch(rb"(\[ *\d+\.\d\] rookery: \w+\r\n){2}", screen.read_bytes())


def test_consoles_of_the_kernel(tmp_path: Path) -> None:
    active = tmp_path / "active"
    assert consoles(active) == (Path("/dev/console"),)
    active.write_text("tty0 ttyS0\n")
    assert consoles(active) == (Path("/dev/tty0"), Path("/dev/ttyS0"))
