# SPDX-License-Identifier: Apache-2.0
"""How fast nodes fetch, from the bytes of their reports: smooth, and only while they fetch."""

from __future__ import annotations

from collections import deque

from rookery.api.types import NodeStatus, Status

WINDOW_SECONDS = 4.0  # over which a rate is taken, or two reports where these come more seldom
LEAST_SECONDS = 2.0  # a shorter time tells of bursts, which may be faster than the link


def fetches(node: NodeStatus) -> bool:
    """Whether a node fetches now."""
    return node.state == "provisioning" and node.step == "fetch" and node.error is None and node.transfer.total > 0


class Rates:
    """Remembers the last reports of each node that fetches, as (head's clock in seconds, bytes received)."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def look(self, status: Status) -> dict[str, float]:
        """Bytes per second, by name, of the nodes that fetch; one that is not long enough at it, or has fallen silent,
        is left out."""
        before, self._seen, rates = self._seen, {}, {}
        for node in status.nodes:
            if not fetches(node) or node.reported_at is None:
                continue
            seen = self._seen[node.name] = before.get(node.name, deque())
            got = node.transfer.from_head + node.transfer.from_peers
            if seen and got < seen[-1][1]:
                seen.clear()  # it began again
            if not seen or node.reported_at > seen[-1][0]:
                seen.append((node.reported_at, got))
            while len(seen) > 2 and seen[-1][0] - seen[1][0] >= WINDOW_SECONDS:
                seen.popleft()
            seconds = seen[-1][0] - seen[0][0]
            if seconds >= LEAST_SECONDS and status.at - seen[-1][0] <= 2 * max(seconds, WINDOW_SECONDS):
                rates[node.name] = (seen[-1][1] - seen[0][1]) / seconds
        return rates
