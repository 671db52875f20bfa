# SPDX-License-Identifier: Apache-2.0
"""The tables of the catalog. Nothing outside this package sees them: rows.py is what it gives and takes.

JSON columns are plain text that only Python reads, written with every character beyond ASCII escaped: so SQLite and
PostgreSQL store the same, whatever a machine put into its strings.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, ForeignKey, ForeignKeyConstraint, Index, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite grows ids by itself only in a column that is INTEGER to the letter.
_Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What all tables share: constraints have the same names on every database, so that migrations can name them."""

    type_annotation_map = {float: Double}  # noqa: RUF012 - SQLAlchemy reads it so
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class NodeModel(Base):
    """A node: see rows.Node. attributes, report, facts: JSON."""

    __tablename__ = "nodes"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    uuid: Mapped[str | None] = mapped_column(String(36))
    address: Mapped[str | None] = mapped_column(String(15), unique=True)
    attributes: Mapped[str] = mapped_column(Text)
    image: Mapped[str | None] = mapped_column(String(260), index=True)
    mode: Mapped[str] = mapped_column(String(32))
    kernel_arguments: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), index=True)
    state_since: Mapped[float]
    started_at: Mapped[float | None]
    reported_at: Mapped[float | None]
    may_seed: Mapped[bool]
    version: Mapped[str | None] = mapped_column(String(64), index=True)
    report: Mapped[str | None] = mapped_column(Text)
    facts: Mapped[str | None] = mapped_column(Text)


class MacModel(Base):
    """A MAC and the one node that has it. position: its place among the node's MACs."""

    __tablename__ = "macs"

    mac: Mapped[str] = mapped_column(String(17), primary_key=True)
    node_id: Mapped[int] = mapped_column(_Id, ForeignKey("nodes.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]


class MembershipModel(Base):
    """A node in a group: the attribute `groups`, taken apart so that a group is one look-up."""

    __tablename__ = "memberships"

    group_name: Mapped[str] = mapped_column(String(128), primary_key=True)
    node_id: Mapped[int] = mapped_column(_Id, ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True, index=True)


class ImageModel(Base):
    """A name under which versions are published."""

    __tablename__ = "images"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)


class VersionModel(Base):
    """A version under one image name: see rows.Version. The same content under two names is two rows with one id.

    manifest, packages, origin: JSON.
    """

    __tablename__ = "versions"

    image: Mapped[str] = mapped_column(String(128), ForeignKey("images.name", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    kind: Mapped[str] = mapped_column(String(16))
    published_at: Mapped[float]
    size: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[str] = mapped_column(Text)
    recipe: Mapped[str] = mapped_column(Text)
    packages: Mapped[str] = mapped_column(Text)
    origin: Mapped[str | None] = mapped_column(Text)


class TagModel(Base):
    """A movable name for a version, within an image."""

    __tablename__ = "tags"
    __table_args__ = (
        ForeignKeyConstraint(["image", "version_id"], ["versions.image", "versions.id"], ondelete="CASCADE"),
        Index(None, "image", "version_id"),
    )

    image: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    version_id: Mapped[str] = mapped_column(String(64))


class TagMoveModel(Base):
    """That a tag was made to mean a version: see rows.TagMove. Those to a version that is removed go with it."""

    __tablename__ = "tag_moves"
    __table_args__ = (
        ForeignKeyConstraint(["image", "version_id"], ["versions.image", "versions.id"], ondelete="CASCADE"),
        Index(None, "image", "name"),
        Index(None, "image", "version_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    image: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(128))
    version_id: Mapped[str] = mapped_column(String(64))
    at: Mapped[float]
    undone: Mapped[bool]


class TrustedKeyModel(Base):
    """Another site's public key whose capsules are taken: see rows.TrustedKey."""

    __tablename__ = "trusted_keys"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    added_at: Mapped[float]


class EventModel(Base):
    """Something that happened: see rows.Event. Ids are never used twice, also after old events were removed."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    subject: Mapped[str] = mapped_column(String(255), index=True)
    kind: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)


class CredentialModel(Base):
    """A credential: see rows.Credential. Only its digest is here."""

    __tablename__ = "credentials"
    __table_args__ = (Index(None, "kind", "subject"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(255))
    expires_at: Mapped[float] = mapped_column(index=True)
    used_by: Mapped[str | None] = mapped_column(String(64))


class MirrorModel(Base):
    """A mirror: see rows.Mirror."""

    __tablename__ = "mirrors"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    url: Mapped[str] = mapped_column(String(2048), unique=True)
    priority: Mapped[int]
    location: Mapped[str] = mapped_column(String(2))
    added_at: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    checked_at: Mapped[float | None]


class MirrorFileModel(Base):
    """What a mirror was seen to hold of a blob: see rows.MirrorFile."""

    __tablename__ = "mirror_files"

    mirror: Mapped[str] = mapped_column(String(128), ForeignKey("mirrors.name", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    url: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    etag: Mapped[bool]
    checked_at: Mapped[float]
