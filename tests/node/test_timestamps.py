# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import netns
from rookery.node import timestamps
from rookery.run import run

# Linux' tcp_info: the sixth byte holds the options of the connection, bit 0 is for timestamps.
TALK = """
import socket, sys
from rookery.node import timestamps
former = timestamps.omit() if sys.argv[1] == "short" else ""
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
print(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & 1)
timestamps.restore(former)
print(open(timestamps.SETTING).read().strip())
"""


def test_the_setting_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "tcp_timestamps"
    monkeypatch.setattr(timestamps, "SETTING", setting)
    setting.write_text("2\n")
    former = timestamps.omit()
    assert (former, setting.read_text()) == ("2", "0")
    timestamps.restore(former)
    assert setting.read_text() == "2"


def test_a_kernel_without_the_setting_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "none"
    monkeypatch.setattr(timestamps, "SETTING", setting)
    assert timestamps.omit() == ""
    timestamps.restore("")
    assert not setting.exists()


@pytest.mark.system
def test_connections_have_no_timestamps_and_the_next_ones_have_them_again() -> None:
    with netns.room() as room:
        host = room.host("10.80.0.2/16")
        answers = [run([*host.inside, sys.executable, "-c", TALK, how]).stdout.split() for how in ("usual", "short")]
    assert answers == [["1", "1"], ["0", "1"]]
