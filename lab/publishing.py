# SPDX-License-Identifier: Apache-2.0
"""What publishing a working tree costs beside the mksquashfs that it contains: by the head's own code, step by step."""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from collections import defaultdict
from pathlib import Path

from rookery.head.build import squashfs
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.progress import Progress
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.head.trees import state
from rookery.head.trees.trees import Trees
from rookery.run import run
from rookery.wire.manifest import Role, parse_payload

NAME, MB = "image", 1_000_000
DRIVERS = "packing the drivers"  # as image.finish calls it


def publishing(tree: Path, place: Path) -> dict[str, dict[str, float]]:
    """Publish a copy of the root `tree` as a first version, and again with one file changed; `place` is scratch.

    Of each: seconds of mksquashfs (with all processors), of packing the drivers, and of all that is not mksquashfs; MB
    of the drivers.
    """
    paths = Paths(place / "head")
    paths.work.mkdir(parents=True)
    store = BlobStore(paths.blobs)
    with contextlib.closing(Catalog.open(f"sqlite:///{paths.database}")) as catalog:
        publisher = Publisher(store, SiteKey.create(paths), catalog, make_torrent)
        trees = Trees(paths.trees, paths.work, catalog, store, publisher)
        root = trees.place(NAME) / state.ROOT
        root.parent.mkdir(parents=True)
        run(["cp", "-a", tree, root])
        run(["sync"])
        now = time.time()
        state.save(root.parent, state.TreeState("bench", "bench", now, now, architecture=platform.machine()))
        found = {"first": _published(trees, store)}
        (root / "etc/motd").write_text("changed\n")
        found["again"] = _published(trees, store)
    return found


def _published(trees: Trees, store: BlobStore) -> dict[str, float]:
    clock = _Clock()
    version = trees.publish(NAME, "latest", clock.tell, threading.Event())
    clock.turn("")
    drivers = parse_payload(version.manifest.signed_bytes).blob(Role.DRIVERS)
    pack = clock.seconds[squashfs.STAGE]
    return {
        "pack": pack,
        "drivers": clock.seconds[DRIVERS],
        "beside": sum(clock.seconds.values()) - pack,
        "drivers_size": store.path(drivers.sha256).stat().st_size / MB,
    }


class _Clock:
    """Seconds for each stage that progress tells of; what is before the first is called nothing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stage, self._since = "", time.monotonic()

    def tell(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self.turn(progress.stage)

    def turn(self, stage: str) -> None:
        """The stage before has ended."""
        now = time.monotonic()
        self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now
