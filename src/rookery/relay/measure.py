# SPDX-License-Identifier: Apache-2.0
"""How links are measured: what comes at the beginning of a connection, padding where a parent has nothing to give
yet."""

from __future__ import annotations

import math
import socket
import time

from rookery.relay import frames

PAD = bytes(16 << 10)
SECONDS = 0.25  # for which a parent that has nothing yet sends something all the same
# Of that, at first: less than a switch's queue holds. A parent that overflows it before it has anything to give begins
# with lost segments and the smallest window: 0.13 s for the first piece, on each hop.
FIRST = 64 << 10
MOST = 16 << 20
# s for which padding goes on where the link takes it in less: each time as much again as there was before. Twice LEAST.
LONG = 0.016
LOOK = 0.001  # s between two looks whether the link took it
SAMPLE = 0.5  # s at the beginning of a connection in which a child measures
ENOUGH = 48 << 10  # bytes that are a sample; fewer where they take a fifth of that time
# s that a steady sample takes at least. A switch or a shaper that was idle lets some 4 ms' worth through at once: a
# link of 100 Mbit/s measured by 48 KiB may look like one of 2,500.
LEAST = 0.008


class Probe:
    """What one child is sent. waits: it may go on in a moment."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until = time.monotonic() + SECONDS
        self._began = math.inf
        self._sent, self._most = 0, FIRST
        self.waits = False

    def due(self, now: float) -> bool:
        """Whether PAD goes out now (monotonic seconds); it counts as sent."""
        self._began, self.waits = min(self._began, now), False
        if now >= self._until:
            return False
        if self._sent >= self._most:
            if now - self._began >= LONG or self._sent >= MOST:
                return False
            # The rest of it may wait for an acknowledgement that is delayed.
            if frames.unsent(self._connection) > len(PAD):
                self.waits = True
                return False
            self._most *= 2
        self._sent += len(PAD)
        return True


class Meter:
    """Measures the link of a connection as a child. rate: bytes per second, 0 until it is measured; the best of the
    sample counts, since a parent that had nothing for a moment is no slow link. steady: the same without what came in
    one burst, and for LEAST seconds; 0 where nothing did."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._began, self._came, self._early = 0.0, 0, 0
        self.rate = self.steady = 0.0

    def add(self, length: int, now: float) -> None:
        """A frame's bytes were received (monotonic seconds)."""
        if not self._began:
            # The first frame sets the clock: what was before it is the parent's business. What waits to be read by then
            # came faster than the link, or while we were busy.
            self._began, self._early = now, frames.queued(self._connection)
            return
        self._came += length
        seconds, came = now - self._began, self._came
        if seconds and _is_enough(came, seconds) and (seconds <= SAMPLE or not self.rate):
            self.rate = max(self.rate, came / seconds)
        came -= self._early
        if came > 0 and _is_enough(came, seconds) and LEAST <= seconds <= SAMPLE:
            self.steady = max(self.steady, came / seconds)


def _is_enough(came: int, seconds: float) -> bool:
    return came >= ENOUGH or seconds >= SAMPLE / 5
