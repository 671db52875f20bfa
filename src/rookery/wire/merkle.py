# SPDX-License-Identifier: Apache-2.0
"""The trees of SHA-256 that BitTorrent v2 has over a file's blocks (BEP 52). Digests stand one after the other."""

from __future__ import annotations

import hashlib

from rookery.wire.engine import BLOCK

DIGEST = 32  # bytes
NOTHING = bytes(DIGEST)  # in the place of a block behind the end


def leaves(data: bytes | bytearray | memoryview) -> bytes:
    """The digests of all blocks of 16 KiB; the last one may be shorter."""
    return b"".join([hashlib.sha256(data[place : place + BLOCK]).digest() for place in range(0, len(data), BLOCK)])


def width(nodes: bytes | bytearray) -> int:
    """How many nodes a tree over these has: the smallest power of two that is not below their number."""
    return 1 << max(len(nodes) // DIGEST - 1, 0).bit_length()


def root(nodes: bytes | bytearray, width: int, filler: bytes = NOTHING) -> bytes:
    """The root of a binary tree over `width` nodes (a power of two), those that are missing being `filler`."""
    while width > 1:
        nodes, filler, width = _above(nodes, filler), hashlib.sha256(filler + filler).digest(), width // 2
    return bytes(nodes) or filler


def proof(nodes: bytes | bytearray, width: int, filler: bytes = NOTHING) -> bytes:
    """What leads from the first node of such a tree to its root: on each level, from below, the node beside it."""
    found = []
    while width > 1:
        found.append(bytes(nodes[DIGEST : 2 * DIGEST]) or filler)
        nodes, filler, width = _above(nodes, filler), hashlib.sha256(filler + filler).digest(), width // 2
    return b"".join(found)


def climb(node: bytes, proof: bytes) -> bytes:
    """The root to which a proof leads from a first node."""
    for at in range(0, len(proof), DIGEST):
        node = hashlib.sha256(node + proof[at : at + DIGEST]).digest()
    return node


def _above(nodes: bytes | bytearray, filler: bytes) -> bytes:
    """The nodes of the level above."""
    pair, sha256 = 2 * DIGEST, hashlib.sha256
    if len(nodes) % pair:
        nodes = nodes + filler
    return b"".join([sha256(nodes[at : at + pair]).digest() for at in range(0, len(nodes), pair)])
