# SPDX-License-Identifier: Apache-2.0
"""A blob's opening on a node: taken from whom the head named, checked, put into the file, and given to others.

It comes by a tree that is much less deep than the chain, so the last of many nodes has its first bytes, and knows that
it is served, long before its turn. Where it does not come, nothing is lost: the chain brings the same bytes later.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from rookery.errors import RookeryError
from rookery.log import logger
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.partfile import Origin
from rookery.relay.giver import Giver
from rookery.relay.incoming import Incoming
from rookery.relay.taker import split, take_metadata
from rookery.wire import opening
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob
from rookery.wire.relay import Place

log = logger(__name__)

SECONDS = 10.0  # for it to come: as long as for a torrent


class Opening:
    """One blob's. part: the file that grows. head: the head's address.

    origin: who gave it. at: when it was in the file (monotonic seconds; None: it is not).
    """

    def __init__(self, blob: Blob, part: Path, head: str) -> None:
        self._blob, self._part, self._head = blob, part, head
        self._given = Incoming(payload=min(blob.size, BLOCK))
        self._lock = threading.Lock()
        self._came = Incoming()
        self._settled = False
        self.origin: Origin | None = None
        self.at: float | None = None

    def expect(self, giver: Giver) -> None:
        """Let others wait for it."""
        if self._blob.pieces_root:
            giver.expect(self._blob.pieces_root)

    def put(self, giver: Giver, key: str) -> None:
        """Give it to others of the chain `key`, once it is there."""
        if self._blob.pieces_root:
            giver.put_metadata(self._blob.pieces_root, self._given, key)

    @property
    def wanted(self) -> bool:
        """Whether a node that has nothing yet can do something with it."""
        return bool(self._blob.pieces_root) and self._blob.size > BLOCK

    def take(self, place: Place) -> None:
        """Begin to take it into the file, which nobody else has begun, in a thread of its own."""
        if not place.opener or not self.wanted:
            self._given.close()
        else:
            threading.Thread(target=self._take, args=(place,), name="opening", daemon=True).start()

    def make(self, metainfo: Metainfo, path: Path) -> None:
        """Make it from a file that is whole, where it did not come."""
        if not self._blob.pieces_root or self._given.whole:
            return
        try:
            with path.open("rb") as file:
                first = file.read(metainfo.piece_size)
            self._believe(opening.dump(first, metainfo.layer, metainfo.size, metainfo.piece_size))
        except OSError as error:
            log.info("no opening: %s", error)
        if not self._given.whole:
            self._given.close()

    def settle(self) -> Origin | None:
        """From now on others write into the file; who gave the block that is in there, None when it is not. One that is
        on its way is still given to others."""
        with self._lock:
            self._settled = True
            return self.origin if self.at is not None else None

    def close(self) -> None:
        """Nobody is given it any more."""
        self.settle()
        self._came.close()

    def _take(self, place: Place) -> None:
        try:
            size = opening.length(self._blob.size)
            take_metadata(place.opener, self._blob.pieces_root, place.key, self._came, size, SECONDS)
            if self._believe(self._came.content()):
                self._write(place.opener)
        except (RookeryError, OSError) as error:
            log.info("no opening: %s", error)
        if not self._given.whole:
            self._given.close()

    def _believe(self, content: bytes) -> bool:
        right = opening.check(content, self._blob.size, self._blob.pieces_root) is not None
        if right:
            self._given.add(0, content, len(content))
        else:
            log.warning("the opening of %s that came is not right", self._blob.name)
        return right

    def _write(self, opener: str) -> None:
        address = split(opener)[0]
        block = self._given.content()[-BLOCK:]
        with self._lock:
            if self._settled:
                return
            handle = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                written = os.pwrite(handle, block, 0)
            finally:
                os.close(handle)
            if written == BLOCK:
                self.origin, self.at = Origin(address, address == self._head), time.monotonic()
