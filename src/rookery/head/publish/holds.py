# SPDX-License-Identifier: Apache-2.0
"""Which versions a job is reading just now, so that they are not collected under its hands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from rookery.head.catalog.rows import Version


class Holds:
    """Thread-safe. A version is held before anybody can decide that it goes, or looked up after it went."""

    def __init__(self) -> None:
        self._gate = threading.RLock()
        self._held: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def hold(self, find: Callable[[], Version], why: str) -> Iterator[Version]:
        """Look a version up (`find` raises RookeryError when it is gone) and hold it until the block is left."""
        with self._gate:
            version = find()
            held = (version.id, why)
            self._held.append(held)
        try:
            yield version
        finally:
            with self._gate:
                self._held.remove(held)

    @contextlib.contextmanager
    def settled(self) -> Iterator[dict[str, str]]:
        """Version id -> why it is held; inside the block no other is added."""
        with self._gate:
            yield dict(self._held)
