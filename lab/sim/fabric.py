# SPDX-License-Identifier: Apache-2.0
"""A fat tree: racks of nodes behind uplinks that are narrower than their nodes together. Pure arithmetic of flows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fabric:
    """rack: nodes in one; narrow: the nodes' rates together over the uplink's, each way (4: oversubscribed 4:1).

    What holds for racks holds for pods above them with their own number: a pod of p racks is entered by p times the
    copies.
    """

    rack: int
    narrow: float

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

    def between(self, segment: int) -> float:
        """Part of a node's rate that is left for wires between segments."""
        return min(1.0, 1 / self.used(segment))

    def blind(self) -> float:
        """The same for every wire, when the order of the chain knows no racks: nearly every hop crosses an uplink."""
        return min(1.0, 1 / self.narrow)
