# SPDX-License-Identifier: Apache-2.0
"""The operator's routes for nodes: list, add, change, remove, deploy, status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from rookery.api import routes, types
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.noderange import expand, fold
from rookery.head.catalog.rows import Node
from rookery.head.fleet.fleet import assigned_reference
from rookery.head.http import settings, views
from rookery.head.http.bodies import answer, body
from rookery.head.http.schema import gives, takes
from rookery.head.http.services import Services
from rookery.wire.manifest import VersionKind

Nodes = Annotated[str, Query(max_length=8192, description="a noderange; all nodes when empty")]


def router(services: Services) -> APIRouter:
    """The routes; whoever includes them asks for the operator's credential."""
    found = APIRouter(tags=["nodes"])
    acts = _Nodes(services)

    @found.get(routes.NODES, responses=gives(types.Nodes))
    def list_nodes(nodes: Nodes = "") -> Response:
        return answer(types.Nodes(tuple(views.node(row) for row in acts.find(nodes))))

    @found.get(routes.NODE, responses=gives(types.NodeDetails))
    def show_node(name: str) -> Response:
        return answer(views.node_details(services.catalog.node(name)))

    @found.post(routes.NODES, responses=gives(types.Changes), openapi_extra=takes(types.AddNodes))
    def add_nodes(add: Annotated[types.AddNodes, Depends(body(types.AddNodes))]) -> Response:
        return answer(acts.add(add))

    @found.patch(routes.NODES, responses=gives(types.Changes), openapi_extra=takes(types.SetNodes))
    def set_nodes(change: Annotated[types.SetNodes, Depends(body(types.SetNodes))]) -> Response:
        return answer(acts.set(change))

    @found.delete(routes.NODES, responses=gives(types.Removed))
    def remove_nodes(nodes: Annotated[str, Query(min_length=1, max_length=8192)]) -> Response:
        return answer(acts.remove(nodes))

    @found.post(routes.DEPLOY, responses=gives(types.Changes), openapi_extra=takes(types.Deploy))
    def deploy(wanted: Annotated[types.Deploy, Depends(body(types.Deploy))]) -> Response:
        return answer(acts.deploy(wanted))

    @found.post(routes.STOP_SEEDING, responses=gives(types.Changes), openapi_extra=takes(types.StopSeeding))
    def stop_seeding(wanted: Annotated[types.StopSeeding, Depends(body(types.StopSeeding))]) -> Response:
        return answer(acts.stop_seeding(wanted.nodes))

    @found.get(routes.STATUS, responses=gives(types.Status))
    def status(nodes: Nodes = "") -> Response:
        return answer(acts.status(nodes))

    return found


