# SPDX-License-Identifier: Apache-2.0
"""The tracker's route: a credential in the path, where private trackers put it (BEP 27), then BEP 3.

A whole cluster announces at once, so announces are answered before the framework looks at them (`Announcements`). The
route behind it does the same for what the middleware leaves.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Credential
from rookery.head.fleet.credentials import NEVER, Kind
from rookery.head.http.guard import Access, Guard
from rookery.head.http.services import Services
from rookery.head.swarm import tracker
from rookery.head.swarm.racks import ATTRIBUTE, Racks
from rookery.wire import routes

PUBLIC = "public"  # what stands in the announce URL where `files.public` opens everything: it opens the swarms alone
EVERYBODY = Access(Credential("", Kind.TICKET, "", NEVER), None)
_PREFIX = f"{routes.ANNOUNCE}/"
_TYPE = (b"content-type", b"text/plain; charset=utf-8")


def racks_of(services: Services) -> Racks:
    """The racks of this head's callers."""
    return Racks(lambda: services.catalog.attribute(ATTRIBUTE), services.config.swarm.rack_prefix)


class Answerer:
    """Answers announces. racks: of all callers."""

    def __init__(self, services: Services, guard: Guard, racks: Racks) -> None:
        self._published, self._tracker = services.published, services.tracker
        self._guard = guard
        self._racks = racks
        self._public = services.config.files.public

    async def answer(self, credential: str, query: bytes, address: str) -> bytes:
        """The bencoded answer to an announce. query: as it came over the wire. address: where it came from."""
        try:
            everybody = self._public and credential == PUBLIC
            access = EVERYBODY if everybody else await self._guard.access(credential)
            asked = tracker.parse(query, address)
            if asked.info_hash not in await self._open_to(access.version):
                raise RookeryError("this swarm is not open to this credential", kind=ErrorKind.FORBIDDEN)
            rack = self._racks.rack(access.credential.kind, access.credential.subject, asked.address)
            return tracker.encode(self._tracker.announce(asked, time.monotonic(), rack))
        except RookeryError as error:
            # BEP 3: whatever is wrong is a bencoded answer, too; swarm engines do not read other bodies.
            return tracker.failure(error.record.message)

    async def _open_to(self, version: str | None) -> frozenset[bytes]:
        at_hand = None if version is None else self._published.info_hashes_at_hand(version)
        return at_hand if at_hand is not None else await run_in_threadpool(self._published.info_hashes, version)


class Announcements:
    """ASGI middleware: answers announces, and hands everything else on."""

    def __init__(self, app: ASGIApp, *, answerer: Answerer) -> None:
        self._app, self._answerer = app, answerer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        credential = _credential(scope)
        if not credential:
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        body = await self._answerer.answer(credential, scope["query_string"], client[0] if client else "")
        headers = [(b"content-length", b"%d" % len(body)), _TYPE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _credential(scope: Scope) -> str:
    """The credential in the path of an announce; empty for any other request, and for what limits.py looks at."""
    path: str = scope.get("path", "")
    if not path.startswith(_PREFIX) or scope["type"] != "http" or scope["method"] != "GET":
        return ""
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
        return ""
    credential = path[len(_PREFIX) :]
    short = len(credential) <= 256 and len(scope["query_string"]) <= tracker.MAX_QUERY
    return credential if short and "/" not in credential else ""


def router(answerer: Answerer) -> APIRouter:
    """The route, for what the middleware leaves, and for the OpenAPI document."""
    found = APIRouter(tags=["swarm"])

    @found.get(f"{routes.ANNOUNCE}/{{credential}}")
    async def announce(request: Request, credential: str) -> Response:
        client = request.client.host if request.client else ""
        content = await answerer.answer(credential, request.scope["query_string"], client)
        return Response(content, media_type="text/plain")

    @found.get(routes.ANNOUNCE, include_in_schema=False)
    async def nobody() -> Response:
        return Response(tracker.failure("a credential is missing in the announce URL"), media_type="text/plain")

    return found
