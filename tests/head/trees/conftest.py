# SPDX-License-Identifier: Apache-2.0
"""A head's trees with real parts, and an image of busybox and an empty kernel, which is quick to pack."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.head.build import image
from rookery.head.build.builder import BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.head.config import Paths
from rookery.head.progress import Progress
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.head.trees.trees import Trees


@dataclasses.dataclass
class Room:
    """A head's trees, an image `base` that can be opened, and what progress was told."""

    paths: Paths
    catalog: Catalog
    store: BlobStore
    publisher: Publisher
    trees: Trees
    base: Version
    told: list[Progress]
    cancel: threading.Event

    def open(self, reference: str = "base") -> Path:
        """Open an image; its root."""
        self.trees.open(reference, self.told.append, self.cancel)
        return self.trees.tree("base").root

    def publish(self, tag: str = "latest") -> Version:
        return self.trees.publish("base", tag, self.told.append, self.cancel)


@pytest.fixture
def room(tmp_path: Path, make_root: Callable[[Path], Path]) -> Iterator[Room]:
    paths = Paths(tmp_path / "head")
    paths.work.mkdir(parents=True)
    key = SiteKey.create(paths)
    store, catalog = BlobStore(paths.blobs), Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(store, key, catalog, make_torrent)
    told: list[Progress] = []
    cancel = threading.Event()
    root = make_root(tmp_path / "made")
    with image.site(paths.work) as site:
        built = image.finish(root, site, Recipe(), BuiltTree({}), 1_600_001_000)
    text = '# what it is made of\n[identity]\nkeep = ["/etc/hostname"]\n'
    base = publisher.image("base", built, text, "latest", told.append, cancel)
    built.discard()
    trees = Trees(paths.trees, paths.work, catalog, store, publisher)
    yield Room(paths, catalog, store, publisher, trees, base, told, cancel)
    catalog.close()
