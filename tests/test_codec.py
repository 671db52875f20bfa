# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

from rookery import codec


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Outer:
    items: tuple[Inner, ...]
    maybe: Inner | None = None


@dataclass(frozen=True)
class Tree:
    parts: tuple[Tree, ...]


def test_what_was_learned_is_not_looked_up_again() -> None:
    codec._hints.cache_clear()
    codec.learn(Outer)
    assert codec._hints.cache_info().misses == 2
    assert codec.loads(Outer, '{"items": [{"number": 1}]}') == Outer((Inner(1),))
    assert codec._hints.cache_info().misses == 2


def test_what_contains_itself_is_learned_once() -> None:
    codec.learn(Tree)
    assert codec.loads(Tree, '{"parts": [{"parts": []}]}') == Tree((Tree(()),))
