# SPDX-License-Identifier: Apache-2.0
"""A fetching node as a process: node_process.py OFFER.json TO [--seed SECONDS] [--credential WORD]

Prints one JSON object a line: {"done": bytes, ...} while it fetches, then the FetchStats as {"stats": ...} or {"error":
kind, "message": ...}; with --seed it goes on giving afterwards.
"""

import argparse
import dataclasses
import json
import signal
import sys
import threading
from pathlib import Path

from rookery import codec, log
from rookery.errors import RookeryError
from rookery.node.fetch.fetch import Fetcher
from rookery.node.fetch.policy import Limits
from rookery.node.trust import open_manifest
from rookery.wire.orders import FetchOffer


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("offer", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--torrent", type=Path)
    parser.add_argument("--seed", type=float, default=0.0)
    parser.add_argument("--credential", default="")
    parser.add_argument("--give-up", type=float, default=60.0)
    words = parser.parse_args()
    log.setup(verbose=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    offer = codec.loads(FetchOffer, words.offer.read_bytes())
    source = dataclasses.replace(offer.source, credential=words.credential or offer.source.credential)
    blob = open_manifest(offer.manifest, offer.manifest.key).blobs[0]
    torrent = (words.torrent or words.offer.with_name("torrent")).read_bytes()
    limits = Limits(give_up=words.give_up)
    try:
        with Fetcher(
            blob, torrent, source, words.to, lambda at: say(**codec.encode(at)), stop, limits=limits
        ) as fetcher:
            say(stats=codec.encode(fetcher.run()))
            if words.seed:
                say(gave=fetcher.give(words.seed).sent)
    except RookeryError as error:
        say(error=error.kind, message=str(error), details=error.record.details)
        sys.exit(1)


main()
