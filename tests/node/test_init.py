# SPDX-License-Identifier: Apache-2.0
"""Process 1 and its child. (The machine around them is in test_boot.py.)"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import types
from pathlib import Path

import pytest

from rookery import codec
from rookery.node import init, places, timestamps
from rookery.node.console import Console
from rookery.node.crash import Crash
from rookery.wire.report import Step


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CRASH", "FAULT", "STEP"):
        monkeypatch.setattr(places, name, tmp_path / name)
    monkeypatch.setattr(init.time, "sleep", lambda _seconds: None)
    return tmp_path


def travel_by(monkeypatch: pytest.MonkeyPatch, travel: object) -> None:
    monkeypatch.setattr(init.importlib, "import_module", lambda _name: types.SimpleNamespace(travel=travel))


def test_a_journey_that_dies_is_made_again(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries, screen = state / "tries", state / "screen"
    screen.touch()

    def travel(boot_id: str, _began: float, _console: Console) -> None:
        places.STEP.write_text("fetch")
        with tries.open("a") as file:
            file.write(f"{boot_id}\n")
        count = len(tries.read_text().split())
        if count == 1:
            places.FAULT.write_text("Fatal Python error: Segmentation fault\n")
            faulthandler.disable()  # pytest has its own, which would fill the screen
            os.kill(os.getpid(), signal.SIGSEGV)
        if count == 2:
            raise ValueError("a bug")

    travel_by(monkeypatch, travel)
    init._let_travel("ab" * 16, 1.0, Console([screen]))
    # The head knows a boot by this number: it stays the same.
    assert tries.read_text().split() == ["ab" * 16] * 3
    crash = codec.loads(Crash, places.CRASH.read_bytes())
    assert (crash.step, crash.attempt) == (Step.FETCH, 2)
    assert "exit code 1" in crash.error.message
    assert "ValueError: a bug" in crash.error.details
    said = screen.read_text()
    assert "fetch FAILED (attempt 1): the agent's process was ended by SIGSEGV" in said
    assert "Segmentation fault" in said
    assert "next try in" in said


def test_orphans_are_reaped(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = os.fork()
    if orphan == 0:
        os._exit(0)
    travel_by(monkeypatch, lambda *_: None)
    init._let_travel("ab" * 16, 1.0, Console([]))
    # Either process 1's loop reaped it already, or it is still to be had; it must not stop the journey.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(orphan, 0)


def test_it_is_only_for_machines_that_rookery_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init.sys, "argv", ["/init"])
    with pytest.raises(SystemExit, match="first process"):
        init.main()


def test_the_journey_is_made_without_timestamps_and_the_image_has_its_setting(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = tmp_path / "tcp_timestamps"
    setting.write_text("1")
    seen: list[str] = []
    monkeypatch.setattr(init.sys, "argv", ["init"])
    monkeypatch.setattr(init.os, "getpid", lambda: 1)
    monkeypatch.setattr(init, "_prepare", lambda: Console([]))
    monkeypatch.setattr(timestamps, "SETTING", setting)
    monkeypatch.setattr(init, "_let_travel", lambda *_: seen.append(setting.read_text()))
    monkeypatch.setattr(init, "_switch", lambda _: seen.append(setting.read_text()))
    init.main()
    assert seen == ["0", "1"]
