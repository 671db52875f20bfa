# SPDX-License-Identifier: Apache-2.0
"""Mirrors in the tables: every function works inside the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.database import storable
from rookery.head.catalog.models import MirrorFileModel, MirrorModel
from rookery.head.catalog.noderange import natural_key
from rookery.head.catalog.rows import Mirror, MirrorFile, MirrorState, Place

_ORDER = (MirrorModel.priority, MirrorModel.name)


def add(connection: Connection, mirror: Mirror, found: Sequence[MirrorFile]) -> None:
    """Store a mirror and its files. Raises `conflict` when its name or URL is taken."""
    same = (MirrorModel.name == mirror.name) | (MirrorModel.url == mirror.url)
    there = connection.execute(select(MirrorModel.__table__).where(same)).first()
    if there is not None:
        what = f"the name {mirror.name}" if there.name == mirror.name else f"{mirror.url} as {there.name}"
        raise RookeryError(
            f"there is a mirror with {what} already",
            kind=ErrorKind.CONFLICT,
            hint=f"'rookery mirror rm {there.name}' removes that one",
        )
    connection.execute(insert(MirrorModel), _plain(mirror))
    _files(connection, mirror.name, found)


def mirrors(connection: Connection) -> tuple[Mirror, ...]:
    """All mirrors in the order in which they are asked."""
    return tuple(_mirror(row) for row in connection.execute(select(MirrorModel.__table__).order_by(*_ORDER)))


def mirror(connection: Connection, name: str) -> tuple[Mirror, tuple[MirrorFile, ...]]:
    """A mirror and its files. Raises `not-found`."""
    row = _row(connection, name)
    of_it = select(MirrorFileModel.__table__).where(MirrorFileModel.mirror == name).order_by(MirrorFileModel.url)
    found = (
        MirrorFile(row.sha256, row.url, MirrorState(row.state), row.reason, row.etag, row.checked_at)
        for row in connection.execute(of_it)
    )
    return _mirror(row), tuple(found)


def judge(connection: Connection, mirror: Mirror, found: Sequence[MirrorFile]) -> None:
    """Store what a check said in place of what was there. Nothing happens when the mirror is not there any more."""
    words = {"state": mirror.state.value, "reason": mirror.reason, "checked_at": mirror.checked_at}
    same = (MirrorModel.name == mirror.name, MirrorModel.url == mirror.url)
    if connection.execute(update(MirrorModel).where(*same).values(words)).rowcount:
        connection.execute(delete(MirrorFileModel).where(MirrorFileModel.mirror == mirror.name))
        _files(connection, mirror.name, found)


def remove(connection: Connection, name: str) -> Mirror:
    """Delete a mirror with its files and return it. Raises `not-found`."""
    gone = _mirror(_row(connection, name))
    connection.execute(delete(MirrorModel).where(MirrorModel.name == name))
    return gone


def places(connection: Connection, sha256s: Sequence[str]) -> dict[str, tuple[Place, ...]]:
    """By SHA-256: where good mirrors have that blob, in the order in which they are asked."""
    good = MirrorState.GOOD.value
    statement = (
        select(
            MirrorFileModel.sha256, MirrorFileModel.url, MirrorModel.name, MirrorModel.priority, MirrorModel.location
        )
        .join(MirrorModel, MirrorModel.name == MirrorFileModel.mirror)
        .where(MirrorFileModel.sha256.in_(sha256s), MirrorFileModel.state == good, MirrorModel.state == good)
        .order_by(*_ORDER)
    )
    found: dict[str, list[Place]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.sha256, []).append(Place(row.name, row.url, row.priority, row.location))
    return {sha256: tuple(there) for sha256, there in found.items()}


def _row(connection: Connection, name: str) -> Any:
    row = None
    if storable(name):
        row = connection.execute(select(MirrorModel.__table__).where(MirrorModel.name == name)).one_or_none()
    if row is None:
        known = sorted(connection.execute(select(MirrorModel.name).limit(20)).scalars(), key=natural_key)
        raise RookeryError(
            f"there is no mirror {name[:128]!r}",
            kind=ErrorKind.NOT_FOUND,
            hint=f"there are {', '.join(known)}" if known else "'rookery mirror add NAME URL' registers one",
        )
    return row


def _files(connection: Connection, name: str, found: Sequence[MirrorFile]) -> None:
    rows = [{"mirror": name, **_plain(file)} for file in found]
    if rows:
        connection.execute(insert(MirrorFileModel), rows)


def _plain(row: Mirror | MirrorFile) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "state": row.state.value}


def _mirror(row: Any) -> Mirror:
    return Mirror(
        row.name,
        row.url,
        row.priority,
        row.location,
        row.added_at,
        MirrorState(row.state),
        row.reason,
        row.checked_at,
    )
