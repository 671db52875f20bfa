# SPDX-License-Identifier: Apache-2.0
"""What the catalog gives and takes: frozen rows, free of the database's own objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rookery.wire.facts import Facts
from rookery.wire.manifest import SignedManifest, VersionKind
from rookery.wire.report import NodeState, Report


@dataclass(frozen=True)
class Node:
    """A machine. image: `name:tag` assigned, or None. address: its fixed IPv4 address, or None. attributes: free
    `key=value` of the operator. state_since, reported_at: seconds since 1970. booted_from: firmware, `bios`/`uefi`.
    version: the one it runs or fetches. started_at: when it got its boot script on this boot (seconds since 1970)."""

    name: str
    macs: tuple[str, ...] = ()
    uuid: str | None = None
    address: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    image: str | None = None
    mode: str = "ram"
    kernel_arguments: str = ""
    state: NodeState = NodeState.NEW
    state_since: float = 0.0
    started_at: float | None = None
    reported_at: float | None = None
    may_seed: bool = True
    version: str | None = None
    report: Report | None = None
    facts: Facts | None = None


@dataclass(frozen=True)
class Standing:
    """Of a node, what decides whether it takes part in the swarm; fields as of Node."""

    name: str
    state: NodeState
    may_seed: bool
    version: str | None


@dataclass(frozen=True)
class Origin:
    """Where an imported version comes from. key: public half of the site key that signed its capsule (64 hex digits).
    image: its name there. exported_at, imported_at: seconds since 1970, by the clocks of that site and of this one.
    manifest: as that site signed it."""

    key: str
    image: str
    exported_at: float
    imported_at: float
    manifest: SignedManifest


@dataclass(frozen=True)
class TagMove:
    """That a tag was made to mean a version, at (seconds since 1970). undone: a rollback took it back."""

    tag: str
    version: str
    at: float
    undone: bool


@dataclass(frozen=True)
class TrustedKey:
    """Another site's public key (64 hex digits) whose capsules are taken, under the operator's name for that site.
    added_at: seconds since 1970."""

    key: str
    name: str
    added_at: float


@dataclass(frozen=True)
class Version:
    """A published version. size: sum of its blobs, bytes. published_at: seconds since 1970. tags: names for it
    within `image`. recipe: the text it was built from, or empty. packages: name -> version, as built. origin: of one
    that was imported."""

    id: str
    image: str
    kind: VersionKind
    published_at: float
    size: int
    manifest: SignedManifest
    tags: tuple[str, ...] = ()
    recipe: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None


@dataclass(frozen=True)
class Image:
    """A named image and its versions, newest first."""

    name: str
    versions: tuple[Version, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened. subject: `node:n01`, `image:base`, `head`. at: seconds since 1970. id grows."""

    id: int
    at: float
    subject: str
    kind: str
    message: str


@dataclass(frozen=True)
class Credential:
    """A credential as stored: only its SHA-256. kind: `operator`, `boot` (one-time), `session` (a node's), `ticket` (a
    fetch). subject: node name, or version id for a ticket, or empty. expires_at: seconds since 1970. used_by: the
    boot_id that spent a boot token."""

    digest: str
    kind: str
    subject: str
    expires_at: float
    used_by: str | None = None


class MirrorState(StrEnum):
    """What the last check said, of a mirror or of one file on it."""

    GOOD = "good"
    MISSING = "missing"  # of a file only: the mirror does not have it (yet)
    BAD = "bad"  # other bytes than were published, or an answer that no client could use
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Mirror:
    """A plain HTTP server that holds copies. url: where they lie (mirrors/address.py tells how). priority: 1 is asked
    first. location: a country (ISO 3166-1, two small letters), or empty. reason: why the state is not `good`.
    checked_at: None before the first check."""

    name: str
    url: str
    priority: int = 10
    location: str = ""
    added_at: float = 0.0
    state: MirrorState = MirrorState.UNREACHABLE
    reason: str = ""
    checked_at: float | None = None


@dataclass(frozen=True)
class MirrorFile:
    """A blob on a mirror, as the last check saw it. etag: the mirror names its content by a strong ETag."""

    sha256: str
    url: str
    state: MirrorState
    reason: str = ""
    etag: bool = False
    checked_at: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where a blob is to be had besides the head; priority and location are the mirror's."""

    mirror: str
    url: str
    priority: int
    location: str = ""
