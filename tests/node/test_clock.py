# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from rookery.node import clock


@pytest.mark.parametrize(
    ("here", "head", "expected"),
    [(1000.0, 1001.9, None), (1000.0, 998.1, None), (1000.0, 1002.1, 1002.1), (5e8, 1.7e9, 1.7e9), (1.7e9, 5e8, 5e8)],
)
def test_correction(here: float, head: float, expected: float | None) -> None:
    assert clock.correction(here, head) == expected


def test_since_boot_goes_on() -> None:
    assert 0 < clock.since_boot() <= clock.since_boot()
