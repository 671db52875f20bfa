# SPDX-License-Identifier: Apache-2.0
"""The planner's route: a node asks for its place in the chain of a blob (wire/relay.py).

A whole cluster asks at once, and again a few times in its first seconds, so these are answered before the framework
looks at them (`Places`). The route behind it does the same for what the middleware leaves.
"""

from __future__ import annotations

import functools
import re
import time

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rookery import codec
from rookery.errors import RookeryError
from rookery.head.http.bodies import answer
from rookery.head.http.guard import Guard
from rookery.head.http.problems import problem
from rookery.head.http.services import Services
from rookery.head.swarm.planner import Asker
from rookery.head.swarm.racks import Racks
from rookery.relay.taker import join
from rookery.wire import routes
from rookery.wire.relay import Ask, Place

_PATH = re.compile(rf"{re.escape(routes.CHAIN)}/([^/]+)")
MOST_KEYS = 1024  # that are remembered: making one takes a signature


class Placer:
    """Gives places. racks: of all callers."""

    def __init__(self, services: Services, guard: Guard, racks: Racks) -> None:
        self._services, self._guard, self._racks = services, guard, racks
        self._key = functools.lru_cache(MOST_KEYS)(lambda sha256: services.key.secret(f"chain {sha256}"))

    async def place(self, request: Request, sha256: str) -> Place:
        """The caller's place in the chain of a blob. Raises RookeryError `unauthorized`, `not-found`, `invalid`."""
        access = await self._guard.fetcher(request)
        if not self._services.published.is_at_hand(sha256, access.version):
            await run_in_threadpool(self._services.published.require_blob, sha256, access.version)
        ask = codec.loads(Ask, await request.body(), what="the request")
        address = request.client.host if request.client else ""
        rack = self._racks.rack(access.credential.kind, access.credential.subject, address)
        asker = Asker(join(address, ask.port), rack)
        # On the event loop, so one at a time.
        return self._services.planner.ask(sha256, self._key(sha256), asker, ask, time.monotonic())


class Places:
    """ASGI middleware: answers who asks for a place, and hands everything else on. To stand behind `Limits`."""

    def __init__(self, app: ASGIApp, *, placer: Placer) -> None:
        self._app, self._placer = app, placer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        asked = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if asked is None:
            await self._app(scope, receive, send)
            return
        try:
            response = answer(await self._placer.place(Request(scope, receive), asked[1]))
        except RookeryError as error:
            response = problem(error.record)
        except ClientDisconnect:
            return
        await response(scope, receive, send)


def router(placer: Placer) -> APIRouter:
    """The route, for what the middleware leaves, and for the OpenAPI document."""
    found = APIRouter(tags=["swarm"])

    @found.post(f"{routes.CHAIN}/{{sha256}}")
    async def chain(request: Request, sha256: str) -> Response:
        return answer(await placer.place(request, sha256))

    return found
