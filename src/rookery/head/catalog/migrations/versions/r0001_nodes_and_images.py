# SPDX-License-Identifier: Apache-2.0
"""Nodes with their MACs and groups, images with their versions and tags, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _nodes()
    _images()
    op.create_table(
        "events",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_subject", "events", ["subject"])


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("uuid", sa.String(36)),
        sa.Column("address", sa.String(15)),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("image", sa.String(260)),
        sa.Column("mode", sa.String(32), nullable=False),
        sa.Column("kernel_arguments", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_since", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("reported_at", sa.Double),
        sa.Column("may_seed", sa.Boolean, nullable=False),
        sa.Column("version", sa.String(64)),
        sa.UniqueConstraint("name", name="uq_nodes_name"),
        sa.UniqueConstraint("address", name="uq_nodes_address"),
    )
    for column in ("image", "state", "version"):
        op.create_index(f"ix_nodes_{column}", "nodes", [column])
    op.create_table(
        "macs",
        sa.Column("mac", sa.String(17), primary_key=True),
        sa.Column(
            "node_id", _ID, sa.ForeignKey("nodes.id", name="fk_macs_node_id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("position", sa.Integer, nullable=False),
    )
    op.create_index("ix_macs_node_id", "macs", ["node_id"])
    op.create_table(
        "memberships",
        sa.Column("group_name", sa.String(128), primary_key=True),
        sa.Column(
            "node_id",
            _ID,
            sa.ForeignKey("nodes.id", name="fk_memberships_node_id", ondelete="CASCADE"),
            primary_key=True,
        ),
    )
    op.create_index("ix_memberships_node_id", "memberships", ["node_id"])


def _images() -> None:
    op.create_table("images", sa.Column("name", sa.String(128), primary_key=True))
    op.create_table(
        "versions",
        sa.Column(
            "image",
            sa.String(128),
            sa.ForeignKey("images.name", name="fk_versions_image", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("published_at", sa.Double, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("packages", sa.Text, nullable=False),
    )
    op.create_index("ix_versions_id", "versions", ["id"])
    op.create_table(
        "tags",
        sa.Column("image", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("version_id", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["image", "version_id"],
            ["versions.image", "versions.id"],
            name="fk_tags_image_version_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_tags_image_version_id", "tags", ["image", "version_id"])
