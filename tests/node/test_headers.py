# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import netns
from rookery.node import headers
from rookery.run import run

# Linux' tcp_info: the sixth byte holds the options of the connection, bit 0 is for timestamps.
TALK = """
import socket, sys
from rookery.node import headers
former = headers.shorten() if sys.argv[1] == "short" else ""
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
print(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & 1)
headers.restore(former)
print(open(headers.TIMESTAMPS).read().strip())
"""


def test_the_setting_comes_back_as_it_was(tmp_path: Path) -> None:
    setting = tmp_path / "tcp_timestamps"
    setting.write_text("2\n")
    former = headers.shorten(setting)
    assert (former, setting.read_text()) == ("2", "0")
    headers.restore(former, setting)
    assert setting.read_text() == "2"


def test_a_kernel_without_the_setting_is_left_alone(tmp_path: Path) -> None:
    setting = tmp_path / "none"
    assert headers.shorten(setting) == ""
    headers.restore("", setting)
    assert not setting.exists()


@pytest.mark.system
def test_connections_have_no_timestamps_and_the_next_ones_have_them_again() -> None:
    with netns.room() as room:
        host = room.host("10.80.0.2/16")
        answers = [run([*host.inside, sys.executable, "-c", TALK, how]).stdout.split() for how in ("usual", "short")]
    assert answers == [["1", "1"], ["0", "1"]]
