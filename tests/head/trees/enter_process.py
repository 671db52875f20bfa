# SPDX-License-Identifier: Apache-2.0
"""A process that works in a tree, as `rookery image exec` does: PLACE container|chroot|either COMMAND..."""

import signal
import sys
from pathlib import Path

from rookery.head.trees import lock
from rookery.head.trees.enter import Inside, enter

signal.signal(signal.SIGTERM, signal.default_int_handler)
place, how, *argv = sys.argv[1:]
try:
    with lock.hold(Path(place), "exec") as handle:
        inside = Inside("base", Path(place), Path(place) / "root", "", handle)
        sys.exit(enter(inside, argv, container={"container": True, "chroot": False}.get(how)))
except KeyboardInterrupt:
    sys.exit(130)
