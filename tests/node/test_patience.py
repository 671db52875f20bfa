# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from rookery.node.patience import delay


def test_delays_grow_to_a_minute_and_spread() -> None:
    assert [round(delay(attempt, 0.5), 1) for attempt in (1, 2, 3, 4)] == [2.0, 3.0, 4.5, 6.8]
    assert delay(10**9, 0.5) == 60.0
    assert delay(1, 0.0) == 1.0
    assert delay(1, 1.0) == 3.0