class _Nodes:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._catalog = services.catalog

    def expand(self, noderange: str) -> tuple[str, ...]:
        names = expand(noderange, self._catalog.group)
        if len(names) > types.MOST_NODES:
            raise RookeryError(
                f"{len(names)} nodes at once are too many; {types.MOST_NODES} are possible", kind=ErrorKind.TOO_LARGE
            )
        return names

    def find(self, noderange: str) -> tuple[Node, ...]:
        return self._catalog.nodes(self.expand(noderange) if noderange else None)

    def add(self, add: types.AddNodes) -> types.Changes:
        names = self.expand(add.nodes)
        machines = {machine.node: machine for machine in add.machines}
        if len(machines) != len(add.machines):
            raise RookeryError("a node is named twice among the machines", kind=ErrorKind.INVALID)
        if machines and (unlike := set(machines) ^ set(names)):
            strangers, missing = fold(unlike - set(names)), fold(unlike - set(machines))
            parts = [f"{strangers}: not among the nodes {add.nodes}"] if strangers else []
            parts += [f"{missing}: no machine is given"] if missing else []
            raise RookeryError(
                "nodes and machines do not fit together", kind=ErrorKind.INVALID, details="\n".join(parts)
            )
        if "name" in add.settings:
            raise RookeryError("'name' is no setting of new nodes: the noderange names them", kind=ErrorKind.INVALID)
        now = time.time()
        made = []
        for name in names:
            machine = machines.get(name, types.Machine(name))
            plain = Node(name, state_since=now)
            own = {**({"mac": ",".join(machine.macs)} if machine.macs else {})}
            own |= {"address": machine.address} if machine.address else {}
            made.append((plain, settings.changed(plain, {**add.settings, **own}, self._image)))
        self._catalog.add_nodes([node for _, node in made])
        self._services.nodes_changed()
        self._tell(names, "added", "named by the operator")
        return settings.differences(made, applied=True)

    def set(self, change: types.SetNodes) -> types.Changes:
        before = self._catalog.nodes(self.expand(change.nodes))
        if "name" in change.settings and len(before) != 1:
            raise RookeryError(f"{len(before)} nodes cannot have one name", kind=ErrorKind.INVALID)
        for key in ("mac", "address"):
            if change.settings.get(key) and len(before) != 1:
                raise RookeryError(f"{len(before)} nodes cannot have one {key}", kind=ErrorKind.INVALID)
        pairs = [(node, settings.changed(node, change.settings, self._image)) for node in before]
        if change.dry_run:
            self._refuse_taken_name(pairs)
            return settings.differences(pairs, applied=False)
        fields = {was.name: settings.fields_changed(was, becomes) for was, becomes in pairs}
        # What a report changed in the meantime is not among these fields, so it stays.
        self._catalog.update_nodes({name: changed for name, changed in fields.items() if changed})
        self._services.nodes_changed()
        found = settings.differences(pairs, applied=True)
        for item in found.changes:
            self._tell(expand(item.nodes, lambda _group: ()), "set", f"{item.key}: {item.before!r} -> {item.after!r}")
        return found

    def remove(self, noderange: str) -> types.Removed:
        names = self.expand(noderange)
        self._catalog.remove_nodes(names)
        self._services.nodes_changed()
        self._catalog.add_event("head", "removed", f"removed {fold(names)}")
        return types.Removed(names)

    def deploy(self, wanted: types.Deploy) -> types.Changes:
        names = self.expand(wanted.nodes)
        done = self._services.fleet.deploy(names, wanted.image, dry_run=wanted.dry_run)
        before: dict[str, list[str]] = {}
        for name, image in done.changed:
            before.setdefault(image, []).append(name)
        changes = tuple(types.Change(fold(some), "image", was, done.image) for was, some in before.items())
        return types.Changes(fold(names), changes, applied=not wanted.dry_run)

    def stop_seeding(self, noderange: str) -> types.Changes:
        names = self.expand(noderange)
        changed = self._services.fleet.set_seeding(names, allowed=False)
        changes = (types.Change(fold(changed), "may_seed", "true", "false"),) if changed else ()
        return types.Changes(fold(names), changes, applied=True)

    def status(self, noderange: str) -> types.Status:
        nodes = self.find(noderange)
        running = {node.report.version for node in nodes if node.report is not None and node.report.version}
        versions = {}
        for version_id in running:
            try:
                versions[version_id] = self._catalog.version(version_id)
            except RookeryError as error:
                if error.kind is not ErrorKind.NOT_FOUND:
                    raise
        return types.Status(
            time.time(),
            tuple(views.node_status(node) for node in nodes),
            views.states(nodes),
            views.copies(nodes, versions),
        )

    def _image(self, reference: str) -> str:
        version = self._catalog.resolve(reference)
        if version.kind is not VersionKind.IMAGE:
            raise RookeryError(f"{reference} is a {version.kind}, not an image", kind=ErrorKind.INVALID)
        return assigned_reference(reference, version)

    def _refuse_taken_name(self, pairs: Sequence[tuple[Node, Node]]) -> None:
        for was, becomes in pairs:
            if was.name != becomes.name and becomes.name in self._catalog.group("all"):
                raise RookeryError(f"there is a node {becomes.name} already", kind=ErrorKind.CONFLICT)

    def _tell(self, names: Sequence[str], kind: str, message: str) -> None:
        subject = f"node:{names[0]}" if len(names) == 1 else "head"
        self._catalog.add_event(subject, kind, message if len(names) == 1 else f"{fold(names)}: {message}")
