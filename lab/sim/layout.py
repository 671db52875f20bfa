# SPDX-License-Identifier: Apache-2.0
"""Who takes from whom above one chain: segments in interior-disjoint trees, one tree for each stripe of the pieces.

Pure. A segment is a chain of nodes. Stripe s holds the pieces whose index is s modulo `stripes`. Segment j is
interior in the tree of stripe j modulo `stripes`, where its last node feeds up to `stripes` other segments, and a
leaf in all others: so every last node sends one copy at the most, and every first node receives one.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = -1  # the source of a root


def segment_lengths(nodes: int, most: int, one_chain: int = 0) -> tuple[int, ...]:
    """How many nodes each segment has: as few segments of at most `most` as hold them all, as even as they can be.

    one_chain: up to that many nodes stand in a single chain.
    """
    if nodes <= one_chain:
        return (nodes,)
    count = -(-nodes // most)
    short, longer = divmod(nodes, count)
    return (short + 1,) * longer + (short,) * (count - longer)


@dataclass(frozen=True)
class Layout:
    """sources[segment][stripe]: the segment whose last node gives that stripe, or HEAD."""

    sources: tuple[tuple[int, ...], ...]

    @property
    def stripes(self) -> int:
        """How many stripes there are."""
        return len(self.sources[0])

    def feeds(self) -> tuple[int, ...]:
        """To how many segments (counted once for each stripe) the last node of each segment gives."""
        counts = [0] * len(self.sources)
        for sources in self.sources:
            for source in sources:
                if source != HEAD:
                    counts[source] += 1
        return tuple(counts)

    def depth(self, stripe: int) -> tuple[int, ...]:
        """How many segments lie between each segment and the head in the tree of `stripe`."""
        depths: dict[int, int] = {HEAD: -1}
        for segment in range(len(self.sources)):
            path, above = [], segment
            while above not in depths:
                path.append(above)
                above = self.sources[above][stripe]
            for step in reversed(path):
                depths[step] = depths[self.sources[step][stripe]] + 1
        return tuple(depths[segment] for segment in range(len(self.sources)))


def layout(segments: int, stripes: int = 2) -> Layout:
    """The trees: full ones of `stripes` children each, filled level by level, the interior segments first.

    The head gives one copy in all: each stripe to one segment. Where a stripe has too few segments of its own (only
    with more than two stripes), its last leaves hang on segments that would feed fewer than `stripes`.
    """
    # With fewer segments than stripes a tree would have no interior: then one of them is one for the others too.
    stripes = max(1, min(stripes, segments))
    own = [list(range(stripe, segments, stripes)) for stripe in range(stripes)]
    spare = [mine[-1] for mine in own for _ in range(stripes * len(mine) - (segments - 1))]
    lenders = sorted(set(spare)) if any(stripes * len(mine) < segments - 1 for mine in own) else []
    chosen = [[HEAD] * stripes for _ in range(segments)]
    for stripe, mine in enumerate(own):
        # Lenders before the other leaves: what they lend goes to later ones, so no tree bites its tail.
        others = [segment for segment in lenders if segment % stripes != stripe]
        others += [segment for segment in range(segments) if segment % stripes != stripe and segment not in lenders]
        order = mine + others
        for position, segment in enumerate(order[1:], start=1):
            parent = (position - 1) // stripes
            chosen[segment][stripe] = order[parent] if parent < len(mine) else spare.pop()
    return Layout(tuple(tuple(sources) for sources in chosen))
