# SPDX-License-Identifier: Apache-2.0
"""A small machine room: a head, a foreign server and a client, each a network namespace on one bridge."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.netns import entered
from rookery.run import run

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Room:
    """Names of the namespaces. The head has the bridge `rkbr0` (10.77.0.1/24); each other one has `eth0`, the foreign
    server with 10.77.0.254/24 and the client with none."""

    head: str
    foreign: str
    client: str

    def ip(self, namespace: str, *words: str) -> None:
        run(["ip", "-n", namespace, *words])

    def inside(self, namespace: str) -> contextlib.AbstractContextManager[None]:
        return entered(namespace)


@pytest.fixture
def room() -> Iterator[Room]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    prefix = f"rkboot{os.getpid()}-{next(_NUMBERS)}"
    made = Room(f"{prefix}h", f"{prefix}f", f"{prefix}c")
    try:
        for name in (made.head, made.foreign, made.client):
            run(["ip", "netns", "add", name])
            made.ip(name, "link", "set", "lo", "up")
        made.ip(made.head, "link", "add", "rkbr0", "type", "bridge")
        made.ip(made.head, "addr", "add", "10.77.0.1/24", "dev", "rkbr0")
        made.ip(made.head, "link", "set", "rkbr0", "up")
        for number, name in enumerate((made.foreign, made.client)):
            made.ip(made.head, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            made.ip(made.head, "link", "set", f"p{number}", "master", "rkbr0", "up")
            made.ip(name, "link", "set", "eth0", "up")
        made.ip(made.foreign, "addr", "add", "10.77.0.254/24", "dev", "eth0")
        yield made
    finally:
        for name in (made.head, made.foreign, made.client):
            run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def head_directory(tmp_path: Path) -> Path:
    """A head's directory that other users may enter, as /var/lib/rookery is."""
    for place in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        if place.stat().st_mode & 0o777 == 0o700:
            place.chmod(0o755)
    directory = tmp_path / "head"
    (directory / "boot").mkdir(parents=True)
    return directory
