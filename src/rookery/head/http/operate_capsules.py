# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for capsules, and for the keys of sites whose capsules are taken."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from rookery import files
from rookery.api import capsules, routes, types
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import rows
from rookery.head.http import views
from rookery.head.http.bodies import answer, body
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.head.jobs import JobRecord
from rookery.head.progress import OnProgress
from rookery.head.publish import capsule, remote_version
from rookery.head.publish.capsule import Opened
from rookery.head.publish.publish import Imported
from rookery.wire.capsule import fingerprint
from rookery.wire.manifest import Role, require_name, require_sha256

OWN = "this site"


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["capsules"])
    acts = _Capsules(services)

    @found.post(routes.EXPORTS, responses=gives(types.Job), openapi_extra=takes(capsules.Export))
    def start_export(wanted: Annotated[capsules.Export, Depends(body(capsules.Export))]) -> Response:
        return answer(views.job(acts.export(wanted)))

    @found.post(routes.CAPSULES, responses=gives(capsules.CapsuleInfo), openapi_extra=takes(capsules.LookAt))
    def look_at(wanted: Annotated[capsules.LookAt, Depends(body(capsules.LookAt))]) -> Response:
        return answer(acts.look(wanted))

    @found.post(routes.IMPORTS, responses=gives(types.Job), openapi_extra=takes(capsules.Import))
    def start_import(wanted: Annotated[capsules.Import, Depends(body(capsules.Import))]) -> Response:
        return answer(views.job(acts.take_in(wanted)))

    @found.get(routes.TRUSTED_KEYS, responses=gives(capsules.TrustedKeys))
    def list_keys() -> Response:
        return answer(acts.keys())

    @found.post(routes.TRUSTED_KEYS, responses=gives(capsules.TrustedKeys), openapi_extra=takes(capsules.Trust))
    def trust(wanted: Annotated[capsules.Trust, Depends(body(capsules.Trust))]) -> Response:
        return answer(acts.trust(wanted))

    @found.delete(routes.TRUSTED_KEY, responses=gives(types.Removed))
    def distrust(key: str) -> Response:
        return answer(acts.distrust(key))

    return found


