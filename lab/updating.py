# SPDX-License-Identifier: Apache-2.0
"""One real update on loopback: a relay that has the new version, a head's few answers, the node's own fetch code."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rookery import codec, files
from rookery.head.progress import silent
from rookery.head.publish.chunker import Chunker
from rookery.head.publish.pieces import piece_size
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fetch import Fetcher
from rookery.relay.book import Book
from rookery.relay.giver import Giver, Shelf
from rookery.wire import routes
from rookery.wire.chunks import dump
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import Source
from rookery.wire.relay import Feed, Place

LOOPBACK, WORD, KEY = "127.0.0.1", "word", "ab" * 32
MB = 1_000_000


def fetched(old: Path, new: Path, place: Path) -> dict[str, float]:
    """Update a copy of `old` to `new`; what went over the wire, in MB. blob: of the file itself. index: of the chunk
    indexes that were asked for. torrent: of the torrent, if it was. sent: what the relay counted."""
    answers: dict[str, bytes] = {}
    asked: list[str] = []
    digest = files.sha256_file(new)
    made = make_torrent(new, "root.squashfs", silent, threading.Event())
    for path in (old, new):
        sha256 = files.sha256_file(path)
        answers[f"{routes.CHUNKS}/{sha256}"] = _index(path, sha256)
    answers[f"{routes.TORRENT}/{digest}"] = made.torrent
    chunks = hashlib.sha256(answers[f"{routes.CHUNKS}/{digest}"]).hexdigest()
    size = new.stat().st_size
    blob = Blob(Role.ROOT, "root.squashfs", size, digest, made.info_hash, made.info_hash_v1, chunks)
    piece = piece_size(size)
    giver = Giver(LOOPBACK, 0)
    try:
        giver.put(digest, Shelf(new, size, piece, Book(-(-size // piece), complete=True), KEY))
        where = Place((Feed(0, 1, (f"{LOOPBACK}:{giver.port}",)),), KEY, 60.0)
        with _head(codec.dumps(where).encode(), answers, asked) as url:
            source = Source(url, WORD)
            with Fetcher(blob, b"", source, place / "updated", have=[old], relay_port=0) as fetcher:
                stats = fetcher.run()
        sent = giver.sent
    finally:
        giver.close()
        (place / "updated").unlink(missing_ok=True)
    return {
        "blob": (stats.bytes_from_head + stats.bytes_from_peers) / MB,
        "index": _size(answers, asked, routes.CHUNKS),
        "torrent": _size(answers, asked, routes.TORRENT),
        "sent": sent / MB,
        "had": stats.bytes_filled / MB,
    }


def _size(answers: dict[str, bytes], asked: list[str], route: str) -> float:
    return sum(len(answers[path]) for path in asked if path.startswith(route)) / MB


def _index(path: Path, sha256: str) -> bytes:
    chunker = Chunker(path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        while block := file.read(files.BLOCK):
            chunker.add(block)
    return dump(chunker.index(sha256))


@contextlib.contextmanager
def _head(place: bytes, answers: dict[str, bytes], asked: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(200, place)

        def do_GET(self) -> None:
            if self.path.startswith(routes.ANNOUNCE):
                self.answer(200, b"d8:intervali60e5:peers0:e")
            elif self.path in answers:
                asked.append(self.path)
                self.answer(200, answers[self.path])
            else:
                self.answer(404, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
