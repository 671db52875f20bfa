# SPDX-License-Identifier: Apache-2.0
"""The acts of the fleet: a machine asks to boot, says hello, takes its orders, reports; the operator deploys.

Thin: credentials.py says who may, states.py what becomes of the node, orders.py what it is told, boot/answer.py what
its firmware gets. Thread-safe, and without memory of its own: a head that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot.answer import BootFiles, BootRequest, answer, refusal
from rookery.head.catalog.catalog import Catalog, Happenings, NodeChange
from rookery.head.catalog.noderange import automatic_name
from rookery.head.catalog.rows import Credential, Node, Standing, Version
from rookery.head.config import Config
from rookery.head.fleet import states
from rookery.head.fleet.credentials import SESSION_SECONDS, Credentials, Kind
from rookery.head.fleet.orders import hosts_lines, kernel_arguments, orders_for
from rookery.wire.manifest import Role, VersionKind, parse_payload
from rookery.wire.orders import Answer, FetchOffer, Hello, Orders, Source, Welcome
from rookery.wire.report import NodeState, Report

MOST_DISCOVERED = 10_000
TICKET_SECONDS = 86400.0
NEW_TICKET = "'rookery ticket NAME' on that head prints a new one"
HOSTS_SECONDS = 1.0


@dataclass(frozen=True)
class Boot:
    """The answer to a machine's firmware. script: for iPXE. node: whose machine it is. files: what it boots, None when
    it has to wait."""

    script: str
    node: Node | None
    files: BootFiles | None


@dataclass(frozen=True)
class Deployment:
    """What `deploy` did, or with dry_run would do. image: as it is assigned. changed: (node, image before or empty).
    same: nodes that had it already. All in natural order."""

    image: str
    version: Version
    changed: tuple[tuple[str, str], ...]
    same: tuple[str, ...]


class Fleet:
    """head: base URL of the head's HTTP (`http://10.0.0.1:8470`). agents: architecture (`uname -m`) -> SHA-256 of its
    agent cpio. seeders: `address:port` of the head's seeders. clock: seconds since 1970."""

    def __init__(
        self,
        catalog: Catalog,
        credentials: Credentials,
        config: Config,
        head: str,
        agents: Mapping[str, str],
        seeders: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._credentials = credentials
        self._config = config
        self._head = head
        self._agents = dict(agents)
        self._seeders = seeders
        self._clock = clock
        self._discovering = threading.Lock()
        self._hosts: tuple[float, tuple[str, ...], int] = (-HOSTS_SECONDS, (), 0)

    # What machines and nodes call

    def boot(self, request: BootRequest) -> Boot:
        """Answer a machine that asks what to boot. One that nobody knows becomes a node in state `discovered`.

        Never raises for what is wrong with a node or its image: the script says it on the machine's screen, and the
        machine asks again. Raises RookeryError `too-large` when there are too many discovered machines already.
        """
        node = self._node_of(request)
        files, trouble = None, ""
        script = answer(request, node, None)
        if node.image is not None:
            try:
                files = self._files(request, node)
                script = answer(request, node, files)
            except RookeryError as error:
                files, trouble = None, error.record.message
                script = refusal(error.record, request.macs[0])
        version = files.version if files else None
        now = self._clock()
        try:
            changed = self._change(node, lambda was: states.asked_to_boot(was, version, now, trouble), version)
        except RookeryError as error:
            if files is None or error.kind is not ErrorKind.NOT_FOUND:
                raise
            # Removed since it was looked up: the machine asks again, and the tag means another one by then.
            return Boot(refusal(error.record, request.macs[0]), node, None)
        return Boot(script, changed, files)

    def hello(self, hello: Hello) -> Welcome:
        """A node's first words. Raises RookeryError `unauthorized` for its token, `invalid` for its boot_id."""
        name, credential = self._credentials.hello(hello.token, hello.boot_id)
        now = self._clock()
        self._catalog.change_nodes([name], lambda node: states.said_hello(node, hello.boot_id, hello.facts, now))
        return Welcome(node=name, credential=credential, seconds=SESSION_SECONDS, time=now)

    def orders(self, name: str, credential: str) -> Orders:
        """The orders of a node that said hello; `credential` is its session's secret, which the orders repeat.

        They are for the version whose kernel it booted, also when a tag has moved since. Raises RookeryError `conflict`
        when it was given none.
        """
        node = self._catalog.node(name)
        if node.version is None:
            raise RookeryError(
                f"node {name} was not given a version to boot",
                kind=ErrorKind.CONFLICT,
                hint=f"assign an image: rookery deploy {name} --image IMAGE",
            )
        version = self._catalog.version(node.version)
        hosts, nodes = self._all_hosts()
        return orders_for(node, version, self._config, self._source(credential, version), hosts, nodes)

    def report(self, name: str, report: Report) -> Answer:
        """Take a node's report and answer it."""
        now = self._clock()
        (node,) = self._catalog.change_nodes([name], lambda was: states.reported(was, report, now))
        return Answer(states.word(node))

    def version_for(self, credential: Credential) -> str | None:
        """The id of the one version whose blobs and swarm are open to a credential; None: every version's.

        Raises RookeryError `forbidden` when none is: a node that is neither on its way up nor allowed to seed.
        """
        return self._version_for(credential, None)

    def versions_for(self, secrets: Sequence[str]) -> list[tuple[Credential, str | None] | RookeryError]:
        """For each secret its credential and what `version_for` says of it, or the error; all by one look-up, since a
        thousand nodes ask in one second."""
        found: list[tuple[Credential, str | None] | RookeryError] = []
        for held in self._credentials.holders(secrets):
            try:
                found.append(held if isinstance(held, RookeryError) else (held[0], self._version_for(*held)))
            except RookeryError as error:
                found.append(error)
        return found

    def _version_for(self, credential: Credential, standing: Standing | None) -> str | None:
        if credential.kind == Kind.OPERATOR:
            return None
        if credential.kind == Kind.TICKET:
            return credential.subject
        node = standing or self._catalog.node(credential.subject)
        if node.version is None or not states.may_fetch(node):
            raise RookeryError(
                f"node {node.name} is {node.state} and takes no part in the swarm", kind=ErrorKind.FORBIDDEN
            )
        return node.version

    def offer(self, reference: str, secret: str) -> FetchOffer:
        """What `rookery fetch` gets for an image reference, with a ticket for that version or as operator.

        Raises RookeryError `unauthorized`, `not-found`, or `forbidden` when the ticket is for another version.
        """
        try:
            credential = self._credentials.require(secret, Kind.TICKET, Kind.OPERATOR)
        except RookeryError as error:
            if error.kind is not ErrorKind.UNAUTHORIZED:
                raise
            message = "the ticket is not known or has expired"
            raise RookeryError(message, kind=ErrorKind.UNAUTHORIZED, hint=NEW_TICKET) from error
        version = self._catalog.resolve(reference)
        if credential.kind == Kind.OPERATOR:
            secret = self._credentials.ticket(version.id, TICKET_SECONDS)
        elif credential.subject != version.id:
            raise RookeryError(
                f"the ticket is for version {credential.subject[:12]}, but {reference[:200]} is {version.id[:12]} now",
                kind=ErrorKind.FORBIDDEN,
                hint="ask for a new ticket on the head, or name the version as NAME@ID",
            )
        return FetchOffer(version.manifest, self._source(secret, version))

    # What the operator calls

    def deploy(self, names: Sequence[str], reference: str, *, dry_run: bool = False) -> Deployment:
        """Assign an image to nodes, from their next boot on; those that wait ask again by themselves and boot it.

        `name` and `name:tag` follow the tag; `name@id` and a bare id stay at that version. Raises RookeryError
        `not-found`, `invalid` for a version that is no image, or `missing` for one that no machine could boot here.
        """
        version = self._catalog.resolve(reference)
        if version.kind is not VersionKind.IMAGE:
            raise RookeryError(
                f"{reference[:200]} is a {version.kind}, not an image that nodes can boot", kind=ErrorKind.INVALID
            )
        if architecture := parse_payload(version.manifest.signed_bytes).architecture:
            self._require_agent(architecture)
        image = assigned_reference(reference, version)

        def assign(node: Node) -> tuple[Node, Happenings]:
            if node.image == image:
                return node, ()
            instead = f" instead of {node.image}" if node.image else ""
            told = f"assigned {image} (now version {version.id[:12]}){instead}, from its next boot on"
            return dataclasses.replace(node, image=image), (("assigned", told),)

        before = self._catalog.nodes(names)
        if not dry_run:
            self._catalog.change_nodes(names, assign, version.id)
        return Deployment(
            image,
            version,
            tuple((node.name, node.image or "") for node in before if node.image != image),
            tuple(node.name for node in before if node.image == image),
        )

    def set_seeding(self, names: Sequence[str], allowed: bool) -> tuple[str, ...]:
        """Whether booted nodes may give to others; they hear it in answer to their next report. Returns those that
        changed. Raises RookeryError `not-found`."""
        told = ("seeding", "may give to others again" if allowed else "told to stop giving to others")
        before = self._catalog.nodes(names)

        def change(node: Node) -> tuple[Node, Happenings]:
            return dataclasses.replace(node, may_seed=allowed), () if node.may_seed is allowed else (told,)

        self._catalog.change_nodes(names, change)
        return tuple(node.name for node in before if node.may_seed is not allowed)

    def _change(self, node: Node, change: NodeChange, needs: str | None) -> Node:
        # A machine that waits asks every few seconds; as long as nothing changes, nothing is written.
        after, happened = change(node)
        if after == node and not happened:
            return node
        return self._catalog.change_nodes([node.name], change, needs)[0]

    def _node_of(self, request: BootRequest) -> Node:
        return self._known(request) or self._discover(request)

    def _known(self, request: BootRequest) -> Node | None:
        return next((node for mac in request.macs if (node := self._catalog.node_by_mac(mac))), None)

    def _discover(self, request: BootRequest) -> Node:
        with self._discovering:
            if known := self._known(request):
                return known
            if self._catalog.count_nodes(NodeState.DISCOVERED) >= MOST_DISCOVERED:
                raise RookeryError(
                    f"there are {MOST_DISCOVERED:,} discovered machines already; {request.macs[0]} is not taken in",
                    kind=ErrorKind.TOO_LARGE,
                    hint="name or remove some: rookery node list, rookery node rm 'x-*'",
                )
            name = self._free_name(request.macs[0])
            node = Node(name, request.macs, request.uuid, state=NodeState.DISCOVERED, state_since=self._clock())
            try:
                self._catalog.add_nodes([node])
            except RookeryError as error:
                # Another head on the same database, or the operator, was faster.
                if error.kind is ErrorKind.CONFLICT and (known := self._known(request)):
                    return known
                raise
        where = f" at {request.address}" if request.address else ""
        self._catalog.add_event(
            f"node:{name}",
            "discovered",
            f"discovered a machine{where}: MAC {', '.join(request.macs)}, {request.architecture}, {request.firmware};"
            " it waits until it is given an image",
        )
        return node

    def _free_name(self, mac: str) -> str:
        # Taken when the operator gave the machine that was named after this MAC another one.
        taken = frozenset(self._catalog.group("all"))
        name, number = automatic_name(mac), 1
        while name in taken:
            number += 1
            name = f"{automatic_name(mac)}-{number}"
        return name

    def _files(self, request: BootRequest, node: Node) -> BootFiles:
        """What an assigned node boots, with a fresh boot token. Raises RookeryError in words for its screen."""
        assert node.image is not None
        version = self._catalog.resolve(node.image)
        if version.kind is not VersionKind.IMAGE:
            raise RookeryError(f"{node.image} is a {version.kind}, not an image", kind=ErrorKind.INVALID)
        manifest = parse_payload(version.manifest.signed_bytes)
        if manifest.architecture and manifest.architecture != request.architecture:
            raise RookeryError(
                f"the machine is {request.architecture}, its image {node.image} is for {manifest.architecture}",
                kind=ErrorKind.INVALID,
                hint=f"assign another image: rookery deploy {node.name} --image IMAGE",
            )
        self._require_agent(request.architecture)
        return BootFiles(
            head=self._head,
            kernel=manifest.blob(Role.KERNEL).sha256,
            drivers=manifest.blob(Role.DRIVERS).sha256,
            agent=self._agents[request.architecture],
            token=self._credentials.boot_token(node.name),
            kernel_arguments=kernel_arguments(node, self._config),
            image=node.image,
            version=version.id,
            architecture=manifest.architecture,
        )

    def _require_agent(self, architecture: str) -> None:
        if architecture not in self._agents:
            raise RookeryError(
                f"this head has no agent for {architecture}, only for {', '.join(self._agents) or 'no architecture'}",
                kind=ErrorKind.MISSING,
                hint=f"take the image to a head that is {architecture}: rookery image export, rookery image import"
                if self._agents
                else "rookery doctor says what it lacks",
            )

    def _source(self, credential: str, version: Version) -> Source:
        sha256s = [blob.sha256 for blob in parse_payload(version.manifest.signed_bytes).blobs]
        places = self._catalog.places(sha256s)
        mirrors = {sha256: tuple(place.url for place in there) for sha256, there in places.items()}
        return Source(self._head, credential, self._seeders, self._config.swarm.node_rate, mirrors)

    def _all_hosts(self) -> tuple[tuple[str, ...], int]:
        """(lines of /etc/hosts, number of nodes), read once a second at most: all nodes of a cluster ask together."""
        read_at, hosts, nodes = self._hosts
        now = time.monotonic()
        if now - read_at >= HOSTS_SECONDS:
            hosts, nodes = hosts_lines(self._catalog.addresses()), len(self._catalog.group("all"))
            self._hosts = (now, hosts, nodes)
        return hosts, nodes


def assigned_reference(reference: str, version: Version) -> str:
    """How an assignment is written down: `name:tag` when the operator named a tag or none, else `name@id`."""
    name, _, tag = reference.partition(":")
    if name == version.image and "@" not in reference:
        return f"{name}:{tag or 'latest'}"
    return f"{version.image}@{version.id[:12]}"
