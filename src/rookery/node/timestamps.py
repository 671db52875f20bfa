# SPDX-License-Identifier: Apache-2.0
"""TCP without timestamps while the agent has the machine.

They take 12 of each segment's 1,460 bytes (RFC 7323), 0.8 % of the time that an image needs, and go on a connection
only when both ends want them: so one end decides. They are for three things. A round trip's measure: the kernel has
another. Sequence numbers that come again within a segment's life: at 10 Gbit/s they come again after 3 s, longer than
any segment lives in a local network. SYN cookies, by which a head answers that is flooded with new connections: such a
connection has a window of 64 KiB at most. The image's kernel is the same one, and gets its setting back before its init
runs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

SETTING = Path("/proc/sys/net/ipv4/tcp_timestamps")


def omit() -> str:
    """Make new connections of this network namespace do without; what to `restore`, empty where it cannot be set."""
    with contextlib.suppress(OSError):
        former = SETTING.read_text().strip()
        SETTING.write_text("0")
        return former
    return ""


def restore(former: str) -> None:
    """Set it again as `omit` found it."""
    if former:
        with contextlib.suppress(OSError):
            SETTING.write_text(former)
