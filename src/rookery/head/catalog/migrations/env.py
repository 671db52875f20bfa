# SPDX-License-Identifier: Apache-2.0
"""Run by Alembic for every migration, on the connection (and inside the transaction) that schema.py hands over."""

from __future__ import annotations

from alembic import context

from rookery.head.catalog.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
