# SPDX-License-Identifier: Apache-2.0
"""The short way for announces, in front of the framework: which requests it takes, and that it answers the same."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from rookery.head.http.announce import Announcements, Answerer
from rookery.wire import routes


class Told:
    async def answer(self, credential: str, query: bytes, address: str) -> bytes:
        return f"{credential} {query.decode()} {address}".encode()


def ask(path: str, query: bytes = b"x=1", **words: Any) -> list[dict[str, Any]]:
    """What is sent for a request; the application behind it sends one message `behind`."""
    sent: list[dict[str, Any]] = []
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": [], "client": ("h", 1)}

    async def send(message: Any) -> None:
        sent.append(message)

    async def behind(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "behind"})

    async def receive() -> Any:
        raise AssertionError("nothing is to be read")

    made = Announcements(behind, answerer=cast("Answerer", Told()))
    asyncio.run(made({**scope, **words}, receive, send))
    return sent


def test_an_announce_is_answered_at_once() -> None:
    start, body = ask(f"{routes.ANNOUNCE}/word", b"a=b", client=None)
    assert (start["status"], dict(start["headers"])[b"content-length"]) == (200, b"9")
    assert body["body"] == b"word a=b "
    assert ask(f"{routes.ANNOUNCE}/word")[1]["body"] == b"word x=1 h"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (routes.ANNOUNCE, {}),
        (f"{routes.ANNOUNCE}/", {}),
        (f"{routes.ANNOUNCE}/a/b", {}),
        (f"{routes.ANNOUNCE}/{'a' * 300}", {}),
        (f"{routes.ANNOUNCE}/a", {"query_string": b"x" * 5000}),
        (f"{routes.ANNOUNCE}/a", {"method": "POST"}),
        (f"{routes.ANNOUNCE}/a", {"headers": [(b"content-length", b"5")]}),
        (f"{routes.ANNOUNCE}/a", {"headers": [(b"transfer-encoding", b"chunked")]}),
        ("/api/v1/nodes", {}),
    ],
)
def test_everything_else_goes_the_long_way(path: str, words: dict[str, Any]) -> None:
    assert ask(path, **words) == [{"type": "behind"}]
