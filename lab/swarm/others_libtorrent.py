# SPDX-License-Identifier: Apache-2.0
"""One peer with libtorrent's default settings, as a process of the benchmark.

python -m lab.swarm.others_libtorrent TORRENT PLACE [GATE READY HOOK]: without a gate it begins at once. With one it
makes the file READY when it could begin, waits until the lock of the file GATE can be shared, and runs HOOK when it
has everything. It goes on giving until it is ended.
"""

from __future__ import annotations

import fcntl
import sys
import time
from pathlib import Path

import libtorrent as lt

from rookery.run import run


def main(torrent: str, place: str, gate: str = "", ready: str = "", hook: str = "") -> None:
    """Fetch and give until ended by a signal."""
    wanted = lt.load_torrent_file(torrent)
    wanted.save_path = place
    if gate:
        with Path(gate).open("rb") as file:
            Path(ready).touch()
            fcntl.flock(file, fcntl.LOCK_SH)
    session = lt.session()
    handle = session.add_torrent(wanted)
    while not handle.status().is_seeding:
        time.sleep(0.02)
    if hook:
        run([hook])
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
