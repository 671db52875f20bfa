# SPDX-License-Identifier: Apache-2.0
"""The one place where the simulator asks the policy who takes from whom."""

from __future__ import annotations

from lab.sim.layout import HEAD, Layout
from rookery.head.swarm import planner

SEGMENT, ONE_CHAIN, STRIPES = planner.SEGMENT, planner.LONGEST, planner.STRIPES


def trees(segments: int, stripes: int, copies: int = 1) -> Layout:
    """The trees of `segments` segments; with a head that feeds several copies, one set of trees for each of them."""
    copies = max(1, min(copies, segments // stripes))
    sources: list[tuple[int, ...]] = []
    for copy in range(copies):
        begin, end = segments * copy // copies, segments * (copy + 1) // copies
        sources += [
            tuple(source if source == HEAD else source + begin for source in row)
            for row in _trees(end - begin, stripes)
        ]
    return Layout(tuple(sources))


def layout(segments: int, stripes: int = STRIPES) -> Layout:
    """The planner's trees; numbers of stripes other than its own are what-ifs."""
    return Layout(_trees(segments, min(stripes, segments)))


def _trees(segments: int, stripes: int) -> tuple[tuple[int, ...], ...]:
    if segments == 1:
        return ((HEAD,),)
    return planner.layout(segments, line=False, stripes=stripes)