class _Capsules:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog = services.catalog

    def export(self, wanted: capsules.Export) -> JobRecord:
        path = Path(wanted.path)
        if not path.is_absolute():
            raise RookeryError(f"{wanted.path[:200]!r} is not an absolute path", kind=ErrorKind.INVALID)
        found = self._catalog.resolve(wanted.image)

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            services = self._services
            # By its id: what was asked for is written, also when a tag has moved on since.
            reference = f"{found.image}@{found.id}"
            with services.holds.hold(lambda: self._catalog.resolve(reference), "a job exports it") as version:
                capsule.write(version, services.store, services.key, path, on_progress, cancel)
            self._catalog.add_event(f"image:{found.image}", "exported", f"version {found.id[:12]} to {path}")
            return found.id

        return self._services.jobs.start("export", found.image, work)

    def look(self, wanted: capsules.LookAt) -> capsules.CapsuleInfo:
        opened = _look(wanted.source)
        manifest = opened.manifest
        return capsules.CapsuleInfo(
            image=manifest.image,
            version=manifest.version,
            kind=manifest.kind,
            architecture=manifest.architecture,
            size=opened.size,
            created=manifest.created,
            exported_at=opened.capsule.exported_at,
            key=opened.key,
            fingerprint=fingerprint(opened.key),
            site=self._site(opened.key),
        )

    def take_in(self, wanted: capsules.Import) -> JobRecord:
        if wanted.name:
            require_name(wanted.name, "name")
        require_name(wanted.tag, "tag")
        opened = _look(wanted.source)
        # What can be refused is refused at once, not by a job.
        self._require_trusted(opened.key, wanted.trust)
        name = wanted.name or opened.manifest.image

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            take = self._from_head if remote_version.is_ticket(wanted.source) else self._from_file
            version, how = take(wanted, opened.key, name, on_progress, cancel)
            self._services.published.added(version)
            told = f"{name}:{wanted.tag} is version {version.id[:12]} now, {how} that "
            told += f"{self._site(opened.key) or fingerprint(opened.key)} signed"
            self._catalog.add_event(f"image:{name}", "imported", told)
            return version.id

        return self._services.jobs.start("import", name, work)

    def _from_file(
        self, wanted: capsules.Import, key: str, name: str, on_progress: OnProgress, cancel: threading.Event
    ) -> tuple[rows.Version, str]:
        with contextlib.ExitStack() as stack, capsule.open_source(wanted.source) as stream:
            opened = capsule.look(stream)
            self._require_same(opened, key, wanted.trust)
            parts = capsule.unpack(stream, opened, self._services.store, stack, on_progress, cancel)
            return self._publish(opened, parts, name, wanted.tag, on_progress, cancel), "from a capsule"

    def _from_head(
        self, wanted: capsules.Import, key: str, name: str, on_progress: OnProgress, cancel: threading.Event
    ) -> tuple[rows.Version, str]:
        services, offered = self._services, remote_version.look(wanted.source)
        opened = offered.opened
        self._require_same(opened, key, wanted.trust)
        known = [version for image in self._catalog.images() for version in image.versions]
        versions = remote_version.by_likeness(known, (name, opened.manifest.image))
        with files.scratch_directory(services.paths.work, "import-") as place:
            parts, moved = remote_version.fetch(offered, services.store, versions, place, on_progress, cancel)
            version = self._publish(opened, parts, name, wanted.tag, on_progress, cancel)
        how = f"from {offered.offer.source.head}, {moved / 1e6:.1f} MB moved of {version.size / 1e6:.1f} MB,"
        return version, how

    def _publish(
        self,
        opened: Opened,
        parts: dict[Role, Path],
        name: str,
        tag: str,
        on_progress: OnProgress,
        cancel: threading.Event,
    ) -> rows.Version:
        services, told = self._services, opened.capsule
        origin = None
        if opened.key != services.key.public:
            image = opened.manifest.image
            origin = rows.Origin(opened.key, image, float(told.exported_at), time.time(), told.manifest)
        with_it = Imported(told.recipe, told.packages, origin)
        return services.publisher.imported(name, opened.manifest, parts, with_it, tag, on_progress, cancel)

    def keys(self) -> capsules.TrustedKeys:
        own = self._services.key.public
        return capsules.TrustedKeys(
            own=capsules.TrustedKey(OWN, own, fingerprint(own), 0),
            keys=tuple(
                capsules.TrustedKey(known.name, known.key, fingerprint(known.key), known.added_at)
                for known in self._catalog.trusted_keys()
            ),
        )

    def trust(self, wanted: capsules.Trust) -> capsules.TrustedKeys:
        try:
            key = require_sha256(wanted.key.strip().lower(), "key")
        except ValueError as error:
            hint = "it stands in the other site's site.pub; 'rookery trust list' shows it there"
            raise RookeryError(str(error), kind=ErrorKind.INVALID, hint=hint) from error
        if key == self._services.key.public:
            raise RookeryError("this is this site's own key, which is trusted anyway", kind=ErrorKind.CONFLICT)
        known = self._catalog.trust(key, wanted.name)
        told = f"capsules of {known.name} are taken: key {fingerprint(key)}"
        self._catalog.add_event("head", "trusted", told)
        return self.keys()

    def distrust(self, which: str) -> types.Removed:
        for known in self._catalog.trusted_keys():
            if which in (known.name, known.key, fingerprint(known.key)):
                self._catalog.distrust(known.key)
                told = f"capsules of {known.name} are not taken any more: key {fingerprint(known.key)}"
                self._catalog.add_event("head", "distrusted", told)
                return types.Removed((known.name,))
        names = ", ".join(known.name for known in self._catalog.trusted_keys())
        raise RookeryError(
            f"no trusted key {which[:80]!r}",
            kind=ErrorKind.NOT_FOUND,
            hint=f"there are {names}" if names else "no other site's key is trusted",
        )

    def _site(self, key: str) -> str:
        """The name under which a key is trusted; empty for one that is not."""
        if key == self._services.key.public:
            return OWN
        return next((known.name for known in self._catalog.trusted_keys() if known.key == key), "")

    def _require_same(self, opened: Opened, key: str, trust: str) -> None:
        if opened.key != key:  # another file stands there since
            self._require_trusted(opened.key, trust)

    def _require_trusted(self, key: str, trust: str) -> None:
        if self._site(key) or trust.strip().lower() in (key, fingerprint(key)):
            return
        raise RookeryError(
            f"this site does not trust the key that signed the version: {fingerprint(key)}",
            kind=ErrorKind.FORBIDDEN,
            details=f"key: {key}",
            hint=f"when it is the other site's ('rookery trust list' there): rookery trust add {key} --as SITE",
        )


def _look(source: str) -> Opened:
    """What a capsule, or another head, offers; its signature checked."""
    if remote_version.is_ticket(source):
        return remote_version.look(source).opened
    with capsule.open_source(source) as stream:
        return capsule.look(stream)
