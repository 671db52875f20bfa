# SPDX-License-Identifier: Apache-2.0
"""Versions that a node holds in memory from an earlier try of this boot, when its orders now name another one: the new
one is filled from them, as far as there is memory for both."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from rookery.node import places
from rookery.node.fetch.fetch import part_path
from rookery.node.fetch.olds import write_sidecar
from rookery.node.modes.ram import LEAST_FREE
from rookery.wire import chunks
from rookery.wire.manifest import Blob

_WHOLE = re.compile("[0-9a-f]{64}")  # only a blob whose digest was compared has this name
_AVAILABLE = re.compile(r"(?m)^MemAvailable:\s+(\d+) kB$")


def keep(blob: Blob) -> None:
    """Leave the whole blobs of other versions, each with a sidecar by which the fetcher fills this one from them.

    All else that is not of this blob is removed, and so are they when the memory that is left would not do for it
    beside them.
    """
    olds = [path for path in places.BLOBS.iterdir() if _WHOLE.fullmatch(path.name) and path.name != blob.sha256]
    part = part_path(places.BLOBS / blob.sha256)
    there = part.stat().st_blocks * 512 if part.exists() else 0
    if _available() < blob.size - there + LEAST_FREE:
        olds = []
    drop(blob, olds)
    for old in olds:
        write_sidecar(old, chunks.stub(old.name, old.stat().st_size))


def drop(blob: Blob, but: Collection[Path] = ()) -> None:
    """Remove what is not of this blob."""
    for path in places.BLOBS.iterdir():
        if path not in but and not path.name.startswith((blob.sha256, f".{blob.sha256}")):
            path.unlink() if path.is_file() else shutil.rmtree(path)


def _available() -> int:
    """Bytes of memory that can be had without taking them from anybody: proc(5), MemAvailable."""
    found = _AVAILABLE.search(places.MEMINFO.read_text())
    return int(found[1]) << 10 if found else 0
