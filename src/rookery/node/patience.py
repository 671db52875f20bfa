# SPDX-License-Identifier: Apache-2.0
"""How long a node waits before it tries again: ever longer, never for ever, and never all nodes at once."""

from __future__ import annotations

FIRST = 2.0  # seconds
GROWTH = 1.5
MOST = 60.0


def delay(attempt: int, draw: float) -> float:
    """Seconds before the next attempt, when `attempt` failed: 2 s, growing by half each time, to a minute; of that
    between half and one and a half by `draw` (0 to 1, at random), so that a room that failed at once does not come back
    at once."""
    return min(MOST, FIRST * GROWTH ** min(attempt - 1, 20)) * (0.5 + draw)
