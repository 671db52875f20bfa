# SPDX-License-Identifier: Apache-2.0
"""Two clocks: the one of the wall, which the head sets, and the one since boot, by which steps are measured."""

from __future__ import annotations

import time

TOLERANCE = 2.0  # seconds; a nearer clock is left alone, since setting it would be no more exact


def since_boot() -> float:
    """Seconds since the kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def correction(here: float, head: float) -> float | None:
    """What the clock should be set to, or None when it is near enough. Both in seconds since 1970."""
    return head if abs(head - here) > TOLERANCE else None


def adjust(head: float) -> bool:
    """Set this machine's clock by the head's, when it is off; True when it was. Raises OSError without the right to."""
    wanted = correction(time.time(), head)
    if wanted is not None:
        time.clock_settime(time.CLOCK_REALTIME, wanted)
    return wanted is not None
