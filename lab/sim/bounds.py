# SPDX-License-Identifier: Apache-2.0
"""Closed forms to check the simulator by, and the limits of the curve. Seconds, bytes, bytes per second."""

from __future__ import annotations

from math import floor, log2


def chain(nodes: int, size: int, piece: int, rate: float, delay: float = 0.0) -> float:
    """A store-and-forward chain: the whole image over the first wire, and the last piece over all others."""
    pieces = -(-size // piece)
    return pieces * piece / rate + delay + (nodes - 1) * (piece / rate + delay)


def unicast(nodes: int, size: int, head_rate: float) -> float:
    """The head gives everything to everybody (HTTP): its wire carries `nodes` copies."""
    return nodes * size / head_rate


def least(nodes: int, pieces: int) -> float:
    """T(N)/T(1) that no schedule of `pieces` equal pieces over equal wires can beat: 1 + floor(log2 N) / pieces.

    J. Mundinger, R. Weber, G. Weiss: Optimal scheduling of peer-to-peer file dissemination, Journal of Scheduling 11
    (2008) 105-120, doi:10.1007/s10951-007-0017-9; and it can be reached. Delays are not in it.
    """
    return 1 + floor(log2(nodes)) / pieces


def fluid(size: int, down: float, up: float, stay: float, effectiveness: float = 1.0) -> float:
    """Mean time of a node in the steady state of a swarm to which nodes come at any rate.

    D. Qiu, R. Srikant: Modeling and performance analysis of BitTorrent-like peer-to-peer networks, SIGCOMM 2004,
    doi:10.1145/1015467.1015508: with c = down / size, mu = up / size and seeds that leave at the rate gamma = 1 /
    stay, the time is max(1/c, (1/mu - 1/gamma) / effectiveness) when nobody gives up. stay: s that a complete node
    goes on giving.
    """
    return max(size / down, (size / up - stay) / effectiveness)
