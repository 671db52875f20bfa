# SPDX-License-Identifier: Apache-2.0
"""The systems that Rookery is measured against, all from Debian's packages (`lab/setup.sh bench` installs them).

Each stands in a module `others_*`, with its command line in its docstring; lab.swarm.others_race has the rules that are
the same for all.
"""

from __future__ import annotations

from lab.swarm.measure import System
from lab.swarm.others_multicast import Udpcast, Uftp
from lab.swarm.others_plain import Curl, Rsync
from lab.swarm.others_race import LIMIT
from lab.swarm.others_torrent import Aria2, Libtorrent, Metalink, Transmission

MULTICAST = frozenset({Udpcast.name, Uftp.name})  # of them the head sends one copy by the switch's doing


def systems(rate: int, limit: float = LIMIT) -> tuple[System, ...]:
    """All of them. rate: bits per second of every link. limit: seconds that one run may take before it is ended."""
    kinds = (Curl, Rsync, Udpcast, Uftp, Transmission, Aria2, Metalink, Libtorrent)
    return tuple(kind(rate, limit) for kind in kinds)
