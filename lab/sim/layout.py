# SPDX-License-Identifier: Apache-2.0
"""What a layout of segments looks like: who feeds whom, how often, how deep. The planner makes them (policy.py).

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
