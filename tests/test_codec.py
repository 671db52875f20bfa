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


def test_dataclasses_of_dataclasses() -> None:
    assert codec.loads(Outer, '{"items": [{"number": 1}]}') == Outer((Inner(1),))


def test_one_that_contains_itself() -> None:
    assert codec.loads(Tree, '{"parts": [{"parts": []}]}') == Tree((Tree(()),))
