# SPDX-License-Identifier: Apache-2.0
"""Nodes in the tables: every function works inside the caller's transaction."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from rookery import codec
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.database import storable
from rookery.head.catalog.models import CredentialModel, MacModel, MembershipModel, NodeModel
from rookery.head.catalog.noderange import fold, groups_of, natural_key, require_node_name
from rookery.head.catalog.rows import Node
from rookery.wire.facts import Facts, normalize_mac
from rookery.wire.report import NodeState, Report

# Parameters of one statement are limited (SQLite: 32,766); beyond this many names the whole table is read.
MOST_LISTED = 1000
MOST_ARGUMENTS = 4096
_COLUMNS = NodeModel.__table__.columns
_CREDENTIALS_OF_NODES = ("boot", "session")


def checked(node: Node) -> Node:
    """`node` in the form that is stored: MACs, address and texts normalized. Raises RookeryError `invalid`."""
    require_node_name(node.name)
    try:
        macs = tuple(dict.fromkeys(normalize_mac(mac) for mac in node.macs))
        address = str(ipaddress.IPv4Address(node.address)) if node.address else None
    except ValueError as error:
        raise RookeryError(f"node {node.name}: {error}", kind=ErrorKind.INVALID) from error
    groups_of(node.attributes)
    for what, text, most in (
        ("image", node.image or "", 260),
        ("mode", node.mode, 32),
        ("uuid", node.uuid or "", 36),
        ("version", node.version or "", 64),
        ("kernel arguments", node.kernel_arguments, MOST_ARGUMENTS),
        *((f"attribute {key[:40]!r}", key + value, 1 << 16) for key, value in node.attributes.items()),
    ):
        if len(text) > most or not text.isprintable():
            raise RookeryError(
                f"node {node.name}: {what} is not printable text of at most {most} characters", kind=ErrorKind.INVALID
            )
    return dataclasses.replace(node, macs=macs, address=address, uuid=node.uuid or None, image=node.image or None)


def add(connection: Connection, nodes: Sequence[Node]) -> None:
    """Insert nodes. Raises RookeryError `conflict` that names who has the name, MAC or address already."""
    if not nodes:
        return
    refuse_doubles(nodes)
    names = {node.name for node in nodes}
    if taken := sorted((row.name for row in _rows(connection, names)), key=natural_key):
        raise RookeryError(
            f"{'nodes' if len(taken) > 1 else 'node'} {fold(taken)} exist{'' if len(taken) > 1 else 's'} already",
            kind=ErrorKind.CONFLICT,
            hint="choose another name, or change the node with 'rookery node set'",
        )
    _refuse_taken(connection, nodes, frozenset())
    connection.execute(insert(NodeModel), [_values(node) for node in nodes])
    ids = {row.name: row.id for row in connection.execute(_named(select(NodeModel.id, NodeModel.name), names))}
    _write_macs(connection, {ids[node.name]: node.macs for node in nodes})
    _write_groups(connection, {ids[node.name]: groups_of(node.attributes) for node in nodes})


def find(connection: Connection, names: Sequence[str] | None) -> tuple[Node, ...]:
    """Nodes in natural order; all with None. Raises RookeryError `not-found` that lists the unknown names."""
    return tuple(node for _, node in _found(connection, names, lock=False))


def by_mac(connection: Connection, mac: str) -> Node | None:
    """The node that has a MAC."""
    statement = select(NodeModel.name).join(MacModel, MacModel.node_id == NodeModel.id).where(MacModel.mac == mac)
    name = connection.execute(statement).scalar()
    return find(connection, [name])[0] if name is not None else None


def locked(connection: Connection, names: Sequence[str]) -> list[tuple[int, Node]]:
    """As `find`, with their ids; nobody else can change them until the transaction ends."""
    return _found(connection, names, lock=True)


def replace(connection: Connection, pairs: Sequence[tuple[int, Node, Node]]) -> None:
    """Write what differs between (id, before, after). Raises RookeryError `conflict` as `add` does."""
    pairs = [pair for pair in pairs if pair[1] != pair[2]]
    if not pairs:
        return
    _check_identity(connection, pairs)
    # Addresses that go from one of these nodes to another would be there twice for a moment.
    leaving = [number for number, before, after in pairs if before.address not in (None, after.address)]
    _execute_each(connection, update(NodeModel).values(address=None), NodeModel.id, leaving)
    changes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for number, before, after in pairs:
        old = _values(before)
        different = {key: value for key, value in _values(after).items() if value != old[key]}
        if different:
            changes.setdefault(tuple(different), []).append({"key": number, **different})
    for columns, values in changes.items():
        # A set of columns at a time, so that a thousand nodes that change alike are one statement.
        statement = update(NodeModel.__table__).where(_COLUMNS.id == bindparam("key"))  # type: ignore[arg-type]
        connection.execute(statement.values({column: bindparam(column) for column in columns}), values)
    macs = {number: after.macs for number, before, after in pairs if before.macs != after.macs}
    _execute_each(connection, delete(MacModel), MacModel.node_id, macs)
    _write_macs(connection, macs)
    groups = {number: groups_of(new.attributes) for number, old, new in pairs if old.attributes != new.attributes}
    _execute_each(connection, delete(MembershipModel), MembershipModel.node_id, groups)
    _write_groups(connection, groups)
    for _, before, after in pairs:
        if before.name != after.name:
            connection.execute(_credentials(before.name, update(CredentialModel).values(subject=after.name)))


def remove(connection: Connection, names: Sequence[str]) -> None:
    """Delete nodes and their credentials. Raises RookeryError `not-found`."""
    found = locked(connection, names)
    _execute_each(connection, delete(NodeModel), NodeModel.id, [number for number, _ in found])
    for _, node in found:
        connection.execute(_credentials(node.name, delete(CredentialModel)))


def group(connection: Connection, name: str) -> tuple[str, ...]:
    """The names in a group, in natural order, empty for an unknown one; `all` is every node."""
    statement = select(NodeModel.name)
    if not storable(name):
        return ()
    if name != "all":
        statement = statement.join(MembershipModel, MembershipModel.node_id == NodeModel.id)
        statement = statement.where(MembershipModel.group_name == name)
    return tuple(sorted(connection.execute(statement).scalars(), key=natural_key))


def count(connection: Connection, state: NodeState) -> int:
    """How many nodes are in a state."""
    statement = select(func.count()).select_from(NodeModel).where(NodeModel.state == state.value)
    return connection.execute(statement).scalar_one()


def addresses(connection: Connection) -> tuple[tuple[str, str], ...]:
    """(name, address) of every node that has a fixed address, in natural order of names."""
    statement = select(NodeModel.name, NodeModel.address).where(NodeModel.address.is_not(None))
    rows = connection.execute(statement).all()
    return tuple(sorted(((row[0], row[1] or "") for row in rows), key=lambda pair: natural_key(pair[0])))


def attribute(connection: Connection, key: str) -> tuple[tuple[str, str | None, str], ...]:
    """(name, fixed address or None, value) of every node that has an attribute, in no order."""
    columns = (NodeModel.name, NodeModel.address, NodeModel.attributes)
    # A first choice by text leaves the nodes without it unread.
    rows = connection.execute(select(*columns).where(NodeModel.attributes.contains(json.dumps(key), autoescape=True)))
    found = ((row[0], row[1], cast("dict[str, str]", json.loads(row[2])).get(key)) for row in rows)
    return tuple((name, address, value) for name, address, value in found if value is not None)


def refuse_doubles(nodes: Iterable[Node]) -> None:
    """Raise RookeryError `conflict` when two of `nodes` have one name, MAC or address."""
    names: set[str] = set()
    owners: dict[str, str] = {}
    for node in nodes:
        if node.name in names:
            raise RookeryError(f"node {node.name} is given twice", kind=ErrorKind.CONFLICT)
        names.add(node.name)
        for key in (*node.macs, *([node.address] if node.address else [])):
            if key in owners:
                raise _clash(key, owners[key], node.name)
            owners[key] = node.name


def _check_identity(connection: Connection, pairs: Sequence[tuple[int, Node, Node]]) -> None:
    """Whether names, MACs and addresses may become what `pairs` want."""
    changed = [
        (number, before, after)
        for number, before, after in pairs
        if (before.name, before.macs, before.address) != (after.name, after.macs, after.address)
    ]
    if not changed:
        return
    refuse_doubles(after for _, _, after in changed)
    names = {after.name for _, before, after in changed if after.name != before.name}
    if taken := [row.name for row in _rows(connection, names)] if names else []:
        raise RookeryError(f"node {fold(taken)} exists already", kind=ErrorKind.CONFLICT, hint="choose another name")
    _refuse_taken(connection, [after for _, _, after in changed], frozenset(number for number, _, _ in changed))


def _refuse_taken(connection: Connection, nodes: Sequence[Node], ours: frozenset[int]) -> None:
    """Raise `conflict` when a node that is not among `ours` has a MAC or an address of `nodes`."""
    macs = {mac: node.name for node in nodes for mac in node.macs}
    owners = select(MacModel.mac, NodeModel.name, NodeModel.id).join(NodeModel, MacModel.node_id == NodeModel.id)
    given = {node.address: node.name for node in nodes if node.address}
    users = select(NodeModel.address, NodeModel.name, NodeModel.id).where(NodeModel.address.is_not(None))
    for wanted, statement, column in ((macs, owners, MacModel.mac), (given, users, NodeModel.address)):
        if not wanted:
            continue
        if len(wanted) <= MOST_LISTED:
            statement = statement.where(column.in_(list(wanted)))  # noqa: PLW2901
        for key, owner, number in connection.execute(statement):
            if key in wanted and number not in ours:
                raise _clash(key, owner, wanted[key])


def _clash(key: str, owner: str, other: str) -> RookeryError:
    what = "MAC" if ":" in key else "address"
    return RookeryError(
        f"{what} {key} belongs to node {owner}; node {other} cannot have it too",
        kind=ErrorKind.CONFLICT,
        hint=f"take it from one of them: rookery node set {owner} {'mac' if what == 'MAC' else 'address'}=...",
    )


def _found(connection: Connection, names: Sequence[str] | None, *, lock: bool) -> list[tuple[int, Node]]:
    wanted = None if names is None else set(names)
    rows = _rows(connection, wanted and {name for name in wanted if storable(name)}, lock=lock)
    if wanted is not None and len(rows) != len(wanted):
        missing = wanted - {row.name for row in rows}
        raise RookeryError(
            f"there is no node {_shown(missing)}",
            kind=ErrorKind.NOT_FOUND,
            hint="see 'rookery node list', or add it with 'rookery node add'",
        )
    macs: dict[int, list[str]] = {}
    statement = select(MacModel.node_id, MacModel.mac).order_by(MacModel.node_id, MacModel.position)
    if len(rows) <= MOST_LISTED and wanted is not None:
        statement = statement.where(MacModel.node_id.in_([row.id for row in rows]))
    for number, mac in connection.execute(statement):
        macs.setdefault(number, []).append(mac)
    found = [(row.id, _node(row, tuple(macs.get(row.id, ())))) for row in rows]
    return sorted(found, key=lambda pair: natural_key(pair[1].name))


def _shown(names: set[str]) -> str:
    """Unknown names for a message: they come from a person and need not be names at all."""
    try:
        text = fold(names)
    except Exception:  # noqa: BLE001 - whatever ClusterShell thinks of them
        text = ",".join(sorted(names))
    return text if len(text) <= 200 else f"{text[:197]}..."


def _rows(connection: Connection, names: set[str] | None, *, lock: bool = False) -> list[Any]:
    statement = select(NodeModel.__table__)
    if names is not None:
        statement = _named(statement, names)
    if lock:
        # Always in one order, so that two transactions that lock the same nodes cannot wait for each other.
        statement = statement.order_by(NodeModel.id).with_for_update()
    rows = connection.execute(statement).all()
    return [row for row in rows if names is None or row.name in names]


def _named(statement: Any, names: set[str]) -> Any:
    return statement.where(NodeModel.name.in_(sorted(names))) if len(names) <= MOST_LISTED else statement


def _credentials(name: str, statement: Any) -> Any:
    return statement.where(CredentialModel.subject == name, CredentialModel.kind.in_(_CREDENTIALS_OF_NODES))


def _execute_each(connection: Connection, statement: Any, column: Any, numbers: Iterable[int]) -> None:
    if values := [{"number": number} for number in numbers]:
        connection.execute(statement.where(column == bindparam("number")), values)


def _write_macs(connection: Connection, macs: Mapping[int, tuple[str, ...]]) -> None:
    values = [
        {"mac": mac, "node_id": number, "position": position}
        for number, own in macs.items()
        for position, mac in enumerate(own)
    ]
    if values:
        connection.execute(insert(MacModel), values)


def _write_groups(connection: Connection, groups: Mapping[int, tuple[str, ...]]) -> None:
    values = [{"group_name": name, "node_id": number} for number, own in groups.items() for name in own]
    if values:
        connection.execute(insert(MembershipModel), values)


def _values(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "uuid": node.uuid,
        "address": node.address,
        "attributes": json.dumps(node.attributes),
        "image": node.image,
        "mode": node.mode,
        "kernel_arguments": node.kernel_arguments,
        "state": node.state.value,
        "state_since": node.state_since,
        "started_at": node.started_at,
        "reported_at": node.reported_at,
        "may_seed": node.may_seed,
        "version": node.version,
        "report": None if node.report is None else json.dumps(codec.encode(node.report)),
        "facts": None if node.facts is None else json.dumps(codec.encode(node.facts)),
    }


def _node(row: Any, macs: tuple[str, ...]) -> Node:
    return Node(
        name=row.name,
        macs=macs,
        uuid=row.uuid,
        address=row.address,
        attributes=cast("dict[str, str]", json.loads(row.attributes)),
        image=row.image,
        mode=row.mode,
        kernel_arguments=row.kernel_arguments,
        state=NodeState(row.state),
        state_since=row.state_since,
        started_at=row.started_at,
        reported_at=row.reported_at,
        may_seed=row.may_seed,
        version=row.version,
        report=None if row.report is None else codec.loads(Report, row.report, what=f"report of {row.name}"),
        facts=None if row.facts is None else _facts(row.facts),
    )


@functools.lru_cache(maxsize=16384)
def _facts(text: str) -> Facts:
    # Facts change once a boot and are read with every listing; they hold nothing that could be changed.
    return codec.loads(Facts, text, what="stored facts")
