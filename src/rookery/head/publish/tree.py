# SPDX-License-Identifier: Apache-2.0
"""Packs a directory to be published, and tells how far it is."""

from __future__ import annotations

import threading
from pathlib import Path

from rookery.head.progress import OnProgress, Progress
from rookery.packing import tree

STAGE = "packing files"


def pack(source: Path, destination: Path, on_progress: OnProgress, cancel: threading.Event) -> None:
    """Write the directory `source` to the tar archive `destination`. Raises as `rookery.packing.tree.pack`."""

    def tell(done: int, total: int, name: str) -> None:
        on_progress(Progress(STAGE, done, total, "bytes", line=name))

    tree.pack(source, destination, tell, cancel)
