# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.http.guard import FRESH_SECONDS, Fresh


class Book:
    """Stands for the catalog: knows the secrets that begin with `good`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.broken = False

    def ask(self, secrets: Sequence[str]) -> list[str | RookeryError]:
        self.asked.append(list(secrets))
        assert self.go_on.wait(10)
        if self.broken:
            raise RookeryError("no database", kind=ErrorKind.UNAVAILABLE)
        wrong = RookeryError("not known", kind=ErrorKind.UNAUTHORIZED)
        return [secret.upper() if secret.startswith("good") else wrong for secret in secrets]


def test_callers_that_come_together_are_looked_up_together() -> None:
    book = Book()

    async def come() -> list[str]:
        fresh = Fresh(book.ask)
        book.go_on.clear()
        calls = [asyncio.create_task(fresh.get("good0"))]
        while not book.asked:  # noqa: ASYNC110 - a thread fills it
            await asyncio.sleep(0.001)
        calls += [asyncio.create_task(fresh.get(f"good{number}")) for number in range(1, 200)]
        await asyncio.sleep(0.01)
        calls[7].cancel()
        book.go_on.set()
        return [answer for answer in await asyncio.gather(*calls, return_exceptions=True) if isinstance(answer, str)]

    assert asyncio.run(come()) == [f"GOOD{number}" for number in range(200) if number != 7]
    assert [len(asked) for asked in book.asked] == [1, 199]


def test_answers_are_believed_for_a_while_and_errors_never() -> None:
    book, now = Book(), 0.0

    async def come() -> None:
        nonlocal now
        fresh = Fresh(book.ask, lambda: now)
        assert [await fresh.get("good") for _ in range(3)] == ["GOOD"] * 3
        assert len(book.asked) == 1
        now = FRESH_SECONDS
        assert await fresh.get("good") == "GOOD"
        assert len(book.asked) == 2
        for count in (3, 4):
            with pytest.raises(RookeryError, match="not known"):
                await fresh.get("bad")
            assert len(book.asked) == count
        book.broken = True
        with pytest.raises(RookeryError, match="no database"):
            await fresh.get("good2")
        book.broken = False
        assert await fresh.get("good2") == "GOOD2"

    asyncio.run(come())
