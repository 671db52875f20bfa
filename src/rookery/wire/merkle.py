# SPDX-License-Identifier: Apache-2.0
"""The trees of SHA-256 that BitTorrent v2 has over a file's blocks (BEP 52)."""

from __future__ import annotations

import hashlib

from rookery.wire.engine import BLOCK

DIGEST = 32  # bytes


def leaves(data: bytes | bytearray | memoryview) -> list[bytes]:
    """The digest of each block of 16 KiB; the last one may be shorter."""
    return [hashlib.sha256(data[place : place + BLOCK]).digest() for place in range(0, len(data), BLOCK)]


def power_of_two(count: int) -> int:
    """The smallest one that is not below `count`."""
    return 1 << max(count - 1, 0).bit_length()


def root(nodes: list[bytes], width: int, filler: bytes = bytes(32)) -> bytes:
    """The root of a binary tree over `width` nodes (a power of two), those that are missing being `filler`."""
    while width > 1:
        if len(nodes) % 2:
            nodes = [*nodes, filler]
        nodes = [hashlib.sha256(nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes), 2)]
        filler = hashlib.sha256(filler + filler).digest()
        width //= 2
    return nodes[0] if nodes else filler
