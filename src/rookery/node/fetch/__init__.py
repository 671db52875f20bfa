# SPDX-License-Identifier: Apache-2.0
"""Getting a blob: from the swarm through libtorrent, and from the head by HTTP where the swarm gives nothing."""
