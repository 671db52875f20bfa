# SPDX-License-Identifier: Apache-2.0
"""Mirrors, and which blobs each of them was seen to hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "mirrors",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("location", sa.String(2), nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("checked_at", sa.Double),
        sa.UniqueConstraint("url", name="uq_mirrors_url"),
    )
    op.create_table(
        "mirror_files",
        sa.Column(
            "mirror",
            sa.String(128),
            sa.ForeignKey("mirrors.name", name="fk_mirror_files_mirror", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("etag", sa.Boolean, nullable=False),
        sa.Column("checked_at", sa.Double, nullable=False),
    )
    op.create_index("ix_mirror_files_sha256", "mirror_files", ["sha256"])
