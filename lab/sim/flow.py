# SPDX-License-Identifier: Apache-2.0
"""What wires do to pieces: exact max-plus recursions over all pieces of a link at once.

Times are seconds from the start of the transfer, one per piece, in the order in which the pieces are sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def carry(ready: Times, seconds: float) -> Times:
    """When each piece is across a wire that takes `seconds` for one and carries one after the other.

    ready: when the sender has each piece, in the order of sending. The recursion is
    end[i] = max(ready[i], end[i-1]) + seconds, solved for all i at once.
    """
    turn = np.arange(len(ready)) * seconds
    across: Times = np.maximum.accumulate(ready - turn) + turn + seconds
    return across


def carry_with_gap(before: Times, after: Times, seconds: float, begin: float, end: float) -> Times:
    """As carry, for a wire that gives nothing between `begin` and `end`, and then goes on from another sender.

    before, after: when the first and the second sender have each piece. A piece that is not across at `begin` is sent
    again as a whole from `end` on.
    """
    across = carry(before, seconds)
    left = int(np.searchsorted(across, begin, side="right"))
    if left < len(across):
        across[left:] = carry(np.maximum(after[left:], end), seconds)
    return across


def along(ready: Times, nodes: int, seconds: float, delay: float) -> Times:
    """When the last of `nodes` nodes in a chain has each piece whole, if the first has it at `ready`.

    seconds: one piece on the wire; delay: from the last byte to the first one onwards (digest, wake-up, network).
    Behind the first wire pieces are at least `seconds` apart, so every further wire only shifts them: this is exact.
    """
    if nodes <= 1:
        return ready
    return carry(ready, seconds) + (delay + (nodes - 2) * (seconds + delay))


def merged(parts: list[Times]) -> tuple[Times, list[NDArray[np.intp]]]:
    """Several streams in the order of their times, and where in it the pieces of each stream are."""
    if len(parts) == 1:
        return parts[0], [np.arange(len(parts[0]))]
    together = np.concatenate(parts)
    order = np.argsort(together, kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return together[order], list(np.split(place, ends))
