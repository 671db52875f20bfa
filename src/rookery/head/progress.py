# SPDX-License-Identifier: Apache-2.0
"""How long work tells where it is: the doer calls, somebody else draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a piece of work stands. stage: a few words ("packing root"). done of total in `unit` (`bytes` or `steps`);
    total 0: not known. line: the latest line that a tool printed, may be empty."""

    stage: str
    done: int = 0
    total: int = 0
    unit: str = "steps"
    line: str = ""


OnProgress = Callable[[Progress], None]


def silent(_progress: Progress) -> None:
    """For callers that do not want to know."""
