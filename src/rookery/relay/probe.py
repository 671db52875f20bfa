# SPDX-License-Identifier: Apache-2.0
"""Padding by which a child measures the link from a parent that has nothing to give yet."""

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
# s for which padding goes on where the link takes it in less: each time as much again as there was before. Twice what
# measures it (taker.LEAST).
LONG = 0.016
LOOK = 0.001  # s between two looks whether the link took it


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
        self._began = min(self._began, now)
        if self._sent >= self._most:
            self.waits = now - self._began < LONG and now < self._until and self._sent < MOST
            # The rest of it may wait for an acknowledgement that is delayed.
            if not self.waits or frames.unsent(self._connection) > len(PAD):
                return False
            self._most *= 2
        if now >= self._until:
            return False
        self._sent += len(PAD)
        return True
