# SPDX-License-Identifier: Apache-2.0
"""What node and head say about places: it survives the wire, and what is out of range does not."""

from dataclasses import replace
from typing import Any

import pytest

from rookery import codec
from rookery.errors import RookeryError
from rookery.wire.relay import Ask, Feed, Place

ASK = Ask(8473, 3, 10, ("10.0.0.1:8473",), 1e6, 9e5, True, ("10.0.0.2:8473",), ("[fd00::1]:8473",))
PLACE = Place((Feed(0, 2, ("10.0.0.1:8473",)), Feed(1, 2, ("[fd00::1]:8473", "10.0.0.1:8473"))), "ab" * 32, 2.5)


def test_they_survive_the_wire() -> None:
    assert codec.loads(Ask, codec.dumps(ASK)) == ASK
    assert codec.loads(Place, codec.dumps(PLACE)) == PLACE
    assert codec.loads(Ask, '{"port": 1, "pieces": 0, "total": 1}') == Ask(1, 0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"pieces": -1},
        {"total": -1},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"parents": ("a:1",) * 3},
        {"lost": ("a:1",) * 17},
        {"bad": ("a:1",) * 17},
        {"lost": ("x" * 65,)},
    ],
    ids=str,
)
def test_an_ask_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RookeryError):
        codec.loads(Ask, codec.dumps(replace(ASK, **wrong)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stripe": 64},
        {"stripe": -1},
        {"stripes": 0},
        {"stripes": 65},
        {"parents": ("a:1",) * 17},
    ],
    ids=str,
)
def test_a_feed_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RookeryError):
        codec.loads(Place, codec.dumps(replace(PLACE, feeds=(replace(PLACE.feeds[0], **wrong),))))
