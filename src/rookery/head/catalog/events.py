# SPDX-License-Identifier: Apache-2.0
"""Events in the tables: every function works inside the caller's transaction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from rookery.head.catalog.database import EVENTS_LOCK, Database, storable
from rookery.head.catalog.models import EventModel
from rookery.head.catalog.rows import Event

MOST_MESSAGE = 4000
KEPT_SECONDS = 90 * 86400.0


def add(database: Database, connection: Connection, happened: Sequence[tuple[str, str, str]]) -> tuple[Event, ...]:
    """Write (subject, kind, message) as the last thing of a transaction."""
    if not happened:
        return ()
    # Ids are given out before transactions end. Without this lock, who read up to id 8 could miss 7, which came later.
    database.lock(connection, EVENTS_LOCK)
    now = time.time()
    written = []
    for subject, kind, message in happened:
        event = Event(0, now, subject[:255], kind[:64], printable(message))
        row = {"at": now, "subject": event.subject, "kind": event.kind, "message": event.message}
        number = connection.execute(insert(EventModel).returning(EventModel.id), row).scalar_one()
        written.append(dataclasses.replace(event, id=number))
    return tuple(written)


def find(connection: Connection, after: int, subject: str | None, limit: int) -> tuple[Event, ...]:
    """At most `limit` events with an id above `after`, oldest first."""
    statement = select(EventModel.__table__).where(EventModel.id > after).order_by(EventModel.id).limit(limit)
    if subject is not None and not storable(subject):
        return ()
    if subject is not None:
        statement = statement.where(EventModel.subject == subject)
    return tuple(Event(row.id, row.at, row.subject, row.kind, row.message) for row in connection.execute(statement))


def purge(connection: Connection, now: float) -> int:
    """Delete what is older than 90 days; how many events that were."""
    return connection.execute(delete(EventModel).where(EventModel.at < now - KEPT_SECONDS)).rowcount


def printable(message: str) -> str:
    """`message` without what a terminal or a database would not bear: messages quote what machines sent."""
    clean = "".join(character if character.isprintable() else " " for character in message)
    return clean if len(clean) <= MOST_MESSAGE else f"{clean[: MOST_MESSAGE - 3]}..."
