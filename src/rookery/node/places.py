# SPDX-License-Identifier: Apache-2.0
"""Where things lie on a node. /run goes with the machine from the first root into the image's."""

from __future__ import annotations

from pathlib import Path

RUN = Path("/run/rookery")
STATE = RUN / "state"  # mode 0700: credentials are in it
LEASES = RUN / "leases"
BLOBS = RUN / "blobs"  # a tmpfs: the fetched blobs, named by their SHA-256
LOWER = RUN / "lower"  # the image's squashfs
UPPER = RUN / "upper"  # a tmpfs: what was written over it
AGENT = RUN / "agent"  # the agent's own tree, after the first root is gone
UNITS = Path("/run/systemd/system")
NEW_ROOT = Path("/newroot")
SITE_KEY = Path("/etc/rookery/site.pub")
INIT = STATE / "init"  # the image's init, for process 1 to hand over to
CRASH = STATE / "crash.json"  # how the journey's process ended, for the next one to report
FAULT = STATE / "fault"  # where it was then, in its own words
STEP = STATE / "step"
SETTLED = STATE / "settled"  # paths of what was written into the image's root, one a line
HANDOVER = STATE / "handover.json"
TORRENT = STATE / "root.torrent"
SEQUENCE = STATE / "sequence"
READY = STATE / "ready.json"
MEMINFO = Path("/proc/meminfo")
