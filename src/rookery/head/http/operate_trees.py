# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for working trees: opening, publishing and removing them, and captures into them."""

from __future__ import annotations

import functools
import socket
import threading
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from rookery.api import routes, types
from rookery.api import trees as asked
from rookery.head.build.recipe import IdentityRules
from rookery.head.catalog.rows import Version
from rookery.head.http import views
from rookery.head.http.bodies import answer, body
from rookery.head.http.idle import pack_idle
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.head.jobs import JobRecord
from rookery.head.progress import OnProgress
from rookery.head.remote.machine import Remote
from rookery.head.trees import capture
from rookery.head.trees.trees import Tree, Trees
from rookery.wire.manifest import require_name

TAKEN = (asked.OpenTree, asked.PublishTree, asked.Capture)
GIVEN = (asked.Tree, asked.Trees)


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["trees"])
    acts = _Acts(services)

    @found.get(routes.TREES, responses=gives(asked.Trees))
    def list_trees() -> Response:
        return answer(asked.Trees(tuple(acts.view(tree) for tree in acts.trees.all()), socket.gethostname()))

    @found.get(routes.TREE, responses=gives(asked.Tree))
    def show_tree(name: str) -> Response:
        return answer(acts.view(acts.trees.tree(name)))

    @found.post(routes.TREES, responses=gives(types.Job), openapi_extra=takes(asked.OpenTree))
    def open_tree(wanted: Annotated[asked.OpenTree, Depends(body(asked.OpenTree))]) -> Response:
        return answer(views.job(acts.open(wanted)))

    @found.delete(routes.TREE, responses=gives(types.Removed))
    def close_tree(name: str) -> Response:
        return answer(acts.close(name))

    @found.post(routes.TREE_PUBLICATIONS, responses=gives(types.Job), openapi_extra=takes(asked.PublishTree))
    def publish_tree(wanted: Annotated[asked.PublishTree, Depends(body(asked.PublishTree))]) -> Response:
        return answer(views.job(acts.publish(wanted)))

    @found.post(routes.CAPTURES, responses=gives(types.Job), openapi_extra=takes(asked.Capture))
    def start_capture(wanted: Annotated[asked.Capture, Depends(body(asked.Capture))]) -> Response:
        return answer(views.job(acts.capture(wanted)))

    return found


class _Acts:
    def __init__(self, services: Services) -> None:
        self._services = services
        self.trees = Trees(
            services.paths.trees, services.paths.work, services.catalog, services.store, services.publisher
        )

    def view(self, tree: Tree) -> asked.Tree:
        state = tree.state
        return asked.Tree(
            name=tree.name,
            id=state.id,
            place=str(tree.place),
            root=str(tree.root),
            origin=state.origin,
            version=state.version,
            opened_at=state.opened_at,
            changed=tree.changed,
            complete=state.complete,
            in_use=tree.holder.shown if tree.holder else "",
            network_namespace=self._services.config.build.network_namespace,
            captured=asked.Captured(**vars(state.captured)) if state.captured else None,
        )

    def open(self, wanted: asked.OpenTree) -> JobRecord:
        version = self._services.catalog.resolve(wanted.image)
        self.trees.free(version.image)

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            reference = f"{version.image}@{version.id}"
            find = functools.partial(self._services.catalog.resolve, reference)
            with self._services.holds.hold(find, "a working tree is made of it"):
                return self.trees.open(reference, on_progress, cancel).version

        return self._services.jobs.start("open", version.image, work)

    def publish(self, wanted: asked.PublishTree) -> JobRecord:
        require_name(wanted.tag, "tag")
        self.trees.tree(wanted.name)
        self.trees.free(wanted.name)

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            version = self.trees.publish(wanted.name, wanted.tag, on_progress, cancel)
            return self._told(version, wanted.tag, on_progress, cancel)

        return self._services.jobs.start("publish", wanted.name, work)

    def close(self, name: str) -> types.Removed:
        self.trees.close(name)
        self._services.catalog.add_event(f"image:{name}", "closed", f"the working tree of {name} was removed")
        return types.Removed((name,))

    def capture(self, wanted: asked.Capture) -> JobRecord:
        require_name(wanted.name, "image name")
        if wanted.tag:
            require_name(wanted.tag, "tag")
        machine = Remote(
            host=wanted.host,
            user=wanted.user,
            port=wanted.port,
            root=wanted.root,
            options=wanted.ssh_options,
            accept_new=wanted.accept_new,
            sudo=wanted.sudo,
            known_hosts=self._services.paths.known_hosts,
        )
        identity = IdentityRules(wanted.keep, wanted.remove)
        wish = capture.Wish(machine, wanted.name, wanted.mounts, wanted.excludes, wanted.force, identity)
        self.trees.free(wanted.name)

        def work(on_progress: OnProgress, cancel: threading.Event) -> str:
            done, version = capture.capture(self.trees, wish, wanted.tag, on_progress, cancel)
            self._services.catalog.add_event(f"image:{wanted.name}", "captured", capture.told(done))
            return self._told(version, wanted.tag, on_progress, cancel) if version else ""

        return self._services.jobs.start("capture", wanted.name, work)

    def _told(self, version: Version, tag: str, on_progress: OnProgress, cancel: threading.Event) -> str:
        self._services.published.added(version)
        message = f"{version.image}:{tag} is version {version.id[:12]} now, {version.size / 1e6:.1f} MB"
        self._services.catalog.add_event(f"image:{version.image}", "published", message)
        pack_idle(self._services, on_progress, cancel)
        return version.id
