# SPDX-License-Identifier: Apache-2.0
"""Credentials; what each node last reported and found out about itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Create the table and add the columns."""
    op.create_table(
        "credentials",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_by", sa.String(64)),
    )
    op.create_index("ix_credentials_kind_subject", "credentials", ["kind", "subject"])
    op.create_index("ix_credentials_expires_at", "credentials", ["expires_at"])
    op.add_column("nodes", sa.Column("report", sa.Text))
    op.add_column("nodes", sa.Column("facts", sa.Text))
