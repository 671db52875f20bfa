# SPDX-License-Identifier: Apache-2.0
"""What tags meant, one after the other: the record that `rollback` goes back by. Every function works inside the
caller's transaction."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, insert, select, update

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.models import TagModel, TagMoveModel, VersionModel
from rookery.head.catalog.rows import TagMove
from rookery.wire.manifest import require_name


def move(connection: Connection, image: str, tag: str, version_id: str) -> None:
    """Point a tag at a version of the image, which is there, and remember that. The same version again is no move."""
    key = (TagModel.image == image, TagModel.name == tag)
    before = connection.execute(select(TagModel.version_id).where(*key)).scalar()
    if before == version_id:
        return
    _point(connection, image, tag, version_id)
    row = {"image": image, "name": tag, "version_id": version_id, "at": time.time(), "undone": False}
    connection.execute(insert(TagMoveModel), row)


def moves(connection: Connection, image: str) -> tuple[TagMove, ...]:
    """Every move of an image's tags, oldest first; those to versions that were removed are forgotten."""
    statement = select(TagMoveModel.__table__).where(TagMoveModel.image == image).order_by(TagMoveModel.id)
    return tuple(TagMove(row.name, row.version_id, row.at, row.undone) for row in connection.execute(statement))


def roll_back(connection: Connection, image: str, tag: str, to: str | None = None) -> tuple[str, str]:
    """Let a tag mean again what it meant before its last move, or the version `to`, as if what came after had not
    been; returns the ids (before, now).

    So a second call goes further back and not forth again. A `to` that the tag never meant is a move like any other.
    Raises RookeryError: `not-found` for a tag that is not there, `conflict` when there is nothing to go back to.
    """
    require_name(tag, "tag")
    now = connection.execute(
        select(TagModel.version_id).where(TagModel.image == image, TagModel.name == tag)
    ).scalar_one_or_none()
    if now is None:
        raise RookeryError(
            f"image {image} has no tag {tag!r}",
            kind=ErrorKind.NOT_FOUND,
            hint=f"'rookery image history {image}' shows its versions and tags",
        )
    if to == now:
        raise RookeryError(f"{image}:{tag} is version {now[:12]} already", kind=ErrorKind.CONFLICT)
    rows = _standing(connection, image, tag)
    later: list[int] = []
    for row in rows:
        if row.version_id != now and to in (None, row.version_id):
            _undo(connection, later)
            _point(connection, image, tag, row.version_id)
            return now, row.version_id
        later.append(row.id)
    if to is None:
        others = connection.execute(
            select(VersionModel.id).where(VersionModel.image == image, VersionModel.id != now)
        ).first()
        name_one = (
            f"name one that 'rookery image history {image}' shows: rookery image rollback {image} --tag {tag} --to"
        )
        raise RookeryError(
            f"there is nothing to go back to: {image}:{tag} has meant no other version that is still there",
            kind=ErrorKind.CONFLICT,
            hint=f"{name_one} VERSION" if others else f"{image} has this one version only; build or publish another",
        )
    move(connection, image, tag, to)
    return now, to


def _standing(connection: Connection, image: str, tag: str) -> list[Any]:
    """The moves of a tag that were not taken back, newest first."""
    mine = (TagMoveModel.image == image, TagMoveModel.name == tag, TagMoveModel.undone.is_(False))
    return list(connection.execute(select(TagMoveModel.__table__).where(*mine).order_by(TagMoveModel.id.desc())))


def _undo(connection: Connection, ids: list[int]) -> None:
    for number in ids:
        connection.execute(update(TagMoveModel).where(TagMoveModel.id == number).values(undone=True))


def _point(connection: Connection, image: str, tag: str, version_id: str) -> None:
    key = (TagModel.image == image, TagModel.name == tag)
    if not connection.execute(update(TagModel).where(*key).values(version_id=version_id)).rowcount:
        connection.execute(insert(TagModel), {"image": image, "name": tag, "version_id": version_id})
