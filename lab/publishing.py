# SPDX-License-Identifier: Apache-2.0
"""What publishing a working tree costs beside the mksquashfs that it contains, by the head's own code."""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from pathlib import Path

from rookery.head.build import squashfs
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.head.trees import state
from rookery.head.trees.trees import Trees
from rookery.run import run
from rookery.wire.manifest import Role, parse_payload

NAME, MB = "image", 1_000_000


def publishing(tree: Path, place: Path) -> dict[str, dict[str, float]]:
    """Publish a copy of the root `tree` as a first version, and again with one file changed; `place` is scratch.

    Of each: seconds that it took, and that mksquashfs alone takes (all processors) of the same root; MB of the drivers.
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
        found = {"first": _published(trees, store, place)}
        (root / "etc/motd").write_text("changed\n")
        found["again"] = _published(trees, store, place)
    return found


def _published(trees: Trees, store: BlobStore, place: Path) -> dict[str, float]:
    alone = place / "alone.squashfs"
    began = time.monotonic()
    squashfs.pack(trees.place(NAME) / state.ROOT, alone, int(began), silent, threading.Event())
    packed = time.monotonic()
    version = trees.publish(NAME, "latest", silent, threading.Event())
    done = time.monotonic()
    alone.unlink()
    drivers = parse_payload(version.manifest.signed_bytes).blob(Role.DRIVERS)
    return {
        "pack": packed - began,
        "publish": done - packed,
        "drivers_size": store.path(drivers.sha256).stat().st_size / MB,
    }
