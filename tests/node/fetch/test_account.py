# SPDX-License-Identifier: Apache-2.0
"""Whom a block is put down to that the engine did not tell of."""

from __future__ import annotations

from rookery.node.fetch.swarm import giver_of

HEAD, NODE, OTHER = ("10.0.0.1", 6881), ("10.0.0.2", 8472), ("10.0.0.3", 8472)


def test_a_block_is_put_down_to_the_one_who_gave_more_than_was_told_of() -> None:
    assert giver_of([HEAD, NODE], {HEAD: 0, NODE: 65536}) == NODE
    assert giver_of([HEAD, NODE], {HEAD: 16384, NODE: 0}) == HEAD
    assert giver_of([HEAD, NODE, OTHER], {NODE: 16384, OTHER: 32768}) == OTHER


def test_with_everybody_gone_a_block_is_put_down_to_the_one_who_was_asked_last() -> None:
    assert giver_of([HEAD, NODE], {}) == NODE
    assert giver_of([HEAD], {NODE: 65536}) == HEAD
