# SPDX-License-Identifier: Apache-2.0
"""Images, versions and tags in the tables: every function works inside the caller's transaction."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from sqlalchemy import Connection, delete, insert, select, update

from rookery import codec
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import tags
from rookery.head.catalog.database import storable
from rookery.head.catalog.models import ImageModel, NodeModel, TagModel, VersionModel
from rookery.head.catalog.noderange import fold, natural_key
from rookery.head.catalog.rows import Image, Origin, Version
from rookery.wire.manifest import SignedManifest, VersionKind, require_name, require_sha256
from rookery.wire.report import NodeState

DEFAULT_TAG = "latest"
SHORTEST_PREFIX = 8
EXPECTED = "expected NAME, NAME:TAG, NAME@ID or a version's ID (its first 8 digits or more)"
_ID_PREFIX = re.compile(r"[0-9a-f]{8,64}")
# In these states a node runs its version, or is on its way to it.
RUNNING = (NodeState.BOOTING, NodeState.PROVISIONING, NodeState.READY, NodeState.FAILED)


def add(connection: Connection, version: Version, tag: str | None) -> None:
    """Store a version under its image, and point its tags and `tag` at it. The same version again only moves tags."""
    require_name(version.image, "image name")
    require_sha256(version.id, "version id")
    for name in tags_of(version.tags, tag):
        require_name(name, "tag")
    if not storable(version.recipe):
        raise RookeryError(f"the recipe of {version.image} is not plain text", kind=ErrorKind.INVALID)
    if connection.execute(select(ImageModel.name).where(ImageModel.name == version.image)).scalar() is None:
        connection.execute(insert(ImageModel), {"name": version.image})
    key = (VersionModel.image == version.image, VersionModel.id == version.id)
    if connection.execute(select(VersionModel.id).where(*key)).scalar() is None:
        connection.execute(insert(VersionModel), _values(version))
    for name in tags_of(version.tags, tag):
        move_tag(connection, version.image, name, version.id)


def replace_manifest(connection: Connection, image_name: str, version_id: str, manifest: SignedManifest) -> None:
    """Store another manifest for a version of an image, as when it is signed anew. Raises `not-found`."""
    key = (VersionModel.image == image_name, VersionModel.id == version_id)
    text = json.dumps(codec.encode(manifest))
    if not connection.execute(update(VersionModel).where(*key).values(manifest=text)).rowcount:
        raise RookeryError(f"image {image_name[:128]} has no version {version_id[:64]}", kind=ErrorKind.NOT_FOUND)


def tags_of(names: Iterable[str], tag: str | None) -> tuple[str, ...]:
    """`names` and `tag`, none twice."""
    return tuple(dict.fromkeys([*names, *([tag] if tag else [])]))


def find(connection: Connection, image: str | None = None, prefix: str | None = None) -> list[Version]:
    """Versions, newest first: all, of an image, with an id that begins with `prefix`."""
    statement = select(VersionModel.__table__)
    tagged = select(TagModel.image, TagModel.version_id, TagModel.name).order_by(TagModel.name)
    if image is not None and not storable(image):
        return []
    if image is not None:
        statement = statement.where(VersionModel.image == image)
        tagged = tagged.where(TagModel.image == image)
    if prefix is not None:
        statement = statement.where(VersionModel.id.startswith(prefix, autoescape=True))
    names: dict[tuple[str, str], list[str]] = {}
    for owner, number, name in connection.execute(tagged):
        names.setdefault((owner, number), []).append(name)
    statement = statement.order_by(VersionModel.published_at.desc(), VersionModel.id, VersionModel.image)
    return [_version(row, names.get((row.image, row.id), [])) for row in connection.execute(statement)]


def by_id(connection: Connection, version_id: str) -> Version:
    """The version with an id; of several images that have it, the one that had it first. Raises `not-found`."""
    found = find(connection, prefix=version_id) if _ID_PREFIX.fullmatch(version_id) else []
    whole = [version for version in found if version.id == version_id]
    if not whole:
        raise RookeryError(f"there is no version {version_id[:64]!r}", kind=ErrorKind.NOT_FOUND, hint=EXPECTED)
    return whole[-1]


def images(connection: Connection) -> tuple[Image, ...]:
    """All images with their versions, in natural order of names."""
    names = connection.execute(select(ImageModel.name)).scalars()
    versions = find(connection)
    return tuple(
        Image(name, tuple(version for version in versions if version.image == name))
        for name in sorted(names, key=natural_key)
    )


def image(connection: Connection, name: str) -> Image:
    """One image. Raises `not-found`."""
    versions = find(connection, image=name)
    if not versions:
        raise _no_image(connection, name)
    return Image(name, tuple(versions))


def resolve(connection: Connection, reference: str) -> Version:
    """The version that a reference means now. Raises `not-found`, or `conflict` when a prefix means several."""
    name, at, prefix = reference.partition("@")
    if at:
        return _by_digits(connection, name, prefix)
    name, colon, tag = reference.partition(":")
    versions = find(connection, image=name)
    for version in versions:
        if (tag or DEFAULT_TAG) in version.tags:
            return version
    if not versions and not colon and _ID_PREFIX.fullmatch(name) and (found := find(connection, prefix=name)):
        return _only(reference, found)
    if not versions:
        raise _no_image(connection, name)
    known = sorted({name for version in versions for name in version.tags}, key=natural_key)
    raise RookeryError(
        f"image {name} has no tag {tag or DEFAULT_TAG!r}",
        kind=ErrorKind.NOT_FOUND,
        hint=_perhaps(tag, known) + f"its tags are {', '.join(known)}"
        if known
        else f"it has no tags: name a version as {name}@ID",
    )


def named(connection: Connection, image_name: str, word: str) -> Version:
    """The version of an image that a tag or the first digits of an id mean. Raises as `resolve`."""
    versions = image(connection, image_name).versions
    for version in versions:
        if word in version.tags:
            return version
    return _by_digits(connection, image_name, word)


def _by_digits(connection: Connection, image_name: str, digits: str) -> Version:
    """The version of an image whose id begins with `digits`."""
    if _ID_PREFIX.fullmatch(digits) and (found := find(connection, image=image_name, prefix=digits)):
        return _only(f"{image_name}@{digits}", found)
    known = [name for version in image(connection, image_name).versions for name in version.tags]
    raise RookeryError(
        f"image {image_name} has no version {digits[:128]!r}",
        kind=ErrorKind.NOT_FOUND,
        hint=f"{_perhaps(digits, known)}'rookery image history {image_name}' shows its versions and tags",
    )


def move_tag(connection: Connection, image_name: str, tag: str, version_id: str) -> None:
    """Point a tag at a version of the image. Raises `not-found`."""
    require_name(tag, "tag")
    tags.move(connection, image_name, tag, _by_digits(connection, image_name, version_id).id)


def remove_tag(connection: Connection, image_name: str, tag: str) -> Version:
    """Delete a tag and return the version that it meant. Raises `not-found`, or `conflict` while nodes are assigned to
    it."""
    lock(connection)
    version = resolve(connection, f"{image_name}:{require_name(tag, 'tag')}")
    statement = select(NodeModel.name).where(NodeModel.image == f"{image_name}:{tag}")
    if assigned := connection.execute(statement).scalars().all():
        raise RookeryError(
            f"tag {image_name}:{tag} is needed: {fold(assigned)} assigned to it",
            kind=ErrorKind.CONFLICT,
            hint="deploy another image to these nodes first",
        )
    connection.execute(delete(TagModel).where(TagModel.image == image_name, TagModel.name == tag))
    return replace(version, tags=tuple(name for name in version.tags if name != tag))


def hold(connection: Connection, version_id: str) -> None:
    """Keep a version from being removed until the transaction ends. Raises `not-found` when it is gone already."""
    # SQLite has one writer at a time, and no row locks.
    statement = select(VersionModel.id).where(VersionModel.id == version_id).with_for_update(read=True)
    if not connection.execute(statement).first():
        raise RookeryError(
            f"version {version_id[:12]} was removed meanwhile",
            kind=ErrorKind.NOT_FOUND,
            hint="'rookery image list' shows what there is",
        )


def lock(connection: Connection) -> None:
    """Let nobody `hold` a version until the transaction ends, and wait for those who do: what they wrote is seen by the
    statements that follow."""
    connection.execute(select(VersionModel.id).with_for_update()).all()


def remove_image(connection: Connection, name: str) -> tuple[Version, ...]:
    """Delete an image with its versions and return these. Raises `not-found`, or `conflict` while nodes need it."""
    lock(connection)
    versions = image(connection, name).versions
    _refuse_needed(connection, versions, f"image {name}")
    connection.execute(delete(ImageModel).where(ImageModel.name == name))
    return versions


def remove_version(connection: Connection, version_id: str, image_name: str | None = None) -> tuple[Version, ...]:
    """Delete a version under one image, or under every image that has it, and images that have nothing left. Raises as
    `remove_image`."""
    lock(connection)
    by_id(connection, version_id)
    versions = find(connection, image=image_name, prefix=version_id)
    _refuse_needed(connection, versions, f"version {version_id[:12]}")
    key = [VersionModel.id == version_id, *([VersionModel.image == image_name] if image_name is not None else [])]
    connection.execute(delete(VersionModel).where(*key))
    left = select(VersionModel.id).where(VersionModel.image == ImageModel.name).exists()
    names = [version.image for version in versions]
    connection.execute(delete(ImageModel).where(ImageModel.name.in_(names), ~left))
    return tuple(versions)


def _refuse_needed(connection: Connection, versions: Sequence[Version], what: str) -> None:
    """Raise `conflict` when a node is assigned, or runs, one of `versions`."""
    going = {(version.image, version.id) for version in versions}
    staying = {version.id for version in find(connection) if (version.image, version.id) not in going}
    gone = {version.id for version in versions} - staying
    assigned, running = set(), set()
    meanings: dict[str, bool] = {}
    statement = select(NodeModel.name, NodeModel.image, NodeModel.version, NodeModel.state)
    for name, reference, version_id, state in connection.execute(statement):
        if version_id in gone and NodeState(state) in RUNNING:
            running.add(name)
        if reference is not None:
            if reference not in meanings:
                meanings[reference] = meant(connection, reference) in going
            if meanings[reference]:
                assigned.add(name)
    if assigned or running:
        parts = [
            f"{fold(names)} {verb} it" for names, verb in ((assigned, "assigned to"), (running, "running")) if names
        ]
        raise RookeryError(
            f"{what} is needed: {' and '.join(parts)}",
            kind=ErrorKind.CONFLICT,
            hint="deploy another image to these nodes and start them again first",
        )


def meant(connection: Connection, reference: str) -> tuple[str, str] | None:
    """(image, version id) that a reference means now; None when it means nothing."""
    try:
        version = resolve(connection, reference)
    except RookeryError:
        return None
    return version.image, version.id


def _only(reference: str, found: Sequence[Version]) -> Version:
    ids = {version.id for version in found}
    if len(ids) > 1:
        raise RookeryError(
            f"{reference[:200]!r} means {len(ids)} versions",
            kind=ErrorKind.CONFLICT,
            details="\n".join(sorted(ids)),
            hint="give more digits of the id",
        )
    if not found:
        raise RookeryError(f"there is no version {reference[:200]!r}", kind=ErrorKind.NOT_FOUND, hint=EXPECTED)
    return found[-1]


def _no_image(connection: Connection, name: str) -> RookeryError:
    if not name:
        return RookeryError("an image needs a name", kind=ErrorKind.NOT_FOUND, hint=EXPECTED)
    known = sorted(connection.execute(select(ImageModel.name)).scalars(), key=natural_key)
    there = f"there are {', '.join(known[:20])}" if known else "build one with 'rookery image build'"
    return RookeryError(
        f"there is no image {name[:128]!r}", kind=ErrorKind.NOT_FOUND, hint=_perhaps(name, known) + there
    )


def _perhaps(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"perhaps {close[0]}; " if close else ""


def _values(version: Version) -> dict[str, Any]:
    return {
        "image": version.image,
        "id": version.id,
        "kind": version.kind.value,
        "published_at": version.published_at,
        "size": version.size,
        "manifest": json.dumps(codec.encode(version.manifest)),
        "recipe": version.recipe,
        "packages": json.dumps(version.packages),
        "origin": json.dumps(codec.encode(version.origin)) if version.origin else None,
    }


def _version(row: Any, names: Sequence[str]) -> Version:
    return Version(
        id=row.id,
        image=row.image,
        kind=VersionKind(row.kind),
        published_at=row.published_at,
        size=row.size,
        manifest=codec.loads(SignedManifest, row.manifest, what="stored manifest"),
        tags=tuple(names),
        recipe=row.recipe,
        packages=cast("dict[str, str]", json.loads(row.packages)),
        origin=codec.loads(Origin, row.origin, what="stored origin") if row.origin else None,
    )
