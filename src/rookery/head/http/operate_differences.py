# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for comparing two versions: a job, and then what came of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from rookery.api import routes, types, versions
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.http import views
from rookery.head.http.bodies import answer, body
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.head.jobs import JobRecord
from rookery.head.progress import OnProgress
from rookery.head.publish import differences

REMEMBERED = 10
_WHY = "a job compares it"


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["versions"])
    acts = _Differences(services)

    @found.post(routes.DIFFERENCES, responses=gives(types.Job), openapi_extra=takes(versions.Compare))
    def start_comparing(wanted: Annotated[versions.Compare, Depends(body(versions.Compare))]) -> Response:
        return answer(views.job(acts.start(wanted)))

    @found.get(routes.DIFFERENCE, responses=gives(versions.Difference))
    def show_difference(id: str) -> Response:  # noqa: A002 - the path's own word
        return answer(acts.result(id))

    return found


class _Differences:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._results: OrderedDict[str, list[versions.Difference]] = OrderedDict()  # by job

    def start(self, wanted: versions.Compare) -> JobRecord:
        before, after = (self._services.catalog.resolve(reference) for reference in (wanted.before, wanted.after))
        result: list[versions.Difference] = []

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            result.append(self._compare(before, after, wanted.files, on_progress, cancel))
            return after.id

        record = self._services.jobs.start("compare", after.image, work)
        with self._lock:
            self._results[record.id] = result
            while len(self._results) > REMEMBERED:
                self._results.popitem(last=False)
        return record

    def result(self, job_id: str) -> versions.Difference:
        with self._lock:
            found = self._results.get(job_id)
        if not found:
            raise RookeryError(
                f"no difference {job_id[:40]!r}",
                kind=ErrorKind.NOT_FOUND,
                hint="compare again: the head remembers the last ones only, once their job is done",
            )
        return found[0]

    def _compare(
        self, before: Version, after: Version, with_files: bool, on_progress: OnProgress, cancel: threading.Event
    ) -> versions.Difference:
        services = self._services
        with (
            services.holds.hold(lambda: services.catalog.resolve(f"{before.image}@{before.id}"), _WHY) as old,
            services.holds.hold(lambda: services.catalog.resolve(f"{after.image}@{after.id}"), _WHY) as new,
        ):
            found = differences.compare(
                old, new, services.store, services.paths.work, on_progress, cancel, with_files=with_files
            )
        of = found.packages
        packages = [
            *(versions.PackageChange(name, "", version) for name, version in of.added),
            *(versions.PackageChange(name, version, "") for name, version in of.removed),
            *(versions.PackageChange(*change) for change in of.changed),
        ]
        return versions.Difference(
            before=views.version(old),
            after=views.version(new),
            packages=tuple(sorted(packages, key=lambda change: change.name)),
            files=tuple(versions.FileChange(**vars(change)) for change in found.files.entries),
            files_added=found.files.added,
            files_removed=found.files.removed,
            files_changed=found.files.changed,
            transfer=found.transfer,
            size=found.size,
            blobs=found.blobs,
            notes=found.notes,
        )
