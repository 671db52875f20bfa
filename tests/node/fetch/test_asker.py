# SPDX-License-Identifier: Apache-2.0
"""The asker's connection to the head, with a real HTTP server."""

from __future__ import annotations

from rookery import codec
from rookery.node.fetch.asker import SOON, Asker
from rookery.wire.orders import Source
from rookery.wire.relay import Ask, Place
from tests.node.test_talk import ASK, Keeping, keeping

__all__ = ["keeping"]


def test_the_connection_is_kept_while_places_are_found(keeping: Keeping) -> None:
    asker = Asker(Source(keeping.url, "c"), "a" * 64, lambda: ASK)
    for _ in range(3):
        asker.once(ASK)
    assert keeping.connections == 1
    keeping.body = codec.dumps(Place((), "k", SOON * 2)).encode()
    asker.once(ASK)
    assert keeping.connections == 1
    asker.once(ASK)
    assert keeping.connections == 2, "who asks seldom hangs up"


def test_nothing_stays_open(keeping: Keeping) -> None:
    asker = Asker(Source(keeping.url, "c"), "a" * 64, lambda: ASK)
    asker.once(ASK)
    asker.stop()
    assert asker._line.take() is None
    asker.once(ASK)
    asker.leave(Ask(8473, 0, 0, leaving=True))
    assert asker._line.take() is None
