# SPDX-License-Identifier: Apache-2.0
"""The asker's connection to the head, with a real HTTP server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from rookery import codec
from rookery.errors import RookeryError
from rookery.node.fetch.asker import SOON, Asker
from rookery.wire.orders import Source
from rookery.wire.relay import Ask, Place
from tests.node.answering import Keeping, serving

ASK = Ask(8473, 0, 10)


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    yield from serving(Keeping())


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
    for end in (asker.stop, lambda: asker.leave(Ask(8473, 0, 0, leaving=True))):
        asker.once(ASK)
        connection = asker._line.take()
        assert connection is not None
        asker._line.put(connection)
        end()
        assert connection.sock is None, "it is closed"
        assert asker._line.take() is None
        asker._stopping = False


def test_an_error_ends_the_connection(keeping: Keeping) -> None:
    asker = Asker(Source(keeping.url, "c"), "a" * 64, lambda: ASK)
    asker.once(ASK)
    keeping.status = 404
    with pytest.raises(RookeryError):
        asker.once(ASK)
    assert asker._line.take() is None, "who is not answered asks seldom"


def test_its_own_thread_asks_over_it(keeping: Keeping) -> None:
    asker = Asker(Source(keeping.url, "c"), "a" * 64, lambda: ASK)
    asker.once(ASK)
    asker.start()
    until = time.monotonic() + 20
    while len(keeping.asked) < 4 and time.monotonic() < until:
        asker.ask()
        time.sleep(0.02)
    asker.stop()
    assert len(keeping.asked) >= 4
    assert keeping.connections == 1
    assert asker._line.take() is None
