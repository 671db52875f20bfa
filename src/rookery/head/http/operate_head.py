# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for the head itself: what it is, and what happened."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rookery import __version__
from rookery.api import routes, types
from rookery.head.http import views
from rookery.head.http.bodies import answer
from rookery.head.http.schema import gives
from rookery.head.http.services import Services

MOST_WAIT = 60.0
LOOK_SECONDS = 0.3
Wait = Annotated[float, Query(ge=0, le=MOST_WAIT, description="seconds to wait for something new")]


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["head"])

    @found.get(routes.HEAD, responses=gives(types.Head))
    def show_head() -> Response:
        return answer(describe(services))

    @found.get(routes.EVENTS, responses=gives(types.Events))
    async def events(
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        wait: Wait = 0,
        subject: Annotated[str, Query(max_length=255)] = "",
        limit: Annotated[int, Query(ge=1, le=types.MOST_EVENTS)] = types.MOST_EVENTS,
    ) -> Response:
        until = time.monotonic() + wait
        while True:
            rows = await run_in_threadpool(services.catalog.events, after, subject or None, limit)
            if rows or time.monotonic() >= until:
                return answer(types.Events(tuple(views.event(row) for row in rows), rows[-1].id if rows else after))
            await asyncio.sleep(LOOK_SECONDS)

    return found


def describe(services: Services) -> types.Head:
    """The head as it is now."""
    network = services.config.network
    return types.Head(
        version=__version__,
        url=services.url,
        key=services.key.public,
        directory=str(services.paths.directory),
        interface=network.interface,
        address=services.address,
        port=network.port,
        swarm_port=network.swarm_port,
        relay_port=network.relay_port,
        dhcp=services.config.dhcp.mode,
        started_at=services.started_at,
        now=time.time(),
        agent_size=max((path.stat().st_size for path in services.agents.values()), default=0),
        seeding=tuple(views.seeding(given) for given in services.seeder.stats()),
        http_sent=services.sent.bytes,
    )
