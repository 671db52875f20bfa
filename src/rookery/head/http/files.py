# SPDX-License-Identifier: Apache-2.0
"""Published files for clients that are not ours: `/files/{image}/{version}/{file}`, plainly, as a torrent (`.torrent`)
and as a metalink (`.meta4`); `/files/{image}/{version}.meta4` has all files of a version; above them, pages.

A URL with a version's whole id never means anything else. One with a tag, or with the first digits of an id, leads
there (302). Whoever calls shows a ticket: in the query, as bearer, or as the password of Basic authentication, which is
what such clients know; or nothing at all, where the configuration opens everything (`files.public`).
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rookery.api.files import Offered
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.http import files_page
from rookery.head.http.blobs import matches, send_file
from rookery.head.http.bodies import answer
from rookery.head.http.guard import Guard
from rookery.head.http.metalink import MEDIA_TYPE as METALINK
from rookery.head.http.offers import Caller, Offers, who
from rookery.head.http.services import Services
from rookery.wire import routes

TORRENT = "application/x-bittorrent"
GIVEN = Offered
_WHOLE_ID = re.compile(r"[0-9a-f]{64}")


def router(services: Services, guard: Guard) -> APIRouter:
    """The routes."""
    found = APIRouter(tags=["files"])
    files = _Files(services)

    async def caller(request: Request) -> Caller:
        return await who(request, guard, public=services.config.files.public)

    @found.head(routes.FILES, include_in_schema=False)
    @found.get(routes.FILES, include_in_schema=False)
    @found.head(f"{routes.FILES}/", include_in_schema=False)
    @found.get(f"{routes.FILES}/")
    async def index(request: Request) -> Response:
        return await run_in_threadpool(files.index, request, await caller(request), "")

    @found.head(f"{routes.FILES}/{{image}}", include_in_schema=False)
    @found.get(f"{routes.FILES}/{{image}}", include_in_schema=False)
    @found.head(f"{routes.FILES}/{{image}}/", include_in_schema=False)
    @found.get(f"{routes.FILES}/{{image}}/")
    async def image_index(request: Request, image: str) -> Response:
        return await run_in_threadpool(files.index, request, await caller(request), image)

    @found.head(f"{routes.FILES}/{{image}}/{{version}}", include_in_schema=False)
    @found.get(f"{routes.FILES}/{{image}}/{{version}}")
    @found.head(f"{routes.FILES}/{{image}}/{{version}}/", include_in_schema=False)
    @found.get(f"{routes.FILES}/{{image}}/{{version}}/", include_in_schema=False)
    async def version_page(request: Request, image: str, version: str) -> Response:
        return await run_in_threadpool(files.version, request, await caller(request), image, version)

    @found.head(f"{routes.FILES}/{{image}}/{{version}}/{{file}}", include_in_schema=False)
    @found.get(f"{routes.FILES}/{{image}}/{{version}}/{{file}}")
    async def file(request: Request, image: str, version: str, file: str) -> Response:
        asker = await caller(request)
        said = await run_in_threadpool(files.file, request, asker, image, version, file)
        if isinstance(said, Response):
            return said
        sha256, headers = said
        path = await run_in_threadpool(services.store.path, sha256)
        return await send_file(request, path, sha256, on_sent=services.sent.add, more=headers)

    return found


class _Files:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog = services.catalog
        self._offers = Offers(services)

    def index(self, request: Request, caller: Caller, image: str) -> Response:
        """The page of everything, or of one image."""
        images = (self._catalog.image(image),) if image else self._catalog.images()
        rows = [row for found in images for row in found.versions if caller.version in (None, row.id)]
        return self._page(request, self._offers.versions(rows, caller), f"Images: {image}" if image else "Images")

    def version(self, request: Request, caller: Caller, image: str, reference: str) -> Response:
        """The page of a version, or the metalink of all its files."""
        try:
            row, suffix = self._find(image, reference), ""
        except RookeryError:
            if not reference.endswith(".meta4"):
                raise
            row, suffix = self._find(image, reference.removesuffix(".meta4")), ".meta4"
        caller.require(row)
        if row.id + suffix != reference:
            return _moved(request, row, suffix, "")
        if not suffix:
            title = f"{image}:{row.tags[0]}" if row.tags else f"{image}@{row.id[:12]}"
            return self._page(request, self._offers.versions([row], caller), title)
        content = self._offers.metalink(row, self._offers.blobs(row), caller)
        return self._document(request, content, METALINK, f"{image}-{row.id[:12]}.meta4")

    def file(
        self, request: Request, caller: Caller, image: str, reference: str, name: str
    ) -> Response | tuple[str, dict[str, str]]:
        """A torrent or a metalink; or, of a file itself, its SHA-256 and headers."""
        row = self._find(image, reference)
        caller.require(row)
        if row.id != reference:
            return _moved(request, row, "", f"/{quote(name, safe='')}")
        blobs = {blob.name: blob for blob in self._offers.blobs(row)}
        if (blob := blobs.get(name)) is not None:
            headers = self._offers.headers(row, blob, caller)
            if self._services.config.files.public:
                headers["Cache-Control"] = "public, max-age=31536000, immutable"
            return blob.sha256, headers
        stem, _, suffix = name.rpartition(".")
        if (blob := blobs.get(stem)) is not None and suffix == "torrent":
            return self._document(request, self._offers.torrent(blob, row, caller), TORRENT, name)
        if blob is not None and suffix == "meta4":
            return self._document(request, self._offers.metalink(row, (blob,), caller), METALINK, name)
        raise RookeryError(
            f"{image}@{row.id[:12]} has no file {name[:160]!r}",
            kind=ErrorKind.NOT_FOUND,
            hint=f"it has {', '.join(blobs)}, each also with .torrent or .meta4 behind",
        )

    def _find(self, image: str, reference: str) -> Version:
        """A version of an image by its id, by a tag, or by the first digits of its id."""
        if _WHOLE_ID.fullmatch(reference):
            return self._catalog.resolve(f"{image}@{reference}")
        tagged = (row for row in self._catalog.image(image).versions if reference in row.tags)
        return next(tagged, None) or self._catalog.resolve(f"{image}@{reference}")

    def _page(self, request: Request, offered: Offered, title: str) -> Response:
        if files_page.wants_json(request.headers.get("accept", "")):
            said = answer(offered)
            said.headers.update(files_page.HEADERS)
            return said
        return HTMLResponse(files_page.page(offered, title), headers=files_page.HEADERS)

    def _document(self, request: Request, content: bytes, media_type: str, name: str) -> Response:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {
            "ETag": etag,
            "Cache-Control": "private, no-cache",
            "Vary": "Authorization",
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        if matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)


def _moved(request: Request, row: Version, suffix: str, rest: str) -> Response:
    query = request.scope["query_string"].decode("latin-1")
    to = f"{routes.FILES}/{quote(row.image, safe='')}/{row.id}{suffix}{rest}" + (f"?{query}" if query else "")
    return RedirectResponse(to, 302, {"Cache-Control": "no-cache"})
