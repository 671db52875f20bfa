# SPDX-License-Identifier: Apache-2.0
"""Asks the head for a blob's torrent, for a node that nobody in the chain gives it to."""

from __future__ import annotations

import random
import threading
import time

from rookery.errors import ErrorKind, RookeryError
from rookery.log import logger
from rookery.node.fetch import policy
from rookery.node.fetch.loop import cancelled
from rookery.node.fetch.metainfo import MAX_TORRENT
from rookery.node.fetch.ranges import get
from rookery.wire import routes
from rookery.wire.manifest import Blob
from rookery.wire.orders import Source

log = logger(__name__)

NO_TORRENT = 120.0  # s without one from anybody, after which a fetch has failed


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
