# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for an image's versions: their history, going back, and collecting what nobody needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rookery.api import routes, versions
from rookery.errors import RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.http import views
from rookery.head.http.bodies import answer, body
from rookery.head.http.idle import in_swarm
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.head.publish import changes
from rookery.head.trees import state


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["versions"])
    acts = _Versions(services)

    @found.get(routes.HISTORY, responses=gives(versions.History))
    def show_history(name: str) -> Response:
        return answer(acts.history(name))

    @found.post(routes.ROLLBACKS, responses=gives(versions.RolledBack), openapi_extra=takes(versions.Rollback))
    def roll_back(name: str, wanted: Annotated[versions.Rollback, Depends(body(versions.Rollback))]) -> Response:
        return answer(acts.roll_back(name, wanted))

    @found.post(routes.COLLECTIONS, responses=gives(versions.Collected), openapi_extra=takes(versions.Collect))
    async def collect(wanted: Annotated[versions.Collect, Depends(body(versions.Collect))]) -> Response:
        collected, blobs = await run_in_threadpool(acts.collect, wanted)
        for sha256 in blobs:
            services.planner.forget(sha256)  # on the event loop, where the planner lives
        return answer(collected)

    return found


class _Versions:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog = services.catalog

    def history(self, name: str) -> versions.History:
        found = self._catalog.image(name).versions
        entries = []
        for index, row in enumerate(found):
            before = found[index + 1] if index + 1 < len(found) else None
            change = changes.line(before, views.manifest(before), row, views.manifest(row)) if before else ""
            entries.append(versions.HistoryEntry(views.version(row), changes.source(row), change))
        moves = tuple(versions.TagMove(**vars(move)) for move in self._catalog.tag_moves(name))
        return versions.History(name, tuple(entries), moves)

    def roll_back(self, name: str, wanted: versions.Rollback) -> versions.RolledBack:
        to = self._catalog.named(name, wanted.to).id if wanted.to else None
        before, now = self._catalog.roll_back(name, wanted.tag, to)
        told = f"{name}:{wanted.tag} went back from version {before[:12]} to {now[:12]}"
        self._catalog.add_event(f"image:{name}", "rolled-back", told)
        return versions.RolledBack(wanted.tag, before, views.version(self._catalog.resolve(f"{name}@{now}")))

    def collect(self, wanted: versions.Collect) -> tuple[versions.Collected, set[str]]:
        """What went, and the SHA-256 of blobs that are of no version any more."""
        services = self._services
        with services.holds.settled() as held:
            needed = {**in_swarm(services), **held, **self._of_trees()}
            found = self._catalog.collect(wanted.keep, needed, time.time(), dry_run=wanted.dry_run)
            staying = _blobs(row for row, _ in found.staying)
            blobs = _blobs(found.going) - staying
            size = sum(self._size(sha256) for sha256 in blobs)
            if found.going and not wanted.dry_run:
                services.published.removed(found.going)
                services.publisher.sweep(wait=False)
                for name in sorted({row.image for row in found.going}):
                    ids = ", ".join(row.id[:12] for row in found.going if row.image == name)
                    self._catalog.add_event(f"image:{name}", "removed", f"nobody needs them: removed {ids}")
        told = versions.Collected(
            going=tuple(views.version(row) for row in found.going),
            staying=tuple(
                versions.Staying(row.image, row.id, reason, row.size, row.published_at) for row, reason in found.staying
            ),
            size=size,
            applied=not wanted.dry_run,
        )
        return told, set() if wanted.dry_run else blobs

    def _of_trees(self) -> dict[str, str]:
        """The versions that working trees come from."""
        found = {}
        directory = self._services.paths.trees
        for place in directory.iterdir() if directory.is_dir() else ():
            with contextlib.suppress(RookeryError):  # no tree, or none any more
                if version_id := state.load(place).version:
                    found[version_id] = f"origin of the working tree of {place.name}"
        return found

    def _size(self, sha256: str) -> int:
        """Bytes of a blob's file and of what lies beside it."""
        return self._services.store.disk(sha256)


def _blobs(rows: Iterable[Version]) -> set[str]:
    return {blob.sha256 for row in rows for blob in views.manifest(row).blobs}
