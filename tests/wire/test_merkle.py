# SPDX-License-Identifier: Apache-2.0
"""Trees of digests, and proofs that lead up to their roots."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.wire import merkle


def slowly(nodes: list[bytes], width: int, filler: bytes) -> bytes:
    """The root as BEP 52 describes it: filled up, then pair by pair."""
    nodes = nodes + [filler] * (width - len(nodes))
    while len(nodes) > 1:
        nodes = [hashlib.sha256(nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes), 2)]
    return nodes[0]


@given(count=st.integers(1, 70), wider=st.integers(0, 2), zero=st.booleans())
def test_a_proof_leads_from_the_first_node_to_the_root(count: int, wider: int, zero: bool) -> None:
    nodes = [hashlib.sha256(bytes([number])).digest() for number in range(count)]
    filler = merkle.NOTHING if zero else hashlib.sha256(b"filler").digest()
    joined = b"".join(nodes)
    width = merkle.width(joined) << wider
    root = merkle.root(joined, width, filler)
    assert root == slowly(nodes, width, filler)
    proof = merkle.proof(joined, width, filler)
    assert len(proof) == (width.bit_length() - 1) * merkle.DIGEST
    assert merkle.climb(nodes[0], proof) == root


@pytest.mark.parametrize("at", [0, 33, 95])
def test_another_proof_leads_elsewhere(at: int) -> None:
    nodes = os.urandom(8 * merkle.DIGEST)
    proof = bytearray(merkle.proof(nodes, 8))
    proof[at] ^= 1
    assert merkle.climb(nodes[: merkle.DIGEST], bytes(proof)) != merkle.root(nodes, 8)
