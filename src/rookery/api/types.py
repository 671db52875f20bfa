# SPDX-License-Identifier: Apache-2.0
"""What operator and head say to each other, as frozen dataclasses: the bodies of every route in routes.py.

Times are seconds since 1970 (UTC), sizes bytes, durations seconds. A noderange is ClusterShell NodeSet text
(`n[001-100]`, `@gpu`, `a!b`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from rookery.api.files import OfferedVersion
from rookery.codec import Length, Range
from rookery.errors import ErrorRecord

Noderange = Annotated[str, Length(8192)]
Name = Annotated[str, Length(255)]
Short = Annotated[str, Length(128)]
HeadPath = Annotated[str, Length(4096)]
Count = Annotated[int, Range(0, 2**63)]

MOST_NODES = 20_000
MOST_CHANGES = 64
MOST_EVENTS = 1000


@dataclass(frozen=True)
class Machine:
    """The machine that a node is. macs: in any usual spelling. address: its fixed IPv4 address, or empty."""

    node: Name
    macs: Annotated[tuple[Short, ...], Length(64)] = ()
    address: Short = ""


@dataclass(frozen=True)
class AddNodes:
    """Nodes to add, all or none. machines: which machines they are: none, or one for each node. settings: `key=value`
    for each of them, as in SetNodes."""

    nodes: Noderange
    machines: Annotated[tuple[Machine, ...], Length(MOST_NODES)] = ()
    settings: Annotated[dict[str, str], Length(MOST_CHANGES)] = field(default_factory=dict)


@dataclass(frozen=True)
class SetNodes:
    """Settings to change. The keys `name`, `mac`, `address`, `image`, `mode`, `kernel_arguments` and `may_seed` are the
    node's own; every other key is an attribute; an empty value takes the setting away."""

    nodes: Noderange
    settings: Annotated[dict[str, str], Length(MOST_CHANGES)]
    dry_run: bool = False


@dataclass(frozen=True)
class Deploy:
    """Give nodes an image (`name`, `name:tag`), from their next boot on. A node that waits boots at once."""

    nodes: Noderange
    image: Name
    dry_run: bool = False


@dataclass(frozen=True)
class StopSeeding:
    """Nodes that shall stop giving to others."""

    nodes: Noderange


@dataclass(frozen=True)
class Change:
    """One setting that changes in the same way on all of `nodes` (folded). before and after: empty for not set."""

    nodes: str
    key: str
    before: str
    after: str


@dataclass(frozen=True)
class Changes:
    """What a call changed, or with dry_run would change. nodes: every node it was about, folded."""

    nodes: str
    changes: tuple[Change, ...]
    applied: bool


@dataclass(frozen=True)
class Transfer:
    """How a node's fetch stands: bytes, but `rate` (bytes per second, now), `peers` and `hash_failures` (counts).
    from_head_http is the part of from_head that came by HTTP; had is the part of done that was there before, or came
    out of an older version."""

    total: int = 0
    done: int = 0
    from_head: int = 0
    from_head_http: int = 0
    from_peers: int = 0
    had: int = 0
    sent: int = 0
    rate: float = 0.0
    peers: int = 0
    hash_failures: int = 0


@dataclass(frozen=True)
class Node:
    """A node as the catalog has it.

    state: new, discovered, waiting, booting, provisioning, ready or failed. image: `name:tag` assigned. version: the id
    of the one it runs or fetches. started_at: when it got its boot script; reported_at: its last report.
    """

    name: str
    state: str
    state_since: float
    macs: tuple[str, ...] = ()
    uuid: str = ""
    address: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    image: str = ""
    mode: str = ""
    kernel_arguments: str = ""
    may_seed: bool = True
    version: str = ""
    started_at: float | None = None
    reported_at: float | None = None


@dataclass(frozen=True)
class NodeDetails:
    """A node with what it found out about its hardware: `facts` as in wire/facts.Facts, or null before its hello."""

    node: Node
    facts: dict[str, object] | None = None


