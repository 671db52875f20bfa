# SPDX-License-Identifier: Apache-2.0
"""What the catalog holds, as the operator's API shows it; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rookery import codec
from rookery.api import types
from rookery.head.catalog import rows
from rookery.head.catalog.noderange import fold
from rookery.head.jobs import JobRecord
from rookery.head.swarm.seeder import Given
from rookery.wire.capsule import fingerprint
from rookery.wire.manifest import Manifest, Role, parse_payload
from rookery.wire.report import NodeState, Transfer

_FETCHED = (Role.ROOT, Role.DATA)  # the blob of a version that the swarm carries


def node(row: rows.Node) -> types.Node:
    """A node."""
    return types.Node(
        name=row.name,
        state=row.state,
        state_since=row.state_since,
        macs=row.macs,
        uuid=row.uuid or "",
        address=row.address or "",
        attributes=row.attributes,
        image=row.image or "",
        mode=row.mode,
        kernel_arguments=row.kernel_arguments,
        may_seed=row.may_seed,
        version=row.version or "",
        started_at=row.started_at,
        reported_at=row.reported_at,
    )


def node_details(row: rows.Node) -> types.NodeDetails:
    """A node with its facts."""
    return types.NodeDetails(node(row), codec.encode(row.facts) if row.facts is not None else None)


def node_status(row: rows.Node) -> types.NodeStatus:
    """How a node comes up."""
    report = row.report
    status = types.NodeStatus(
        name=row.name,
        state=row.state,
        state_since=row.state_since,
        image=row.image or "",
        version=row.version or "",
        started_at=row.started_at,
        reported_at=row.reported_at,
    )
    if report is None:
        return status
    return types.NodeStatus(
        **{
            **vars(status),
            "step": report.step,
            "attempt": report.attempt,
            "seconds": report.seconds,
            "transfer": transfer(report.transfer),
            "error": report.error,
            "seeding": report.seeding,
            "system": report.system,
        }
    )


def transfer(row: Transfer) -> types.Transfer:
    """How a fetch stands."""
    return types.Transfer(**vars(row))


def states(nodes: Iterable[rows.Node]) -> tuple[types.StateCount, ...]:
    """Nodes folded by state, in the order of a journey."""
    by_state: dict[NodeState, list[str]] = {}
    for row in nodes:
        by_state.setdefault(row.state, []).append(row.name)
    return tuple(
        types.StateCount(state, fold(by_state[state]), len(by_state[state])) for state in NodeState if state in by_state
    )


def copies(nodes: Sequence[rows.Node], versions: Mapping[str, rows.Version]) -> tuple[types.Copies, ...]:
    """What these nodes say they received from the head, in copies of each version's root.

    versions: by id; a version that is not there any more is left out.
    """
    sent: dict[str, list[int]] = {}
    for row in nodes:
        if row.report is not None and row.report.version in versions and row.report.transfer.total:
            sent.setdefault(row.report.version, []).append(row.report.transfer.from_head)
    found = []
    for version_id, amounts in sent.items():
        size = carried_size(manifest(versions[version_id]))
        image = versions[version_id].image
        share = sum(amounts) / size if size else 0.0
        found.append(types.Copies(version_id, image, size, sum(amounts), round(share, 4), len(amounts)))
    return tuple(sorted(found, key=lambda item: item.image))


def manifest(row: rows.Version) -> Manifest:
    """The manifest of a version. It is our own, so its signature is not checked again."""
    return parse_payload(row.manifest.signed_bytes)


def carried_size(of: Manifest) -> int:
    """Bytes of what the swarm carries of a version."""
    return sum(blob.size for blob in of.blobs if blob.role in _FETCHED)


def event(row: rows.Event) -> types.Event:
    """An event."""
    return types.Event(row.id, row.at, row.subject, row.kind, row.message)


def version(row: rows.Version) -> types.Version:
    """A version with its blobs."""
    whole = manifest(row)
    return types.Version(
        id=row.id,
        image=row.image,
        kind=row.kind,
        published_at=row.published_at,
        size=row.size,
        tags=row.tags,
        architecture=whole.architecture,
        kernel_release=whole.kernel_release,
        blobs=tuple(types.Blob(b.role, b.name, b.size, b.sha256, b.info_hash) for b in whole.blobs),
    )


def version_details(row: rows.Version) -> types.VersionDetails:
    """A version with what it was built from."""
    return types.VersionDetails(version(row), row.recipe, row.packages, _origin(row.origin) if row.origin else None)


def _origin(row: rows.Origin) -> types.Origin:
    created = parse_payload(row.manifest.signed_bytes).created
    return types.Origin(row.key, fingerprint(row.key), row.image, float(created), row.exported_at, row.imported_at)


def image(row: rows.Image) -> types.Image:
    """An image with its versions."""
    return types.Image(row.name, tuple(version(item) for item in row.versions))


def seeding(given: Given) -> types.SeedStats:
    """What the seeder gives of a blob."""
    return types.SeedStats(given.sha256, given.info_hash, given.sent, given.peers, len(given.bad_pieces))


def job(record: JobRecord) -> types.Job:
    """A job."""
    return types.Job(
        id=record.id,
        kind=record.kind,
        subject=record.subject,
        state=types.JobState(record.state),
        revision=record.revision,
        started_at=record.started_at,
        ended_at=record.ended_at,
        progress=types.JobProgress(**vars(record.progress)),
        version=record.result,
        error=record.error,
    )
