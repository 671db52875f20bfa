# SPDX-License-Identifier: Apache-2.0
"""The routes that machines and nodes call (wire/routes.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, PlainTextResponse, Response

from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot import answer as scripts
from rookery.head.boot import loaders
from rookery.head.fleet.credentials import Kind
from rookery.head.fleet.fleet import NEW_TICKET
from rookery.head.http.blobs import send_file
from rookery.head.http.bodies import answer, body
from rookery.head.http.guard import Fresh, Guard, bearer
from rookery.head.http.services import Services
from rookery.head.publish import capsule
from rookery.wire import routes
from rookery.wire.manifest import Role, parse_payload
from rookery.wire.orders import CapsuleOffer, FetchOffer, Hello
from rookery.wire.report import Report

_EFI = "application/efi"  # what UEFI HTTP boot expects (UEFI 2.10, 24.7.3)


class FetchOffers:
    """What `rookery fetch` is offered. A hundred machines call one URL at once, so what a ticket opened a moment ago is
    not looked up again: it opens one version, whatever becomes of tags."""

    def __init__(self, services: Services, guard: Guard) -> None:
        self._fleet, self._guard = services.fleet, guard
        self._known = Fresh(self._look_up)

    async def get(self, reference: str, secret: str) -> FetchOffer:
        """Raises RookeryError as `Fleet.offer`."""
        try:
            kind = (await self._guard.access(secret)).credential.kind
        except RookeryError:
            kind = None  # the fleet says what is wrong with it
        if kind == Kind.TICKET:
            return await self._known.get(f"{secret}\n{reference}")
        return await run_in_threadpool(self._fleet.offer, reference, secret)

    def _look_up(self, asked: Sequence[str]) -> list[FetchOffer | RookeryError]:
        found: list[FetchOffer | RookeryError] = []
        for one in asked:
            secret, _, reference = one.partition("\n")
            try:
                found.append(self._fleet.offer(reference, secret))
            except RookeryError as error:
                found.append(error)
        return found


def boot_router(services: Services) -> APIRouter:
    """What machines ask before they have a credential."""
    found = APIRouter(tags=["machines"])
    published = services.published

    @found.get(routes.START, response_class=PlainTextResponse)
    def start() -> Response:
        return PlainTextResponse(scripts.start(services.url))

    @found.get(routes.SCRIPT, response_class=PlainTextResponse)
    def script(request: Request) -> Response:
        # Whatever is wrong, the machine's screen shows it, and the machine asks again.
        try:
            client = request.client.host if request.client else ""
            asked = scripts.parse_request(request.query_params.multi_items(), client)
            return PlainTextResponse(services.fleet.boot(asked).script)
        except RookeryError as error:
            return PlainTextResponse(scripts.refusal(error.record))

    @found.head(f"{routes.LOADER}/{{name}}", include_in_schema=False)
    @found.get(f"{routes.LOADER}/{{name}}", response_class=FileResponse)
    def loader(name: str) -> Response:
        path = loaders.installed(services.paths, name)
        return FileResponse(path, media_type=_EFI if path.suffix == ".efi" else "application/octet-stream")

    @found.head(f"{routes.AGENT}/{{sha256}}", include_in_schema=False)
    @found.get(f"{routes.AGENT}/{{sha256}}")
    async def agent(request: Request, sha256: str) -> Response:
        path = services.agents.get(sha256)
        if path is None:
            raise RookeryError(f"no agent {sha256[:64]!r}", kind=ErrorKind.NOT_FOUND)
        return await send_file(request, path, sha256)

    @found.head(f"{routes.KERNEL}/{{sha256}}", include_in_schema=False)
    @found.get(f"{routes.KERNEL}/{{sha256}}")
    async def kernel(request: Request, sha256: str) -> Response:
        await run_in_threadpool(published.require_role, sha256, Role.KERNEL)
        return await send_file(request, services.store.path(sha256), sha256)

    @found.head(f"{routes.DRIVERS}/{{sha256}}", include_in_schema=False)
    @found.get(f"{routes.DRIVERS}/{{sha256}}")
    async def drivers(request: Request, sha256: str) -> Response:
        await run_in_threadpool(published.require_role, sha256, Role.DRIVERS)
        return await send_file(request, services.store.path(sha256), sha256)

    return found


def node_router(services: Services, guard: Guard) -> APIRouter:
    """What nodes, and `rookery fetch`, ask with a credential."""
    found = APIRouter(tags=["nodes at boot"])
    published = services.published
    failures: dict[str, int] = {}  # hash failures that a node has told of so far

    @found.post(routes.HELLO)
    def hello(said: Annotated[Hello, Depends(body(Hello))]) -> Response:
        return answer(services.fleet.hello(said))

    @found.get(routes.ORDERS)
    async def orders(request: Request) -> Response:
        node = await guard.node(request)
        return answer(await run_in_threadpool(services.fleet.orders, node.subject, bearer(request)))

    @found.post(routes.REPORT)
    async def report(request: Request) -> Response:
        node = await guard.node(request)  # before the body is read
        told = await body(Report)(request)
        word = await run_in_threadpool(services.fleet.report, node.subject, told)
        if (count := told.transfer.hash_failures) > failures.get(node.subject, 0) and told.version:
            await run_in_threadpool(published.check_own_copy, told.version)
        failures[node.subject] = count
        return answer(word)

    @found.head(f"{routes.BLOB}/{{sha256}}", include_in_schema=False)
    @found.get(f"{routes.BLOB}/{{sha256}}")
    async def blob(request: Request, sha256: str) -> Response:
        access = await guard.fetcher(request)
        await run_in_threadpool(published.require_blob, sha256, access.version)
        path = await run_in_threadpool(services.store.path, sha256)
        return await send_file(request, path, sha256, on_sent=services.sent.add)

    @found.get(f"{routes.TORRENT}/{{sha256}}")
    async def torrent(request: Request, sha256: str) -> Response:
        access = await guard.fetcher(request)
        await run_in_threadpool(published.require_blob, sha256, access.version)
        path = services.store.torrent(sha256)
        try:
            content = await run_in_threadpool(path.read_bytes)
        except FileNotFoundError:
            raise RookeryError(f"blob {sha256} has no torrent", kind=ErrorKind.NOT_FOUND) from None
        return Response(content, media_type="application/x-bittorrent")

    @found.get(f"{routes.CHUNKS}/{{sha256}}")
    async def chunk_index(request: Request, sha256: str) -> Response:
        # Whoever asks holds the blob, or is about to: an older version's is not of the version that the ticket names.
        await guard.fetcher(request)
        path = services.store.chunks(sha256)
        try:
            content = await run_in_threadpool(path.read_bytes)
        except FileNotFoundError:
            raise RookeryError(f"blob {sha256} has no chunk index here", kind=ErrorKind.NOT_FOUND) from None
        return Response(content, media_type="application/octet-stream")

    offers = FetchOffers(services, guard)

    @found.get(f"{routes.FETCH}/{{reference}}")
    async def fetch(request: Request, reference: str, ticket: Annotated[str, Query(max_length=256)] = "") -> Response:
        return answer(await offers.get(reference, ticket or _shown(request)))

    @found.get(f"{routes.CAPSULE}/{{reference}}")
    def capsule_head(request: Request, reference: str, ticket: Annotated[str, Query(max_length=256)] = "") -> Response:
        offer = services.fleet.offer(reference, ticket or _shown(request))
        told = parse_payload(offer.manifest.signed_bytes)
        version = services.catalog.resolve(f"{told.image}@{told.version}")
        return answer(CapsuleOffer(capsule.seal(version, services.key), offer.source))

    return found


def _shown(request: Request) -> str:
    """The credential of whoever fetches without a ticket in the URL."""
    if "authorization" not in request.headers:
        raise RookeryError("the URL has no ticket", kind=ErrorKind.UNAUTHORIZED, hint=NEW_TICKET)
    return bearer(request)
