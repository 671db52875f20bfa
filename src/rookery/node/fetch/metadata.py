# SPDX-License-Identifier: Apache-2.0
"""A blob's torrent and chunk index: taken from a parent, passed on while they come, checked when they are whole.

Asked for at the head by every node, they would be the head's largest gift (a torrent has 52 bytes a piece: at 10,000
nodes eight copies of the blob). The head is asked when no parent gives a right one (decision 18).
"""

from __future__ import annotations

import hashlib
import random
import threading
import time

from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch import policy
from rookery.node.fetch.loop import cancelled
from rookery.node.fetch.metainfo import MAX_TORRENT, Metainfo, open_torrent
from rookery.node.fetch.ranges import get
from rookery.relay.giver import Giver
from rookery.relay.incoming import Incoming
from rookery.relay.taker import take_metadata
from rookery.wire import routes
from rookery.wire.chunks import MAX_INDEX
from rookery.wire.manifest import Blob
from rookery.wire.orders import Source
from rookery.wire.relay import Place

log = logger(__name__)

PARENT_SECONDS = 10.0  # for one parent to give it
NO_TORRENT = 120.0  # s without one from anybody, after which a fetch has failed


class Metadata:
    """One blob's. torrent: if it is at hand."""

    def __init__(self, blob: Blob, source: Source, torrent: bytes) -> None:
        self._blob, self._source = blob, source
        self._torrent, self._index = Incoming(torrent), Incoming()
        self._wants_index = False
        self._opened: Metainfo | None = None

    @property
    def metainfo(self) -> Metainfo:
        """The torrent, opened; after `take`, or with one at hand. Raises RookeryError as `open_torrent`."""
        if self._opened is None:  # opening it takes a digest for each piece: once
            self._opened = open_torrent(self._torrent.content(), self._blob)
        return self._opened

    @property
    def index(self) -> bytes:
        """The chunk index, if a parent gave it."""
        return self._index.content() if self._index.whole else b""

    def want_index(self) -> None:
        """Take the chunk index, too, where the blob has one."""
        self._wants_index = bool(self._blob.chunks)

    def expect(self, giver: Giver) -> None:
        """Let children wait for it."""
        if self._wants_index:
            giver.expect(self._blob.chunks)

    def put(self, giver: Giver, key: str) -> None:
        """Give it to the children of the chain `key`, as far as it is there."""
        giver.put_metadata(self._blob.sha256, self._torrent, key)
        if self._wants_index:
            giver.put_metadata(self._blob.chunks, self._index, key)

    def take(self, place: Place | None, giver: Giver | None, stop: threading.Event) -> None:
        """Take what is wanted from a parent of `place`. The torrent is asked for at the head where that fails, and put
        on `giver` anew then. Raises RookeryError as `get_torrent`."""
        if not self._torrent.whole:
            self._take_torrent(place, giver, stop)
        if self._wants_index and not self._index.whole:
            self._take_index(place, stop)

    def _take_torrent(self, place: Place | None, giver: Giver | None, stop: threading.Event) -> None:
        if self._take(place, self._blob.sha256, self._torrent, MAX_TORRENT, stop):
            try:
                self._opened = open_torrent(self._torrent.content(), self._blob)
                return
            except RookeryError as error:
                log.warning("the torrent that came down the chain is not right: %s", error)
        self._torrent = Incoming(get_torrent(self._blob, self._source, stop))
        if giver is not None and place is not None:
            giver.put_metadata(self._blob.sha256, self._torrent, place.key)

    def _take_index(self, place: Place | None, stop: threading.Event) -> None:
        wanted = self._blob.chunks
        taken = self._take(place, wanted, self._index, MAX_INDEX, stop)
        if not taken or hashlib.sha256(self._index.content()).hexdigest() != wanted:
            self._index.close()
            self._index, self._wants_index = Incoming(), False

    def _take(self, place: Place | None, digest: str, to: Incoming, most: int, stop: threading.Event) -> bool:
        """Take what a parent has under `digest`; whether all of it came."""
        if place is None:
            return False
        for endpoint in place.feeds[0].parents if place.feeds else ():
            try:
                take_metadata(endpoint, digest, place.key, to, most, PARENT_SECONDS)
                return True
            except RookeryError as error:
                log.info("%s", error)
                if error.kind is not ErrorKind.UNAVAILABLE:
                    return False
            if stop.is_set():
                raise cancelled(self._blob)
        return False


def get_torrent(blob: Blob, source: Source, stop: threading.Event) -> bytes:
    """The torrent of a blob from the head, which is asked for two minutes. Raises RookeryError `cancelled`,
    `unavailable`, or as the head answers."""
    began, failures, dice = time.monotonic(), 0, random.Random()  # noqa: S311 - jitter
    while True:
        try:
            return get(routes.torrent_url(source.head, blob.sha256), source.credential, MAX_TORRENT)
        except RookeryError as error:
            failures += 1
            if error.kind is not ErrorKind.UNAVAILABLE or time.monotonic() - began > NO_TORRENT:
                raise
            log.info("no torrent: %s", error)
        if stop.wait(policy.retry_delay(failures, dice.random())):
            raise cancelled(blob)
