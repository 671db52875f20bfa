# SPDX-License-Identifier: Apache-2.0
"""A head that captures, to be killed: DIRECTORY PORT ROOT OPTION..."""

import sys
import threading
from pathlib import Path

from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.remote.machine import Remote
from rookery.head.swarm.torrent import make_torrent
from rookery.head.trees.capture import Wish, capture
from rookery.head.trees.trees import Trees

directory, port, root, *options = sys.argv[1:]
paths = Paths(Path(directory))
catalog, store = Catalog.open(f"sqlite:///{paths.database}"), BlobStore(paths.blobs)
trees = Trees(paths.trees, paths.work, catalog, store, Publisher(store, SiteKey.load(paths), catalog, make_torrent))
machine = Remote("127.0.0.1", paths.known_hosts, port=int(port), root=root, options=tuple(options))
capture(trees, Wish(machine, "golden"), "", lambda told: print(told.done, flush=True), threading.Event())
