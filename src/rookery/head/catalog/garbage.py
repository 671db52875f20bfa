# SPDX-License-Identifier: Apache-2.0
"""Which versions nobody needs any more: decided and deleted in the caller's one transaction, so that whoever tags,
deploys or boots a version does so before, and it stays, or after, and is told that it is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from rookery.head.catalog import images
from rookery.head.catalog.models import CredentialModel, ImageModel, NodeModel, VersionModel
from rookery.head.catalog.noderange import fold
from rookery.head.catalog.rows import Version
from rookery.wire.report import NodeState


@dataclass(frozen=True)
class Sorted:
    """The versions of all images: going, and staying with the reason for each. Newest first."""

    going: tuple[Version, ...]
    staying: tuple[tuple[Version, str], ...]


def sort(connection: Connection, keep: int, held: Mapping[str, str], now: float) -> Sorted:
    """Sort all versions into those that go and those that stay.

    What stays: what has a tag, is among the `keep` newest of its image, is assigned to a node or run by one, has a
    ticket that still holds, or is in `held` (id -> why). now: seconds since 1970.
    """
    versions = images.find(connection)
    by_row = _assigned(connection)
    by_id = {**_tickets(connection, now), **_running(connection), **held}
    seen: dict[str, int] = {}
    going, staying = [], []
    for version in versions:
        place = seen[version.image] = seen.get(version.image, 0) + 1
        reason = ""
        if version.tags:
            reason = f"tagged {', '.join(version.tags)}"
        elif place <= keep:
            reason = f"among the {keep} newest of {version.image}"
        elif nodes := by_row.get((version.image, version.id)):
            reason = f"assigned to {fold(nodes)}"
        elif version.id in by_id:
            reason = by_id[version.id]
        if reason:
            staying.append((version, reason))
        else:
            going.append(version)
    return Sorted(tuple(going), tuple(staying))


def remove(connection: Connection, versions: tuple[Version, ...]) -> None:
    """Delete versions, and images that have nothing left."""
    for version in versions:
        key = (VersionModel.image == version.image, VersionModel.id == version.id)
        connection.execute(delete(VersionModel).where(*key))
    left = select(VersionModel.id).where(VersionModel.image == ImageModel.name).exists()
    names = {version.image for version in versions}
    connection.execute(delete(ImageModel).where(ImageModel.name.in_(names), ~left))


def _assigned(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """(image, version id) -> names of the nodes to which it is assigned now."""
    found: dict[tuple[str, str], list[str]] = {}
    meanings: dict[str, tuple[str, str] | None] = {}
    for name, reference in connection.execute(select(NodeModel.name, NodeModel.image)):
        if reference is None:
            continue
        if reference not in meanings:
            meanings[reference] = images.meant(connection, reference)
        if (meaning := meanings[reference]) is not None:
            found.setdefault(meaning, []).append(name)
    return found


def _running(connection: Connection) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, version_id, state in connection.execute(select(NodeModel.name, NodeModel.version, NodeModel.state)):
        if version_id is not None and NodeState(state) in images.RUNNING:
            found.setdefault(version_id, []).append(name)
    return {version_id: f"run by {fold(names)}" for version_id, names in found.items()}


def _tickets(connection: Connection, now: float) -> dict[str, str]:
    held = (CredentialModel.kind == "ticket", CredentialModel.expires_at > now)
    subjects = connection.execute(select(CredentialModel.subject).where(*held).distinct()).scalars()
    return dict.fromkeys(subjects, "somebody holds a ticket for it")
