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


def test_what_was_learned_is_not_looked_up_again() -> None:
    before = codec._hints.cache_info().misses
    codec.learn(Outer)
    assert codec._hints.cache_info().misses == before + 2
    assert codec.loads(Outer, '{"items": [{"number": 1}]}') == Outer((Inner(1),))
    assert codec._hints.cache_info().misses == before + 2
