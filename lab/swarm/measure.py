# SPDX-License-Identifier: Apache-2.0
"""What a run is measured by: bytes on wires, the processor's load, and what one system came to."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from lab import netns
from rookery.run import run

BUSY = 80.0  # percent of all cores together; above it the machine is part of the result


@dataclass(frozen=True)
class Outcome:
    """What one system came to with one file and N nodes that started together.

    seconds: of each node, from the common start until it had the whole right file; fewer than N when some did not get
    it. head_bytes: on the wire, that left the head. cpu: load of all cores together over the run, percent.
    error: why the run does not count, or empty.
    """

    seconds: tuple[float, ...]
    head_bytes: int
    cpu: float
    error: str = ""

    @property
    def last(self) -> float:
        """Seconds until the last node had everything; 0 when none had."""
        return max(self.seconds, default=0.0)

    @property
    def mean(self) -> float:
        """Mean seconds of a node; 0 when none had everything."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else 0.0


class System(Protocol):
    """A way to bring one file from a head to nodes."""

    @property
    def name(self) -> str:
        """As it stands in tables."""
        ...

    def run(
        self,
        room: netns.Room,
        head: netns.Host,
        nodes: Sequence[netns.Host],
        file: Path,
        sha256: str,
        work: Path,
    ) -> Outcome:
        """Bring `file` to all `nodes`, which start together, and end every process that it started.

        sha256: the digest (hex) that every node's copy must have. work: an empty directory for this run; the caller
        removes it. What cannot run here (a program is missing) is an Outcome with `error`, not an exception.
        """
        ...


@dataclass(frozen=True)
class Traffic:
    """Bytes that one interface has sent and received since it was made, headers of Ethernet included."""

    sent: int
    received: int

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(self.sent - before.sent, self.received - before.received)


def traffic(host: netns.Host) -> Traffic:
    """The counters of a host's card, as the host sees them. Raises RookeryError when the host is gone."""
    return device_traffic(host.namespace, netns.DEVICE)


def device_traffic(namespace: str, device: str) -> Traffic:
    """The counters of any interface, as its own namespace sees them."""
    (link,) = json.loads(run(["ip", "-n", namespace, "-s", "-j", "link", "show", "dev", device]).stdout)
    counters = link["stats64"]
    return Traffic(int(counters["tx"]["bytes"]), int(counters["rx"]["bytes"]))


class Load:
    """The load of all cores together since it was made, or since `restart`; everything that runs here counts.

    load = Load()
    ...
    print(load.percent())
    """

    def __init__(self) -> None:
        self._idle = self._all = 0
        self.restart()

    def restart(self) -> Self:
        """Count from now on."""
        self._idle, self._all = _ticks()
        return self

    def percent(self) -> float:
        """Percent of all cores that were busy, 0 to 100."""
        idle, everything = _ticks()
        passed = everything - self._all
        return 100.0 * (1 - (idle - self._idle) / passed) if passed else 0.0


class Wire:
    """Everything that is measured around one run: make it just before the start, `stop` it when the last is done.

    wire.sent: bytes that left the head; wire.cpu: percent; wire.seconds: of the wall clock. wire.background: percent
    that something else took before the start, when somebody looked. `look` now and then, for `percent_until`.
    """

    def __init__(self, head: netns.Host) -> None:
        self._head, self._before = head, traffic(head)
        self._load, self._began = Load(), time.monotonic()
        self.sent, self.cpu, self.seconds = 0, 0.0, 0.0
        self.background = 0.0
        self._looks = [(self._began, self._load.percent())]

    def so_far(self) -> int:
        """Bytes that left the head until now."""
        return (traffic(self._head) - self._before).sent

    def elapsed(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._began

    def look(self) -> None:
        """Note the load so far."""
        self._looks.append((time.monotonic(), self._load.percent()))

    def percent_until(self, when: float) -> float:
        """Percent of all cores from the start to the first look after `when` (CLOCK_MONOTONIC)."""
        return next((percent for at, percent in self._looks if at >= when), self._looks[-1][1])

    def stop(self) -> Self:
        """Take the end values; once."""
        self.cpu, self.seconds = self._load.percent(), self.elapsed()
        self.sent = self.so_far()
        return self


def _ticks() -> tuple[int, int]:
    """Idle and all ticks of all cores since boot; waiting for a disk is idle, guests are in user time already."""
    with open("/proc/stat", encoding="ascii") as file:
        words = [int(word) for word in file.readline().split()[1:9]]
    return words[3] + words[4], sum(words)
