# SPDX-License-Identifier: Apache-2.0
"""TCP without timestamps while the agent has the machine.

They take 12 of each segment's 1,460 bytes (RFC 7323), 0.8 % of the time that an image needs, and go on a connection
only when both ends want them: so one end decides. What they are for, a round trip's measure and sequence numbers that
come again within a segment's life, a local network does well without; each piece has its digest anyway. The image's
kernel is the same one, and gets its setting back before its init runs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

TIMESTAMPS = Path("/proc/sys/net/ipv4/tcp_timestamps")


def shorten(setting: Path = TIMESTAMPS) -> str:
    """Make new connections of this network namespace do without; what to `restore`, empty where it cannot be set."""
    with contextlib.suppress(OSError):
        former = setting.read_text().strip()
        setting.write_text("0")
        return former
    return ""


def restore(former: str, setting: Path = TIMESTAMPS) -> None:
    """Set it again as `shorten` found it."""
    if former:
        with contextlib.suppress(OSError):
            setting.write_text(former)
