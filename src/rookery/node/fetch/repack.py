# SPDX-License-Identifier: Apache-2.0
"""An older version of a tree as the archive that it came from: packing is deterministic, so the directory is packed
again for as long as a fetch needs it, and its sidecar (olds.py) tells of which chunks it was."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch.olds import sidecar_path
from rookery.packing import tree
from rookery.wire import chunks

log = logger(__name__)


@contextlib.contextmanager
def packed_again(have: Sequence[Path], name: str, to: Path, stop: threading.Event) -> Iterator[tuple[Path, ...]]:
    """Archives in `to` of the trees among `have`, or called `name` in a directory of it; gone when the block is left.

    Only directories with a sidecar are packed: those that were fetched. What cannot be packed, or has no room, is left
    out. Raises RookeryError `cancelled`.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for number, directory in enumerate(_trees(have, name)):
            archive = to / f".{name}.{number}.older"
            stack.callback(_remove, archive)
            try:
                known = sidecar_path(directory).read_bytes()
                files.require_space(to, chunks.blob_of(known)[1], f"packing {directory}")
                tree.pack(directory, archive, lambda *_: None, stop)
                files.write_atomic(sidecar_path(archive), known)
                found.append(archive)
            except (OSError, RookeryError) as error:
                if isinstance(error, RookeryError) and error.kind is ErrorKind.CANCELLED:
                    raise
                log.warning("%s is not used to fill the new version: %s", directory, error)
        yield tuple(found)


def _trees(have: Sequence[Path], name: str) -> list[Path]:
    places = [place.absolute() for directory in have for place in (directory, directory / name)]
    return [place for place in dict.fromkeys(places) if place.is_dir() and sidecar_path(place).is_file()]


def _remove(archive: Path) -> None:
    archive.unlink(missing_ok=True)
    sidecar_path(archive).unlink(missing_ok=True)
