# SPDX-License-Identifier: Apache-2.0
"""Mirrors: plain HTTP servers that hold copies of published blobs; where the files lie on them, and whether they are
right."""
