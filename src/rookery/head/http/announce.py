# SPDX-License-Identifier: Apache-2.0
"""The tracker's route: a credential in the path, where private trackers put it (BEP 27), then BEP 3."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rookery.errors import ErrorKind, RookeryError
from rookery.head.http.guard import Guard
from rookery.head.http.services import Services
from rookery.head.swarm import tracker
from rookery.head.swarm.racks import ATTRIBUTE, Racks
from rookery.wire import routes


def racks_of(services: Services) -> Racks:
    """The racks of this head's callers."""
    return Racks(lambda: services.catalog.attribute(ATTRIBUTE), services.config.swarm.rack_prefix)


def router(services: Services, guard: Guard, racks: Racks | None = None) -> APIRouter:
    """The route. racks: of all callers; made here when nobody else needs them."""
    found = APIRouter(tags=["swarm"])
    known = racks or racks_of(services)

    @found.get(f"{routes.ANNOUNCE}/{{credential}}")
    async def announce(request: Request, credential: str) -> Response:
        try:
            access = await guard.access(credential)
            client = request.client.host if request.client else ""
            asked = tracker.parse(request.scope["query_string"], client)
            if asked.info_hash not in await run_in_threadpool(services.published.info_hashes, access.version):
                raise RookeryError("this swarm is not open to this credential", kind=ErrorKind.FORBIDDEN)
            rack = known.rack(access.credential.kind, access.credential.subject, asked.address)
            content = tracker.encode(services.tracker.announce(asked, time.monotonic(), rack))
        except RookeryError as error:
            # BEP 3: whatever is wrong is a bencoded answer, too; swarm engines do not read other bodies.
            content = tracker.failure(error.record.message)
        return Response(content, media_type="text/plain")

    @found.get(routes.ANNOUNCE, include_in_schema=False)
    async def nobody() -> Response:
        return Response(tracker.failure("a credential is missing in the announce URL"), media_type="text/plain")

    return found