@dataclass(frozen=True)
class Nodes:
    """Nodes in natural order of their names."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class NodeStatus:
    """How a node comes up. step: as in wire/report.Step, empty before the first report. seconds: of each finished
    step. attempt: how often the step was tried. error: why it failed, if it did. system: what systemd says of the
    booted node. seeding: whether it gives to others now."""

    name: str
    state: str
    state_since: float
    image: str = ""
    version: str = ""
    step: str = ""
    attempt: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    transfer: Transfer = field(default_factory=Transfer)
    error: ErrorRecord | None = None
    seeding: bool = False
    system: str = ""
    started_at: float | None = None
    reported_at: float | None = None


@dataclass(frozen=True)
class Copies:
    """What the head sent of one version to the nodes of a status. size: of its root, bytes. sent: bytes that these
    nodes received from the head. copies: sent / size. nodes: how many received any of it."""

    version: str
    image: str
    size: int
    sent: int
    copies: float
    nodes: int


@dataclass(frozen=True)
class StateCount:
    """The nodes of a status that are in one state, folded, and how many they are."""

    state: str
    nodes: str
    count: int


@dataclass(frozen=True)
class Status:
    """The nodes asked for, and what the head sent for them. at: the head's clock. states: in the order of a journey."""

    at: float
    nodes: tuple[NodeStatus, ...]
    states: tuple[StateCount, ...] = ()
    copies: tuple[Copies, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened. subject: `node:n01`, `image:base`, `head`. id grows."""

    id: int
    at: float
    subject: str
    kind: str
    message: str


@dataclass(frozen=True)
class Events:
    """Events in order. last: the id to ask `after` next time."""

    events: tuple[Event, ...]
    last: int


@dataclass(frozen=True)
class Blob:
    """One file of a version. role: root, kernel, drivers or data. info_hash: v2, or empty when only HTTP carries it."""

    role: str
    name: str
    size: int
    sha256: str
    info_hash: str = ""


@dataclass(frozen=True)
class Version:
    """One immutable published version. kind: image, file or tree. size: of all its blobs."""

    id: str
    image: str
    kind: str
    published_at: float
    size: int
    tags: tuple[str, ...] = ()
    architecture: str = ""
    kernel_release: str = ""
    blobs: tuple[Blob, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where an imported version comes from. key: of the site that signed its capsule, and its fingerprint. image: its
    name there. created: when it was built; exported_at, imported_at: when its capsule was written and taken in."""

    key: str
    fingerprint: str
    image: str
    created: float
    exported_at: float
    imported_at: float


@dataclass(frozen=True)
class VersionDetails:
    """A version with the recipe it was built from and its packages (name -> version). origin: of an imported one."""

    version: Version
    recipe: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None


@dataclass(frozen=True)
class Image:
    """A named image and its versions, newest first."""

    name: str
    versions: tuple[Version, ...] = ()


@dataclass(frozen=True)
class Images:
    """All images."""

    images: tuple[Image, ...]


@dataclass(frozen=True)
class SetTag:
    """A name for a version. version: an id or its first 8 digits or more, or another tag of the same image."""

    tag: Short
    version: Short


@dataclass(frozen=True)
class Removed:
    """What a call removed: names of nodes, or ids of versions."""

    removed: tuple[str, ...]


@dataclass(frozen=True)
class Build:
    """An image to build. recipe: its text; path: the file it came from, for messages; base: the directory on the head
    that its relative paths start from. on: `[user@]host` of another machine that is to build it, empty for the head;
    ssh_options: for `ssh -o` then; accept_new: take that machine's host key when it was never seen."""

    name: Short
    recipe: Annotated[str, Length(1 << 20)]
    path: HeadPath = "recipe"
    base: HeadPath = ""
    tag: Short = "latest"
    on: Short = ""
    ssh_options: Annotated[tuple[Annotated[str, Length(1024)], ...], Length(32)] = ()
    accept_new: bool = False


@dataclass(frozen=True)
class Publish:
    """A file or directory on the head to publish under a name."""

    source: HeadPath
    name: Short
    tag: Short = "latest"


@dataclass(frozen=True)
class Verify:
    """A version to be read and checked: `name[:tag]`, `name@id` or an id."""

    image: Short


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobProgress:
    """Where a piece of work stands. done of total in `unit` (`bytes` or `steps`); total 0: not known. line: the latest
    line that a tool printed."""

    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = "steps"
    line: str = ""


@dataclass(frozen=True)
class Job:
    """A long piece of work on the head. kind: `build`, `publish`, `verify`, `compare`, `export`, `import` and others.
    subject: the image's name. version: the id that came of it, when done. error: when failed or cancelled. revision
    grows with every change: wait for a newer one."""

    id: str
    kind: str
    subject: str
    state: JobState
    revision: int
    started_at: float
    ended_at: float | None = None
    progress: JobProgress = field(default_factory=JobProgress)
    version: str = ""
    error: ErrorRecord | None = None


@dataclass(frozen=True)
class Jobs:
    """Running jobs and the last finished ones, newest first."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class NewTicket:
    """A ticket for `rookery fetch`: whoever has it may fetch this one version until it expires."""

    image: Name
    seconds: Annotated[int, Range(60, 10 * 365 * 86400)] = 7 * 86400


@dataclass(frozen=True)
class Ticket:
    """url: with the ticket in it, for `rookery fetch`. key: the site's public key (64 hex digits). offer: the same
    version for clients that are not ours."""

    url: str
    key: str
    version: str
    expires_at: float
    offer: OfferedVersion


@dataclass(frozen=True)
class SeedStats:
    """A blob that the head gives to the swarm. sent: payload bytes since the head started. peers: connections now.
    bad_pieces: how many pieces of the head's own copy are wrong (they are not given)."""

    sha256: str
    info_hash: str
    sent: int
    peers: int
    bad_pieces: int = 0


@dataclass(frozen=True)
class Head:
    """The head. url: where nodes reach it. key: the site's public key. started_at, now: its clock. http_sent: bytes of
    blobs that went out by HTTP, and agent_size: of the cpio that every node boots."""

    version: str
    url: str
    key: str
    directory: str
    interface: str
    address: str
    port: int
    swarm_port: int
    dhcp: str
    started_at: float
    now: float
    relay_port: int = 0
    agent_size: int = 0
    seeding: tuple[SeedStats, ...] = ()
    http_sent: int = 0
