# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.node.cmdline import CommandLine, parse

HEAD = "rookery.head=http://10.0.0.1:8470 rookery.token=abc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"initrd=drivers quiet {HEAD} BOOTIF=01-52-54-00-00-00-01 console=ttyS0\n",
            CommandLine("http://10.0.0.1:8470", "abc", boot_mac="52:54:00:00:00:01"),
        ),
        ("rookery.orders=/orders.json", CommandLine(orders="/orders.json")),
        (f"{HEAD}/ rookery.shell", CommandLine("http://10.0.0.1:8470", "abc/", shell=True)),
        ("rookery.head=http://a/ rookery.token=t", CommandLine("http://a", "t")),
        (f"{HEAD} rookery.token=later BOOTIF=garbage", CommandLine("http://10.0.0.1:8470", "later")),
        (f"{HEAD} BOOTIF=52:54:00:00:00:02", CommandLine("http://10.0.0.1:8470", "abc", boot_mac="52:54:00:00:00:02")),
    ],
)
def test_parse(text: str, expected: CommandLine) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quiet", "names no head"),
        ("rookery.head=http://10.0.0.1:8470", "names no head"),
        (f"{HEAD} rookery.tokn=x", "unknown kernel argument 'rookery.tokn=x'"),
        ("rookery.head=https://10.0.0.1 rookery.token=x", "not an http URL"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(RookeryError, match=message) as caught:
        parse(text)
    assert caught.value.kind is ErrorKind.INVALID
    assert caught.value.record.hint
