# SPDX-License-Identifier: Apache-2.0
"""A head with nothing but what a swarm needs, as a process: the real seeder and tracker behind a small HTTP server.

    head_process.py DIRECTORY ADDRESS [--no-seeder] [--credential WORD]

DIRECTORY has `blob`; it gets `torrent` and `offer.json` when they are not there. Prints one JSON object a line:
{"ready": true}, {"bad": sha256, "message": ...}, and when it is ended {"swarm": bytes, "http": bytes, "refused":
calls}.
"""

import argparse
import base64
import json
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from nacl.signing import SigningKey

from rookery import codec, files
from rookery.errors import RookeryError
from rookery.head.progress import silent
from rookery.head.swarm import tracker
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.torrent import make_torrent
from rookery.node.trust import open_manifest
from rookery.wire import routes
from rookery.wire.manifest import Blob, Manifest, Role, SignedManifest, VersionKind, payload_of, version_id
from rookery.wire.orders import FetchOffer, Source

HTTP_PORT, SWARM_PORT = 8470, 8471
KEY = SigningKey(bytes(32))


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def prepare(directory: Path, address: str, credential: str) -> Blob:
    path, offer = directory / "blob", directory / "offer.json"
    if not offer.exists():
        made = make_torrent(path, "data.bin", silent, threading.Event())
        (directory / "torrent").write_bytes(made.torrent)
        digest = files.sha256_file(path)
        blob = Blob(Role.DATA, "data.bin", path.stat().st_size, digest, made.info_hash, made.info_hash_v1)
        manifest = Manifest(version_id(VersionKind.FILE, (blob,)), VersionKind.FILE, "data", 0, (blob,))
        payload = payload_of(manifest)
        key, signature = KEY.verify_key.encode().hex(), KEY.sign(payload).signature.hex()
        signed = SignedManifest(base64.b64encode(payload).decode(), key, signature)
        source = Source(f"http://{address}:{HTTP_PORT}", credential, (f"{address}:{SWARM_PORT}",))
        offer.write_text(codec.dumps(FetchOffer(signed, source)))
    read = codec.loads(FetchOffer, offer.read_bytes())
    return open_manifest(read.manifest, KEY.verify_key.encode().hex()).blobs[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path
    blob: Blob
    credential: str
    registry: tracker.Tracker
    sent = 0
    refused = 0

    def log_message(self, *_words: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith(routes.ANNOUNCE + "/"):
            self.announce(parts.path.rpartition("/")[2], parts.query)
        elif self.headers.get("Authorization") != f"Bearer {self.credential}":
            Handler.refused += 1
            self.answer(401, b"no credential")
        elif parts.path == f"{routes.TORRENT}/{self.blob.sha256}":
            self.answer(200, (self.directory / "torrent").read_bytes())
        elif parts.path == f"{routes.BLOB}/{self.blob.sha256}":
            self.bytes_of_blob()
        else:
            self.answer(404, b"no such path")

    def announce(self, credential: str, query: str) -> None:
        if credential != self.credential:
            Handler.refused += 1
            self.answer(200, tracker.failure("no such credential"))
            return
        try:
            asked = tracker.parse(query.encode("latin-1"), self.client_address[0])
            self.answer(200, tracker.encode(self.registry.announce(asked, time.monotonic())))
        except RookeryError as error:
            self.answer(200, tracker.failure(str(error)))

    def bytes_of_blob(self) -> None:
        size = (self.directory / "blob").stat().st_size
        matched = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert matched
        first, last = int(matched[1]), min(int(matched[2] or size - 1), size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with (self.directory / "blob").open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left:
                block = file.read(min(left, 65536))
                self.wfile.write(block)
                Handler.sent += len(block)
                left -= len(block)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, *_words: object) -> None:
        pass  # nodes that are killed break off


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("address")
    parser.add_argument("--no-seeder", action="store_true")
    parser.add_argument("--no-tracker-seeder", action="store_true")
    parser.add_argument("--credential", default="word")
    words = parser.parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    blob = prepare(words.directory, words.address, words.credential)
    Handler.directory, Handler.blob, Handler.credential = words.directory, blob, words.credential
    seeder = Seeder(lambda sha256, message: say(bad=sha256, message=message))
    if not words.no_seeder:
        seeder.start()
        seeder.add(words.directory / "blob", (words.directory / "torrent").read_bytes(), blob.sha256)
    Handler.registry = tracker.Tracker(
        [] if words.no_seeder or words.no_tracker_seeder else [f"{words.address}:{SWARM_PORT}"]
    )
    Handler.registry.serve(blob.info_hash, blob.info_hash_v1)
    server = Server((words.address, HTTP_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(ready=True)
    while not stopping.wait(0.2):  # a signal that another thread takes does not end an endless wait
        pass
    swarm = sum(given.sent for given in seeder.stats())
    say(swarm=swarm, http=Handler.sent, refused=Handler.refused)
    seeder.stop()


main()
