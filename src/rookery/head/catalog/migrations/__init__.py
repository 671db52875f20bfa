# SPDX-License-Identifier: Apache-2.0
"""Alembic's script directory: env.py is its entry, versions/ the steps from each release's tables to the next's."""
