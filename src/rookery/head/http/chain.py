# SPDX-License-Identifier: Apache-2.0
"""The planner's route: a node asks for its place in the chain of a blob (wire/relay.py)."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rookery.head.http.bodies import answer, body
from rookery.head.http.guard import Guard
from rookery.head.http.services import Services
from rookery.head.swarm.planner import Asker
from rookery.head.swarm.racks import Racks
from rookery.relay.taker import join
from rookery.wire import routes
from rookery.wire.relay import Ask


def router(services: Services, guard: Guard, racks: Racks) -> APIRouter:
    """The route. racks: of all callers."""
    found = APIRouter(tags=["swarm"])

    @found.post(f"{routes.CHAIN}/{{sha256}}")
    async def chain(request: Request, sha256: str) -> Response:
        access = await guard.fetcher(request)
        await run_in_threadpool(services.published.require_blob, sha256, access.version)
        ask = await body(Ask)(request)
        address = request.client.host if request.client else ""
        rack = racks.rack(access.credential.kind, access.credential.subject, address)
        asker = Asker(join(address, ask.port), rack)
        key = services.key.secret(f"chain {sha256}")
        # On the event loop, so one at a time.
        return answer(services.planner.ask(sha256, key, asker, ask, time.monotonic()))

    return found
