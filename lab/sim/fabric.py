# SPDX-License-Identifier: Apache-2.0
"""A fat tree: racks of nodes behind uplinks that are narrower than their nodes together, and pods of racks behind
uplinks that are narrower than those of the racks. Pure arithmetic of flows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fabric:
    """rack: nodes in one; narrow: the nodes' rates together over the uplink's, each way (4: oversubscribed 4:1). core:
    the rates of a pod's racks' uplinks together over that of its own; how many racks a pod has does not matter, since
    copies and wires grow alike.

    The planner knows racks and no pods, so each segment is counted as fed from another pod.
    """

    rack: int
    narrow: float
    core: float = 1

    @property
    def uplink(self) -> float:
        """The uplink's rate, in those of a node."""
        return self.rack / self.narrow

    def copies(self, segment: int) -> int:
        """How many copies enter a rack (and leave it): one for each segment, and a segment is of one rack."""
        return -(-self.rack // segment)

    def used(self, segment: int) -> float:
        """Part of the uplink that a transfer at full rate takes, each way."""
        return self.copies(segment) / self.uplink

    def used_core(self, segment: int) -> float:
        """The same of a pod's uplink."""
        return self.used(segment) * self.core

    def between(self, segment: int) -> float:
        """Part of a node's rate that is left for wires between segments."""
        return min(1.0, 1 / self.used(segment), 1 / self.used_core(segment))

    def blind(self) -> float:
        """The same for every wire, when the order of the chain knows no racks: nearly every hop crosses an uplink, and
        one of a pod."""
        return min(1.0, 1 / self.narrow, 1 / (self.narrow * self.core))
