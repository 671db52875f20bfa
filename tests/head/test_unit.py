# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head import unit


def test_the_unit(tmp_path: Path) -> None:
    path = unit.install(Path("/srv/head"), tmp_path)
    text = path.read_text()
    assert path == tmp_path / "rookery.service"
    assert "Type=notify" in text
    assert f"ExecStart={sys.executable} -m rookery.cli serve --dir /srv/head\n" in text
    if run.which("systemd-analyze"):
        run.run(["systemd-analyze", "verify", "--man=no", path])
    for odd in ("/srv/my head", "/srv/%h"):
        with pytest.raises(RookeryError, match="cannot stand in a systemd unit"):
            unit.text(Path(odd))


def test_a_host_without_systemd(tmp_path: Path) -> None:
    with pytest.raises(RookeryError) as raised:
        unit.install(Path("/srv/head"), tmp_path / "none")
    assert raised.value.kind is ErrorKind.MISSING
    assert "--print-unit" in raised.value.record.hint


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "notify"
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    unit.notify("READY=1")  # nobody asked
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(str(where))
        wire.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(where))
        unit.notify("READY=1")
        assert wire.recv(100) == b"READY=1"
