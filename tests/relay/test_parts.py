# SPDX-License-Identifier: Apache-2.0
"""Pieces that are there in part, as child and parent see them."""

from hypothesis import given
from hypothesis import strategies as st

from rookery.relay.parts import Parts
from rookery.wire.engine import BLOCK

PIECE = 4 * BLOCK


def make(blocks: list[bool], size: int) -> Parts:
    return Parts(bytearray(blocks), PIECE, lambda piece: min(PIECE, size - piece * PIECE))


@given(st.lists(st.booleans(), min_size=4, max_size=40), st.integers(0, PIECE - 1))
def test_both_sides_see_the_same_lack(there: list[bool], short: int) -> None:
    pieces = len(there) // 4
    size = pieces * PIECE - short
    ours = make(there[: pieces * 4], size)
    theirs = Parts.from_bitmap(ours.bitmap(), pieces, PIECE, ours.length)
    for piece in range(pieces):
        spans = ours.lacking(piece)
        assert theirs.lacking(piece) == spans
        lacking = {at for offset, length in spans for at in range(offset, offset + length)}
        blocks = [at // BLOCK for at in range(0, ours.length(piece), BLOCK)]
        flags = there[piece * 4 : piece * 4 + len(blocks)]
        if spans:
            assert lacking == {at for at in range(ours.length(piece)) if not flags[at // BLOCK]}
            assert ours.unfinished()[piece] == flags
        else:
            assert all(flags) or not any(flags)
            assert piece not in ours.unfinished()


def test_neighbours_come_in_one_span_and_what_is_forgotten_comes_whole() -> None:
    parts = make([True, False, False, True, False, True, False, True], 2 * PIECE - 5)
    assert parts.lacking(0) == [(BLOCK, 2 * BLOCK)]
    assert parts.lacking(1) == [(0, BLOCK), (2 * BLOCK, BLOCK)]
    parts.forget(0)
    assert parts.lacking(0) == []
    assert parts.lacking(1) == [(0, BLOCK), (2 * BLOCK, BLOCK)]


def test_a_bitmap_that_is_too_short_says_that_nothing_is_there() -> None:
    assert Parts.from_bitmap(b"", 2, PIECE, lambda _: PIECE).lacking(1) == []
    assert Parts.from_bitmap(b"\x40", 2, PIECE, lambda _: PIECE).lacking(0) == [(0, BLOCK), (2 * BLOCK, 2 * BLOCK)]
