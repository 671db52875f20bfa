# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for what is published: images, their versions and tags, and tickets."""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rookery.api import routes, types
from rookery.head.http import views
from rookery.head.http.bodies import answer, body
from rookery.head.http.offers import Offers
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.wire import routes as wire
from rookery.wire.manifest import require_name


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["images"])
    acts = _Images(services)

    @found.get(routes.IMAGES, responses=gives(types.Images))
    def list_images() -> Response:
        return answer(types.Images(tuple(views.image(row) for row in services.catalog.images())))

    @found.get(routes.IMAGE, responses=gives(types.Image))
    def show_image(name: str) -> Response:
        return answer(views.image(services.catalog.image(name)))

    @found.get(routes.VERSION, responses=gives(types.VersionDetails))
    def show_version(reference: str) -> Response:
        return answer(views.version_details(services.catalog.resolve(reference)))

    @found.delete(routes.IMAGE, responses=gives(types.Removed))
    async def remove_image(name: str, version: Annotated[str, Query(max_length=128)] = "") -> Response:
        removed, blobs = await run_in_threadpool(acts.remove, name, version)
        for sha256 in blobs:
            services.planner.forget(sha256)  # on the event loop, where the planner lives
        return answer(removed)

    @found.post(routes.TAGS, responses=gives(types.Version), openapi_extra=takes(types.SetTag))
    def set_tag(name: str, wanted: Annotated[types.SetTag, Depends(body(types.SetTag))]) -> Response:
        return answer(acts.tag(name, wanted))

    @found.delete(routes.TAG, responses=gives(types.Version))
    def remove_tag(name: str, tag: str) -> Response:
        return answer(acts.untag(name, tag))

    @found.post(routes.TICKETS, responses=gives(types.Ticket), openapi_extra=takes(types.NewTicket))
    def new_ticket(wanted: Annotated[types.NewTicket, Depends(body(types.NewTicket))]) -> Response:
        return answer(acts.ticket(wanted))

    return found


class _Images:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog = services.catalog
        self._published = services.published
        self._offers = Offers(services)

    def remove(self, name: str, version: str) -> tuple[types.Removed, set[str]]:
        """What was removed, and the SHA-256 of its blobs."""
        if version:
            removed = self._catalog.remove_version(self._catalog.named(name, version).id, name)
        else:
            removed = self._catalog.remove_image(name)
        self._published.removed(removed)
        self._services.publisher.sweep(wait=False)
        ids = tuple(dict.fromkeys(row.id for row in removed))
        self._catalog.add_event(f"image:{name}", "removed", f"removed {', '.join(row[:12] for row in ids)}")
        return types.Removed(ids), {blob.sha256 for row in removed for blob in views.manifest(row).blobs}

    def tag(self, name: str, wanted: types.SetTag) -> types.Version:
        require_name(wanted.tag, "tag")
        version = self._catalog.named(name, wanted.version)
        self._catalog.tag(name, wanted.tag, version.id)
        self._catalog.add_event(f"image:{name}", "tagged", f"{name}:{wanted.tag} is version {version.id[:12]} now")
        return views.version(self._catalog.resolve(f"{name}@{version.id}"))

    def untag(self, name: str, tag: str) -> types.Version:
        """The version that the tag meant."""
        version = self._catalog.remove_tag(name, tag)
        self._catalog.add_event(f"image:{name}", "untagged", f"{name}:{tag} is gone; it was version {version.id[:12]}")
        return views.version(version)

    def ticket(self, wanted: types.NewTicket) -> types.Ticket:
        version = self._catalog.resolve(wanted.image)
        secret = self._services.credentials.ticket(version.id, wanted.seconds)
        # The id stands in the URL: the ticket is for this version, also when a tag has moved on.
        reference = quote(f"{version.image}@{version.id[:12]}", safe="@")
        query = urlencode({"ticket": secret, "key": self._services.key.public})
        url = f"{self._services.url}{wire.FETCH}/{reference}?{query}"
        offer = self._offers.of_ticket(version, secret)
        return types.Ticket(url, self._services.key.public, version.id, time.time() + wanted.seconds, offer)
