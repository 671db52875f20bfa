# SPDX-License-Identifier: Apache-2.0
"""Published images as what a recipe builds upon (`from`)."""

from __future__ import annotations

import contextlib

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.builder import Base, BasePart
from rookery.head.http import views
from rookery.head.http.services import Services
from rookery.wire.manifest import Role, VersionKind


def bases(services: Services, stack: contextlib.ExitStack | None = None) -> Base:
    """What gives builders the root of a published image; it raises `not-found`, and `invalid` for what is no image.

    stack: until it is left, the versions that were asked for are not collected.
    """

    def base(reference: str) -> BasePart:
        hold = services.holds.hold(lambda: services.catalog.resolve(reference), "a build starts from it")
        with contextlib.ExitStack() as only:
            version = (stack or only).enter_context(hold)
        if version.kind is not VersionKind.IMAGE:
            raise RookeryError(
                f"{reference} is not an image but a {version.kind}",
                kind=ErrorKind.INVALID,
                hint="'rookery image list' shows the images",
            )
        manifest = views.manifest(version)
        root = services.store.path(manifest.blob(Role.ROOT).sha256)
        return BasePart(root, version.packages, version.id, manifest.architecture)

    return base
