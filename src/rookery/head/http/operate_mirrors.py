# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for mirrors."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from rookery.api import mirrors as types
from rookery.api import routes
from rookery.api.types import Job, Removed
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import rows
from rookery.head.config import require_location
from rookery.head.http import views
from rookery.head.http.bodies import answer, body
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.head.jobs import JobRecord
from rookery.head.mirrors.rounds import Rounds
from rookery.head.progress import OnProgress

TAKEN = (types.AddMirror, types.CheckMirror)
GIVEN = (types.Mirrors, types.MirrorDetails)


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["mirrors"])
    acts = _Mirrors(services)
    catalog = services.catalog

    @found.get(routes.MIRRORS, responses=gives(types.Mirrors))
    def list_mirrors() -> Response:
        return answer(types.Mirrors(tuple(details(*catalog.mirror(row.name)).mirror for row in catalog.mirrors())))

    @found.post(routes.MIRRORS, responses=gives(Job), openapi_extra=takes(types.AddMirror))
    def add_mirror(wanted: Annotated[types.AddMirror, Depends(body(types.AddMirror))]) -> Response:
        return answer(views.job(acts.add(wanted)))

    @found.get(routes.MIRROR, responses=gives(types.MirrorDetails))
    def show_mirror(name: str) -> Response:
        return answer(details(*catalog.mirror(name)))

    @found.delete(routes.MIRROR, responses=gives(Removed))
    def remove_mirror(name: str) -> Response:
        return answer(Removed((acts.rounds.remove(name).name,)))

    @found.post(routes.MIRROR_CHECKS, responses=gives(Job), openapi_extra=takes(types.CheckMirror))
    def check_mirror(name: str, wanted: Annotated[types.CheckMirror, Depends(body(types.CheckMirror))]) -> Response:
        return answer(views.job(acts.check(name, wanted)))

    return found


class _Mirrors:
    def __init__(self, services: Services) -> None:
        self._services = services
        self.rounds = Rounds(services.catalog, services.store, services.url)

    def add(self, wanted: types.AddMirror) -> JobRecord:
        try:
            location = require_location(wanted.location)
        except ValueError as error:
            raise RookeryError(str(error), kind=ErrorKind.INVALID) from error
        mirror = rows.Mirror(wanted.name, wanted.url, wanted.priority, location)
        self.rounds.required(mirror)  # what is wrong with the request is told at once, not by a job

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            self.rounds.add(mirror, whole=wanted.whole, on_progress=on_progress, cancel=cancel)
            return ""

        return self._services.jobs.start("add mirror", wanted.name, work)

    def check(self, name: str, wanted: types.CheckMirror) -> JobRecord:
        self._services.catalog.mirror(name)

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            found = self.rounds.check(name, whole=wanted.whole, on_progress=on_progress, cancel=cancel)
            if found.state is not rows.MirrorState.GOOD:
                unreachable = found.state is rows.MirrorState.UNREACHABLE
                raise RookeryError(
                    f"mirror {name} is {found.state}",
                    kind=ErrorKind.UNAVAILABLE if unreachable else ErrorKind.CORRUPT,
                    details=found.reason,
                    hint="it is not handed out until a check finds it right again",
                )
            return ""

        return self._services.jobs.start("check mirror", name, work)


def details(row: rows.Mirror, files: tuple[rows.MirrorFile, ...]) -> types.MirrorDetails:
    """A mirror with its files, as the API shows it."""
    states = [file.state for file in files]
    mirror = types.Mirror(
        row.name,
        row.url,
        row.priority,
        row.location,
        row.state,
        row.reason,
        row.added_at,
        row.checked_at,
        states.count(rows.MirrorState.GOOD),
        states.count(rows.MirrorState.MISSING),
        states.count(rows.MirrorState.BAD),
    )
    return types.MirrorDetails(
        mirror,
        tuple(types.MirrorFile(f.url, f.sha256, f.state, f.reason, f.etag, f.checked_at) for f in files),
    )
