# SPDX-License-Identifier: Apache-2.0
"""One node of the benchmark: the real fetch code in a process of its own, held at a barrier until it is told to go.

It imports everything, says that it is ready and waits for a line on standard input. Then it reads the offer, fetches,
checks the digest, and goes on giving until its standard input is closed. It speaks in JSON lines on standard output:
times are CLOCK_MONOTONIC, which all processes of one machine share, so that they need no common start.
"""

from __future__ import annotations

import argparse
import encodings.idna  # noqa: F401 - what a process's first look-up of an address imports
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.node import timestamps
from rookery.node.fetch.fetch import Fetcher
from rookery.node.fetch.offer import read_offer
from rookery.node.trust import open_manifest
from rookery.relay.giver import Giver, Shelf
from rookery.wire.report import Transfer

AGAIN = 0.5  # s until a step that failed is done again, as the agent does
SPOILT = 1 << 14  # one byte in this many is wrong in the file of a node that gives garbage: in every block


def main() -> int:
    """Run one node; 0 when it has everything, or was told to end."""
    parser = argparse.ArgumentParser(prog="python -m lab.swarm.node", description=__doc__)
    parser.add_argument("url", help="as 'rookery ticket' prints it")
    parser.add_argument("--to", type=Path, required=True, help="directory for the file")
    parser.add_argument("--garbage", action="store_true", help="spoil the own copy when it is whole, and give that")
    parser.add_argument("--lie", action="store_true", help="spoil every piece on its way to the next node")
    given = parser.parse_args()
    if given.lie:
        Giver.send = _spoilt  # type: ignore[method-assign, assignment]
    timestamps.omit()  # as an agent, which has the machine for itself
    _say("ready")
    if not sys.stdin.readline():
        return 0
    stop = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    try:
        _take_part(given.url, given.to, given.garbage, stop)
    except RookeryError as error:
        if error.kind is not ErrorKind.CANCELLED:
            _say("failed", message=error.record.message)
            return 1
    return 0


def _take_part(url: str, to: Path, garbage: bool, stop: threading.Event) -> None:
    first: list[float] = []

    def tell(transfer: Transfer) -> None:
        if not first and transfer.from_head + transfer.from_peers > 0:
            first.append(time.monotonic())
        _say("progress", done=transfer.done, rate=transfer.rate)

    while True:
        try:
            fetcher = _prepared(url, to, tell, stop)
            break
        except RookeryError as error:
            if error.kind is not ErrorKind.UNAVAILABLE or stop.wait(AGAIN):
                raise
            _say("again", message=error.record.message)
    prepared = time.monotonic()
    with fetcher:
        stats = asdict(fetcher.run())
        ended = time.monotonic()
        # The engine's own clock where it has one: on_progress is called twice a second only.
        exact = stats.get("first_byte_seconds")
        byte = prepared + exact if exact else first[0] if first else ended
        _say("done", at=ended, joined=prepared, first_byte=byte, stats=stats)
        if garbage:
            _spoil(to)
            _say("spoilt")
        fetcher.give(None, stop)


def _prepared(url: str, to: Path, tell: object, stop: threading.Event) -> Fetcher:
    """What `fetch_offer` does before it fetches."""
    assert callable(tell)
    offer, key = read_offer(url)
    manifest = open_manifest(offer.manifest, key or "")
    (blob,) = manifest.blobs
    return Fetcher(blob, b"", offer.source, to / blob.name, tell, stop)


def _spoil(to: Path) -> None:
    """Flip a byte in every block of the finished file, in place: what gives it reads the wrong bytes from here on."""
    for path in to.iterdir():
        path.chmod(0o644)
        with path.open("r+b") as file:
            for place in range(0, path.stat().st_size, SPOILT):
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 0xFF]))


def _spoilt(giver: Giver, connection: socket.socket, shelf: Shelf, place: int, left: int) -> None:
    """In place of `Giver.send`: a node that has the right bytes and gives wrong ones."""
    data = bytearray(os.pread(shelf.handle, left, place))
    data[0] ^= 0xFF
    giver.allowance.take(left)
    connection.sendall(data)
    shelf.sent += left


def _wait_for_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, "now": time.monotonic(), **more}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
