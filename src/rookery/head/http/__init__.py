# SPDX-License-Identifier: Apache-2.0
"""The head's HTTP face: boot, node, blob, tracker and API routes."""
