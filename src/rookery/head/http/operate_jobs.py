# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for long work: building images, publishing files, verifying either, and following it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from rookery.api import routes, types
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder
from rookery.head.build import image as builds
from rookery.head.build import recipe as recipes
from rookery.head.catalog.rows import Version
from rookery.head.http import views
from rookery.head.http.bases import bases
from rookery.head.http.bodies import answer, body
from rookery.head.http.idle import pack_idle
from rookery.head.http.operate_head import Wait
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.head.jobs import JobRecord
from rookery.head.progress import OnProgress
from rookery.head.publish.verify import verify
from rookery.head.remote import build as remote_build
from rookery.head.remote.machine import Remote
from rookery.wire.manifest import require_name

LOOK_SECONDS = 0.2


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["jobs"])
    acts = _Work(services)

    @found.post(routes.BUILDS, responses=gives(types.Job), openapi_extra=takes(types.Build))
    def start_build(wanted: Annotated[types.Build, Depends(body(types.Build))]) -> Response:
        return answer(views.job(acts.build(wanted)))

    @found.post(routes.PUBLICATIONS, responses=gives(types.Job), openapi_extra=takes(types.Publish))
    def start_publication(wanted: Annotated[types.Publish, Depends(body(types.Publish))]) -> Response:
        return answer(views.job(acts.publish(wanted)))

    @found.post(routes.VERIFICATIONS, responses=gives(types.Job), openapi_extra=takes(types.Verify))
    def start_verification(wanted: Annotated[types.Verify, Depends(body(types.Verify))]) -> Response:
        return answer(views.job(acts.verify(wanted)))

    @found.get(routes.JOBS, responses=gives(types.Jobs))
    def list_jobs() -> Response:
        return answer(types.Jobs(tuple(views.job(record) for record in services.jobs.all())))

    @found.get(routes.JOB, responses=gives(types.Job))
    async def show_job(id: str, after: Annotated[int, Query(ge=-1)] = -1, wait: Wait = 0) -> Response:  # noqa: A002
        until = time.monotonic() + wait
        while True:
            record = services.jobs.get(id)
            if record.revision > after or record.ended or time.monotonic() >= until:
                return answer(views.job(record))
            await asyncio.sleep(LOOK_SECONDS)

    @found.delete(routes.JOB, responses=gives(types.Job))
    def cancel_job(id: str) -> Response:  # noqa: A002 - the path's own word
        return answer(views.job(services.jobs.cancel(id)))

    return found


class _Work:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog = services.catalog

    def build(self, wanted: types.Build) -> JobRecord:
        require_name(wanted.name, "image name")
        require_name(wanted.tag, "tag")
        # An error in the recipe is told at once, not by a job.
        recipe = recipes.parse(wanted.recipe, wanted.path, Path(wanted.base or "/"))
        builder.find(recipe.builder)
        there = self._machine(wanted) if wanted.on else None
        place = self._services.paths.work

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            namespace = self._services.config.build.network_namespace
            with contextlib.ExitStack() as stack:
                base = bases(self._services, stack)
                if there:
                    built = remote_build.build(there, recipe, place, on_progress, cancel, base, wanted.name)
                else:
                    earlier = self._services.publisher.drivers(f"{wanted.name}:{wanted.tag}")
                    built = builds.build(recipe, place, on_progress, cancel, namespace, base, wanted.name, earlier)
            try:
                version = self._services.publisher.image(
                    wanted.name, built, wanted.recipe, wanted.tag, on_progress, cancel
                )
            finally:
                built.discard()
            for note in built.notes:
                self._catalog.add_event(f"image:{wanted.name}", "note", note)
            return self._told(version, wanted.tag, on_progress, cancel)

        return self._services.jobs.start("build", wanted.name, work)

    def _machine(self, wanted: types.Build) -> Remote:
        user, _, host = wanted.on.rpartition("@")
        return Remote(
            host=host,
            user=user,
            options=wanted.ssh_options,
            accept_new=wanted.accept_new,
            known_hosts=self._services.paths.known_hosts,
        )

    def publish(self, wanted: types.Publish) -> JobRecord:
        require_name(wanted.name, "name")
        require_name(wanted.tag, "tag")
        source = Path(wanted.source)
        if not source.is_absolute():
            raise RookeryError(f"{wanted.source[:200]!r} is not an absolute path", kind=ErrorKind.INVALID)
        if not source.exists():
            raise RookeryError(f"there is no {source} on the head", kind=ErrorKind.NOT_FOUND)

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            version = self._services.publisher.path(source, wanted.name, wanted.tag, on_progress, cancel)
            return self._told(version, wanted.tag, on_progress, cancel)

        return self._services.jobs.start("publish", wanted.name, work)

    def verify(self, wanted: types.Verify) -> JobRecord:
        version = self._catalog.resolve(wanted.image)
        what = f"{version.image}@{version.id[:12]}"

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            problems = verify(version, self._services.store, self._services.key.public, on_progress, cancel)
            if not problems:
                # Whatever the seeder thought of its copy: it is right.
                self._services.published.added(version)
                return version.id
            # What is wrong must not go on being given until a node complains of it.
            self._services.published.check_own_copy(version.id)
            lines = tuple(f"{problem.subject}: {problem.message}" for problem in problems)
            self._catalog.add_event(f"image:{version.image}", "trouble", f"{what} is damaged: {'; '.join(lines)}")
            raise RookeryError(
                f"{what} is damaged", kind=ErrorKind.CORRUPT, details="\n".join(lines), hint=problems[0].hint
            )

        return self._services.jobs.start("verify", version.image, work)

    def _told(self, version: Version, tag: str, on_progress: OnProgress, cancel: threading.Event) -> str:
        self._services.published.added(version)
        message = f"{version.image}:{tag} is version {version.id[:12]} now, {version.size / 1e6:.1f} MB"
        self._catalog.add_event(f"image:{version.image}", "published", message)
        pack_idle(self._services, on_progress, cancel)
        return version.id
