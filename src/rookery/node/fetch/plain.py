# SPDX-License-Identifier: Apache-2.0
"""The way of blobs without a torrent (kernel, drivers): one HTTP request, continued where the last one broke off."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.node.fetch.loop import TELL, OnTransfer, cancelled
from rookery.node.fetch.policy import Limits, retry_delay
from rookery.node.fetch.ranges import Connection
from rookery.node.fetch.stats import Ledger
from rookery.node.fetch.swarm import disk_error
from rookery.wire import routes
from rookery.wire.manifest import Blob
from rookery.wire.orders import Source


def fetch_plain(
    blob: Blob,
    source: Source,
    part: Path,
    ledger: Ledger,
    tell: OnTransfer,
    stop: threading.Event,
    limits: Limits,
) -> None:
    """Append to `part` until it has the blob's size; its digest is the caller's business. Raises RookeryError: as
    `Connection.blocks`, `cancelled`, `no-space`, and `unavailable` when nothing came for `limits.give_up`."""
    done = ledger.had = min(part.stat().st_size if part.exists() else 0, blob.size)
    connection = Connection(routes.blob_url(source.head, blob.sha256), source.credential)
    dice, failures = random.Random(), 0  # noqa: S311 - jitter
    last, told = time.monotonic(), 0.0
    try:
        with part.open("ab") as file:
            file.truncate(done)
            while done < blob.size:
                try:
                    for block in connection.blocks(done, blob.size - 1):
                        file.write(block)
                        done, last, failures = done + len(block), time.monotonic(), 0
                        ledger.http(len(block), last)
                        if last - told >= TELL:
                            told = last
                            tell(ledger.transfer(done, 0, 0, last))
                        if stop.is_set():
                            raise cancelled(blob)
                except RookeryError as error:
                    failures += 1
                    if error.kind is not ErrorKind.UNAVAILABLE or time.monotonic() - last > limits.give_up:
                        raise
                    stop.wait(retry_delay(failures, dice.random()))
    except OSError as error:
        raise disk_error(error) from error
    finally:
        connection.close()
    tell(ledger.transfer(done, 0, 0, time.monotonic()))
