# SPDX-License-Identifier: Apache-2.0
"""A head's directory with its key, store and catalog, all real."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent


@dataclasses.dataclass(frozen=True)
class House:
    """What publishing needs."""

    paths: Paths
    key: SiteKey
    store: BlobStore
    catalog: Catalog
    publisher: Publisher
    cancel: threading.Event


OpenHouse = Callable[[Path], House]


@pytest.fixture
def open_house() -> Iterator[OpenHouse]:
    opened: list[House] = []

    def open_it(directory: Path) -> House:
        directory.mkdir(exist_ok=True)
        paths = Paths(directory)
        key = SiteKey.load(paths) if paths.site_key.exists() else SiteKey.create(paths)
        store, catalog = BlobStore(paths.blobs), Catalog.open(f"sqlite:///{paths.database}")
        publisher = Publisher(store, key, catalog, make_torrent)
        opened.append(House(paths, key, store, catalog, publisher, threading.Event()))
        return opened[-1]

    yield open_it
    for house in opened:
        house.catalog.close()


@pytest.fixture
def house(open_house: OpenHouse, tmp_path: Path) -> House:
    return open_house(tmp_path / "head")


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., BuiltImage]:
    """Makes the files of an image; the publisher does not look inside them."""

    def make(root: bytes = b"root" * 50_000) -> BuiltImage:
        place = tmp_path / f"built-{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        files = {"root.squashfs": root, "kernel": b"kernel" * 1000, "drivers.cpio": b"drivers" * 1000}
        for name, data in files.items():
            (place / name).write_bytes(data)
        return BuiltImage(*(place / name for name in files), "6.1.0-9-amd64", "x86_64", {"less": "590-2.1"})

    return make
