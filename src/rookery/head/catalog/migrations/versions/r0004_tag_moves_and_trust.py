# SPDX-License-Identifier: Apache-2.0
"""What tags meant before; where imported versions come from, and whose capsules are taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    """Create the tables, and remember what each tag means now as its first move."""
    op.add_column("versions", sa.Column("origin", sa.Text))
    op.create_table(
        "tag_moves",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("image", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version_id", sa.String(64), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("undone", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(
            ["image", "version_id"],
            ["versions.image", "versions.id"],
            name="fk_tag_moves_image_version_id",
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tag_moves_image_name", "tag_moves", ["image", "name"])
    op.create_index("ix_tag_moves_image_version_id", "tag_moves", ["image", "version_id"])
    op.create_table(
        "trusted_keys",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.UniqueConstraint("name", name="uq_trusted_keys_name"),
    )
    op.execute(
        "INSERT INTO tag_moves (image, name, version_id, at, undone)"
        " SELECT tags.image, tags.name, tags.version_id, versions.published_at, false FROM tags"
        " JOIN versions ON versions.image = tags.image AND versions.id = tags.version_id ORDER BY versions.published_at"
    )
