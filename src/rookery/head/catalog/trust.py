# SPDX-License-Identifier: Apache-2.0
"""Other sites' keys in the tables: every function works inside the caller's transaction."""

from __future__ import annotations

import time

from sqlalchemy import Connection, delete, insert, or_, select

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.models import TrustedKeyModel
from rookery.head.catalog.rows import TrustedKey
from rookery.wire.manifest import require_name


def add(connection: Connection, key: str, name: str) -> TrustedKey:
    """Trust a key (64 hex digits) under a name; the same pair again changes nothing. Raises RookeryError `conflict`
    when the name is another key's, or the key has another name."""
    require_name(name, "name")
    same = or_(TrustedKeyModel.key == key, TrustedKeyModel.name == name)
    for row in connection.execute(select(TrustedKeyModel.__table__).where(same)):
        if (row.key, row.name) == (key, name):
            return TrustedKey(row.key, row.name, row.added_at)
        what = f"{name!r} is the name of another key" if row.name == name else f"this key is trusted as {row.name!r}"
        raise RookeryError(what, kind=ErrorKind.CONFLICT, hint=f"first: rookery trust rm {row.name}")
    found = TrustedKey(key, name, time.time())
    connection.execute(insert(TrustedKeyModel), {"key": key, "name": name, "added_at": found.added_at})
    return found


def find(connection: Connection) -> tuple[TrustedKey, ...]:
    """All of them, by name."""
    rows = connection.execute(select(TrustedKeyModel.__table__).order_by(TrustedKeyModel.name))
    return tuple(TrustedKey(row.key, row.name, row.added_at) for row in rows)


def remove(connection: Connection, key: str) -> None:
    """Trust a key no longer; one that is not trusted is no error."""
    connection.execute(delete(TrustedKeyModel).where(TrustedKeyModel.key == key))
