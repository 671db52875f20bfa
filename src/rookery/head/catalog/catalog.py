# SPDX-License-Identifier: Apache-2.0
"""The catalog: everything that the head remembers, in one database. Every call is one transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import credentials, events, garbage, images, mirrors, nodes, schema, tags, trust
from rookery.head.catalog.database import Database
from rookery.head.catalog.rows import (
    Credential,
    Event,
    Image,
    Mirror,
    MirrorFile,
    Node,
    Place,
    Standing,
    TagMove,
    TrustedKey,
    Version,
)
from rookery.wire.facts import normalize_mac
from rookery.wire.manifest import SignedManifest
from rookery.wire.report import NodeState

Happenings = tuple[tuple[str, str], ...]  # (kind, message) of events about one node
NodeChange = Callable[[Node], tuple[Node, Happenings]]

# What the operator says about a node; the other fields are what the head saw of it.
OPERATOR_FIELDS = ("macs", "uuid", "address", "attributes", "image", "mode", "kernel_arguments", "may_seed")
_FIELDS = frozenset(field.name for field in dataclasses.fields(Node))


class Catalog:
    """Nodes, images, versions, tags, mirrors, events and credentials. Thread-safe and blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Catalog:
        """Open the catalog at an SQLAlchemy URL, creating or upgrading its tables.

        Raises RookeryError: `invalid` for the URL, `unavailable` when the database does not answer, `conflict` when it
        is of a newer release or of another program.
        """
        database = Database(url)
        try:
            schema.upgrade(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # Nodes

    def add_nodes(self, added: Sequence[Node]) -> None:
        """Add all or none. Raises `conflict` that names both nodes when a name, MAC or address is taken."""
        whole = [nodes.checked(node) for node in added]
        self._database.write(lambda connection: nodes.add(connection, whole))

    def nodes(self, names: Sequence[str] | None = None) -> tuple[Node, ...]:
        """Nodes in natural order of names; all of them with None. Raises `not-found` that lists the unknown names."""
        with self._database.reading() as connection:
            return nodes.find(connection, names)

    def node(self, name: str) -> Node:
        """One node. Raises RookeryError `not-found`."""
        return self.nodes([name])[0]

    def node_by_mac(self, mac: str) -> Node | None:
        """The node that has this MAC, in any spelling."""
        try:
            normal = normalize_mac(mac)
        except ValueError as error:
            raise RookeryError(str(error), kind=ErrorKind.INVALID) from error
        with self._database.reading() as connection:
            return nodes.by_mac(connection, normal)

    def update_node(self, name: str, /, **changes: object) -> Node:
        """Set fields of rows.Node and return the node as it is then; also `name`: its credentials go with it.

        Other callers' changes of other fields in the meantime stay. Raises `not-found`, `conflict`, `invalid`.
        """
        return self.update_nodes({name: changes})[0]

    def update_nodes(self, changes: Mapping[str, Mapping[str, object]]) -> tuple[Node, ...]:
        """As `update_node` for many (name -> field -> value), all or none."""
        if unknown := sorted({field for fields in changes.values() for field in fields} - _FIELDS):
            raise RookeryError(f"a node has no field {unknown[0]!r}", kind=ErrorKind.INVALID)
        return self.change_nodes(
            list(changes),
            lambda node: (dataclasses.replace(node, **changes[node.name]), ()),  # type: ignore[arg-type]
        )

    def change_nodes(self, names: Sequence[str], change: NodeChange, needs: str | None = None) -> tuple[Node, ...]:
        """Read nodes, let the pure function `change` say what becomes of each and what happened, and write both.

        One transaction: nobody else changes these nodes in between. `change` may be called more than once for a node.
        Events get the subject `node:NAME`. Returns the nodes as they are then, in natural order of their old names.
        needs: id of a version that must still be there when this is written, or RookeryError `not-found` is raised.
        """

        def work(connection: Connection) -> tuple[Node, ...]:
            if needs is not None:
                images.hold(connection, needs)
            pairs: list[tuple[int, Node, Node]] = []
            happened: list[tuple[str, str, str]] = []
            for number, before in nodes.locked(connection, names):
                after, told = change(before)
                pairs.append((number, before, after if after == before else nodes.checked(after)))
                happened += [(f"node:{after.name}", kind, message) for kind, message in told]
            nodes.replace(connection, pairs)
            events.add(self._database, connection, happened)
            return tuple(after for _, _, after in pairs)

        return self._database.write(work)

    def replace_nodes(self, replaced: Sequence[Node]) -> None:
        """Make the operator's fields of existing nodes (OPERATOR_FIELDS) as in `replaced`, all or none.

        State, report and the like stay as the head sees them, which may be newer than the caller's. MACs and addresses
        may be swapped between these nodes. Raises `not-found`, `conflict`, `invalid`.
        """
        wanted = {node.name: {field: getattr(node, field) for field in OPERATOR_FIELDS} for node in replaced}
        if len(wanted) != len(replaced):
            nodes.refuse_doubles(replaced)
        self.update_nodes(wanted)

    def remove_nodes(self, names: Sequence[str]) -> None:
        """Remove nodes and their credentials, all or none. Raises `not-found`."""
        self._database.write(lambda connection: nodes.remove(connection, names))

    def group(self, name: str) -> tuple[str, ...]:
        """Names of the nodes whose attribute `groups` lists this group, in natural order; `all` is every node."""
        with self._database.reading() as connection:
            return nodes.group(connection, name)

    def count_nodes(self, state: NodeState) -> int:
        """How many nodes are in a state."""
        with self._database.reading() as connection:
            return nodes.count(connection, state)

    def addresses(self) -> tuple[tuple[str, str], ...]:
        """(name, address) of the nodes that have a fixed address, in natural order."""
        with self._database.reading() as connection:
            return nodes.addresses(connection)

    def attribute(self, key: str) -> tuple[tuple[str, str | None, str], ...]:
        """(name, fixed address or None, value) of every node that has this attribute, in no order."""
        with self._database.reading() as connection:
            return nodes.attribute(connection, key)

    # Images

    def add_version(self, version: Version, tag: str | None = images.DEFAULT_TAG) -> None:
        """Store a version under its image, its tags and `tag` pointing at it; the same one again only moves tags."""
        self._database.write(lambda connection: images.add(connection, version, tag))

    def replace_manifest(self, image: str, version_id: str, manifest: SignedManifest) -> None:
        """Store another manifest for a version of an image, as when it is signed anew. Raises `not-found`."""
        self._database.write(lambda connection: images.replace_manifest(connection, image, version_id, manifest))

    def version(self, version_id: str) -> Version:
        """The version with this id; of several images that have it, the one that had it first. Raises `not-found`."""
        with self._database.reading() as connection:
            return images.by_id(connection, version_id)

    def resolve(self, reference: str) -> Version:
        """What `name`, `name:tag`, `name@id` or a bare id means now; ids may be cut to 8 digits or more.

        Raises RookeryError `not-found`, or `conflict` when it means several.
        """
        with self._database.reading() as connection:
            return images.resolve(connection, reference)

    def images(self) -> tuple[Image, ...]:
        """All images in natural order, each with its versions, newest first."""
        with self._database.reading() as connection:
            return images.images(connection)

    def image(self, name: str) -> Image:
        """One image. Raises RookeryError `not-found`."""
        with self._database.reading() as connection:
            return images.image(connection, name)

    def tag(self, image: str, tag: str, version_id: str) -> None:
        """Point a tag at a version (id or 8 digits or more) of the image. Raises `not-found`."""
        self._database.write(lambda connection: images.move_tag(connection, image, tag, version_id))

    def named(self, image: str, word: str) -> Version:
        """The version of an image that a tag or the first digits of an id mean. Raises as `resolve`."""
        with self._database.reading() as connection:
            return images.named(connection, image, word)

    def remove_tag(self, image: str, tag: str) -> Version:
        """Delete a tag and return the version that it meant. Raises `not-found`, or `conflict` while nodes are assigned
        to it."""
        return self._database.write(lambda connection: images.remove_tag(connection, image, tag))

    def tag_moves(self, image: str) -> tuple[TagMove, ...]:
        """What the tags of an image were made to mean, oldest first."""
        with self._database.reading() as connection:
            return tags.moves(connection, image)

    def roll_back(self, image: str, tag: str, to: str | None = None) -> tuple[str, str]:
        """Let a tag mean what it meant before, or the version `to` (a whole id); returns the ids (before, now).

        Raises `not-found` for the tag, `conflict` when there is nothing to go back to.
        """
        return self._database.write(lambda connection: tags.roll_back(connection, image, tag, to))

    def collect(self, keep: int, held: Mapping[str, str], now: float, *, dry_run: bool) -> garbage.Sorted:
        """Remove the versions that nobody needs, or with dry_run only say which; see garbage.py for what stays."""

        def work(connection: Connection) -> garbage.Sorted:
            images.lock(connection)
            found = garbage.sort(connection, keep, held, now)
            garbage.remove(connection, found.going)
            return found

        if dry_run:
            with self._database.reading() as connection:
                return garbage.sort(connection, keep, held, now)
        return self._database.write(work)

    def remove_image(self, name: str) -> tuple[Version, ...]:
        """Remove an image; returns its versions. Raises `not-found`, or `conflict` while a node needs one of them."""
        return self._database.write(lambda connection: images.remove_image(connection, name))

    def remove_version(self, version_id: str, image: str | None = None) -> tuple[Version, ...]:
        """Remove a version with its tags, under `image` or under every image that has it; returns these. Raises as
        `remove_image`."""
        return self._database.write(lambda connection: images.remove_version(connection, version_id, image))

    # Mirrors

    def add_mirror(self, mirror: Mirror, found: Sequence[MirrorFile] = ()) -> None:
        """Store a mirror and what a check found on it. Raises `conflict` when its name or URL is taken."""
        self._database.write(lambda connection: mirrors.add(connection, mirror, found))

    def mirrors(self) -> tuple[Mirror, ...]:
        """All mirrors, those that are asked first at the top."""
        with self._database.reading() as connection:
            return mirrors.mirrors(connection)

    def mirror(self, name: str) -> tuple[Mirror, tuple[MirrorFile, ...]]:
        """A mirror and its files. Raises `not-found`."""
        with self._database.reading() as connection:
            return mirrors.mirror(connection, name)

    def judge_mirror(self, mirror: Mirror, found: Sequence[MirrorFile]) -> None:
        """Store what a check said of a mirror and of its files, in place of what was there; one that was removed
        meanwhile stays removed."""
        self._database.write(lambda connection: mirrors.judge(connection, mirror, found))

    def remove_mirror(self, name: str) -> Mirror:
        """Remove a mirror and return it. Raises `not-found`."""
        return self._database.write(lambda connection: mirrors.remove(connection, name))

    def places(self, sha256s: Sequence[str]) -> dict[str, tuple[Place, ...]]:
        """By SHA-256 of a blob: where good mirrors have it, those that are asked first at the top."""
        with self._database.reading() as connection:
            return mirrors.places(connection, sha256s)

    # Other sites' keys

    def trusted_keys(self) -> tuple[TrustedKey, ...]:
        """The keys of other sites whose capsules are taken, by name."""
        with self._database.reading() as connection:
            return trust.find(connection)

    def trust(self, key: str, name: str) -> TrustedKey:
        """Trust a key under a name. Raises `conflict` when one of them is taken."""
        return self._database.write(lambda connection: trust.add(connection, key, name))

    def distrust(self, key: str) -> None:
        """Trust a key no longer."""
        self._database.write(lambda connection: trust.remove(connection, key))

    # Events

    def add_event(self, subject: str, kind: str, message: str) -> Event:
        """Remember that something happened, now."""
        return self._database.write(
            lambda connection: events.add(self._database, connection, [(subject, kind, message)])[0]
        )

    def events(self, after: int = 0, subject: str | None = None, limit: int = 1000) -> tuple[Event, ...]:
        """At most `limit` events with an id above `after`, oldest first; reading on from the last id misses none."""
        with self._database.reading() as connection:
            return events.find(connection, after, subject, limit)

    # Credentials: what they mean is fleet/credentials.py

    def add_credential(self, credential: Credential, keep: int | None = None) -> None:
        """Store a credential; with `keep`, only so many of its kind and subject stay: those that expire last."""
        self._database.write(lambda connection: credentials.add(connection, credential, keep))

    def credential(self, digest: str) -> Credential | None:
        """The credential with this digest, also when it has expired."""
        with self._database.reading() as connection:
            return credentials.find(connection, digest)

    def holders(self, digests: Sequence[str]) -> dict[str, tuple[Credential, Standing | None]]:
        """By digest: the credential, also when it has expired, and of a session how its node stands. Those that are not
        there are left out."""
        with self._database.reading() as connection:
            return credentials.holders(connection, digests)

    def spend(self, digest: str, boot_id: str) -> bool:
        """Bind a boot token to the boot that shows it; False when another boot had it first, or there is none."""
        return self._database.write(lambda connection: credentials.spend(connection, digest, boot_id))

    def supersede(self, token: Credential, boot_id: str) -> None:
        """End what the token's node had before this boot: sessions of other boots, and boot tokens before this one."""
        self._database.write(lambda connection: credentials.supersede(connection, token, boot_id))

    def remove_credentials(self, kind: str, subject: str | None = None) -> int:
        """Remove all of a kind, of one subject or of all; how many that were."""
        return self._database.write(lambda connection: credentials.remove(connection, kind, subject))

    def purge(self, now: float) -> int:
        """Remove expired credentials and events older than 90 days; how many credentials that were."""

        def work(connection: Connection) -> int:
            events.purge(connection, now)
            return credentials.purge(connection, now)

        return self._database.write(work)
