# SPDX-License-Identifier: Apache-2.0
"""Pieces that are there in part, block by block: a node that fills a file from an older version lacks often only one of
the four blocks of a piece, and then only that one travels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rookery.relay.book import from_bitmap, to_bitmap
from rookery.wire.engine import BLOCK


@dataclass
class Parts:
    """Which blocks of 16 KiB are there. blocks: one byte for each block of the file, 1 for those that are there; those
    of pieces that are whole do not matter. piece_size: bytes, a multiple of a block. length: bytes of a piece."""

    blocks: bytearray
    piece_size: int
    length: Callable[[int], int]

    @classmethod
    def from_bitmap(cls, bitmap: bytes, pieces: int, piece_size: int, length: Callable[[int], int]) -> Parts:
        """As a child says it. Bits that are not there count as 0."""
        return cls(from_bitmap(bitmap, pieces * (piece_size // BLOCK)), piece_size, length)

    def bitmap(self) -> bytes:
        """One bit for each block, in BEP 3's order."""
        return to_bitmap(self.blocks)

    def copy(self) -> Parts:
        """The same, as it is now."""
        return Parts(bytearray(self.blocks), self.piece_size, self.length)

    def lacking(self, piece: int) -> list[tuple[int, int]]:
        """The bytes of a piece that are not there, as (offset in the piece, length), merged; empty when none of it is
        there, or all is said to be: it travels whole then."""
        length, per_piece = self.length(piece), self.piece_size // BLOCK
        count = (length + BLOCK - 1) // BLOCK
        there = self.blocks[piece * per_piece : piece * per_piece + count]
        if not any(there) or all(there):
            return []
        spans: list[tuple[int, int]] = []
        for block, is_there in enumerate(there):
            if is_there:
                continue
            first, last = block * BLOCK, min((block + 1) * BLOCK, length)
            if spans and sum(spans[-1]) == first:
                first = spans.pop()[0]
            spans.append((first, last - first))
        return spans

    def forget(self, piece: int) -> None:
        """Nothing of a piece is there after all."""
        per_piece = self.piece_size // BLOCK
        self.blocks[piece * per_piece : (piece + 1) * per_piece] = bytes(per_piece)

    def unfinished(self) -> dict[int, list[bool]]:
        """By piece that is there in part, its blocks: as libtorrent takes it."""
        per_piece = self.piece_size // BLOCK
        found = {}
        for piece in range(len(self.blocks) // per_piece):
            if self.lacking(piece):
                count = (self.length(piece) + BLOCK - 1) // BLOCK
                there = self.blocks[piece * per_piece : piece * per_piece + count]
                found[piece] = [bool(is_there) for is_there in there]
        return found
