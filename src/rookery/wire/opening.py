# SPDX-License-Identifier: Apache-2.0
"""A blob's opening: its first block of 16 KiB, and what proves it to whoever has nothing but the signed root.

It is the digests that lead from the block up to the blob's `pieces root` (BEP 52; from below, 32 bytes each), and the
block behind them. Members of a young wave hand it to each other down a tree of their own (planner.py), before the chain
has brought them the torrent, let alone a piece.
"""

from __future__ import annotations

import hashlib

from rookery.wire import merkle
from rookery.wire.engine import BLOCK


def dump(first: bytes, layer: bytes, size: int, piece_size: int) -> bytes:
    """The opening of a blob of `size` bytes. first: its first piece, of `piece_size` bytes (the whole blob if that is
    shorter). layer: as of Described."""
    leaves = merkle.leaves(first)
    if size <= piece_size:
        return merkle.proof(leaves, merkle.width(leaves)) + first[:BLOCK]
    within = piece_size // BLOCK
    above = merkle.proof(layer, merkle.width(layer), merkle.root(b"", within))
    return merkle.proof(leaves, within) + above + first[:BLOCK]


def length(size: int) -> int:
    """Bytes of the opening of a blob of `size` bytes (one at least)."""
    return _digests(size) + min(size, BLOCK)


def check(opening: bytes, size: int, pieces_root: str) -> bytes | None:
    """The first block of a blob, if the opening is that of `pieces_root` (64 hex digits); else None."""
    if len(opening) != length(size):
        return None
    proof, block = opening[: _digests(size)], opening[_digests(size) :]
    return block if merkle.climb(hashlib.sha256(block).digest(), proof).hex() == pieces_root else None


def _digests(size: int) -> int:
    return (-(-size // BLOCK) - 1).bit_length() * merkle.DIGEST
