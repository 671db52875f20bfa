# SPDX-License-Identifier: Apache-2.0
"""Limits on what a caller may send and how long it may take, before any route sees it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rookery.api import routes as api
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.http.problems import problem
from rookery.wire import routes as wire

MOST_BODY = 4096
MOST_BODY_OF = {wire.HELLO: 1 << 20, wire.REPORT: 256 << 10, api.PREFIX: 8 << 20}
MOST_TARGET = 16 << 10  # path and query
BODY_SECONDS = 30.0  # to send the next part of a body
TAKE_SECONDS = 60.0  # to take what waits of an answer (half a mebibyte of a blob)
HEADER_SECONDS = 20.0  # from connecting, or from the last answer, to the end of a request's headers


class Limits:
    """ASGI middleware: refuses a body above the limit of its path without reading it, and gives up on callers that stop
    sending."""

    def __init__(self, app: ASGIApp, *, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _refusal(scope)
        if record is not None:
            await problem(record, headers={"Connection": "close"})(scope, receive, send)
            return
        most, seen, started = _most(scope["path"]), 0, False

        async def limited_receive() -> Message:
            nonlocal seen
            if started:  # the answer is on its way: this only waits for the caller to go away
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._body_seconds)
            except TimeoutError:
                raise RookeryError("the rest of the request did not come", kind=ErrorKind.UNAVAILABLE) from None
            seen += len(message.get("body", b""))
            if seen > most:
                raise _too_large(most)
            return message

        async def noticing_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        await self._app(scope, limited_receive, noticing_send)


def _most(path: str) -> int:
    return next((most for start, most in MOST_BODY_OF.items() if path.startswith(start)), MOST_BODY)


def _too_large(most: int) -> RookeryError:
    return RookeryError(f"the request's body is larger than {most} bytes", kind=ErrorKind.TOO_LARGE)


def _refusal(scope: Scope) -> ErrorRecord | None:
    if len(scope["path"]) + len(scope["query_string"]) > MOST_TARGET:
        return ErrorRecord(ErrorKind.TOO_LARGE, f"the request's path and query are longer than {MOST_TARGET} bytes")
    for name, value in scope["headers"]:
        if name == b"content-length":
            most = _most(scope["path"])
            if not value.isdigit():
                return ErrorRecord(ErrorKind.INVALID, "Content-Length is not a number")
            # Many digits are refused before they are made a number.
            if len(value) > 15 or int(value) > most:
                return _too_large(most).record
    return None


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with limits on how long a connection may stay without a whole request, and on how long a
    caller may take nothing of an answer. uvicorn's own limit counts only between requests, so that a caller who sends
    or takes one byte now and then could hold a connection, and the memory behind it, for ever."""

    _take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._expect_headers(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._header_timer.cancel()
        self._stop_take_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller takes less than we have for it."""
        super().pause_writing()
        self._stop_take_timer()
        self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller has taken it."""
        self._stop_take_timer()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """The next request's headers are due, if it is not here already (pipelining)."""
        last = self.cycle
        super().on_response_complete()
        self._header_timer.cancel()
        self._expect_headers(last)

    def _stop_take_timer(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()

    def _expect_headers(self, last: object) -> None:
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._give_up, last)

    def _give_up(self, last: object) -> None:
        if self.cycle is last and not self.transport.is_closing():
            self.transport.close()
