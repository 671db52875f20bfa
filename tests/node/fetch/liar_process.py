# SPDX-License-Identifier: Apache-2.0
"""A peer that gives garbage: liar_process.py OFFER.json FILE. It says that it has everything; FILE is what it gives."""

import json
import sys
import time
from pathlib import Path

import libtorrent as lt

from rookery import codec
from rookery.wire import engine, routes
from rookery.wire.orders import FetchOffer
from rookery.wire.torrents import v1_form

offer = codec.loads(FetchOffer, Path(sys.argv[1]).read_bytes())
settings = {**engine.node_settings(), "disable_hash_checks": True}
session = lt.session(settings)
torrent = Path(sys.argv[1]).with_name("torrent").read_bytes()
params = lt.load_torrent_buffer(lt.bencode(v1_form(lt.bdecode(torrent))))
params.save_path, params.renamed_files = str(Path(sys.argv[2]).parent), {0: Path(sys.argv[2]).name}
params.trackers = [routes.announce_url(offer.source.head, offer.source.credential)]
params.flags = lt.torrent_flags.seed_mode
handle = session.add_torrent(params)
print(json.dumps({"ready": True}), flush=True)
while True:
    time.sleep(0.2)
    print(json.dumps({"gave": handle.status().total_payload_upload}), flush=True)
