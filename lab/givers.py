# SPDX-License-Identifier: Apache-2.0
"""A node that gives, and those who take from it, as processes: `python -m lab.givers ROLE DIRECTORY ...`.

DIRECTORY is a `Shelf`. The node runs the real code of node/fetch; the takers do as little as they can, so that what a
machine does is the giver's work. Each prints a line when it is ready and goes on until it is ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab import netns
from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import silent
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fetch import Fetcher, seed
from rookery.node.fetch.metainfo import open_torrent
from rookery.node.fetch.swarm import Swarm
from rookery.relay import frames
from rookery.relay.frames import RELAY_PORT
from rookery.run import PIPE, Child
from rookery.wire import routes
from rookery.wire.engine import NODE_PORT
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import SeedPolicy, Source
from rookery.wire.relay import Feed, Place

TOP = Path(__file__).resolve().parents[1]
HEAD = "10.88.0.1"
HTTP_PORT = 8470
KEY = "5a" * 32
CREDENTIAL = "word"
MB = 1_000_000


@dataclass(frozen=True)
class Shelf:
    """A directory with `blob`, `torrent` and `blob.json`."""

    directory: Path

    def fill(self, size: int) -> None:
        """Put a blob of random bytes on it. size: MB (10^6 bytes)."""
        with self.path.open("wb") as out:
            for _ in range(size):
                out.write(os.urandom(MB))
        made = make_torrent(self.path, "data.bin", silent, threading.Event())
        (self.directory / "torrent").write_bytes(made.torrent)
        digest = files.sha256_file(self.path)
        blob = Blob(Role.DATA, "data.bin", size * MB, digest, made.info_hash, made.info_hash_v1)
        (self.directory / "blob.json").write_text(codec.dumps(blob))

    @property
    def path(self) -> Path:
        """Of the bytes."""
        return self.directory / "blob"

    @property
    def blob(self) -> Blob:
        """Their description."""
        return codec.loads(Blob, (self.directory / "blob.json").read_bytes())

    @property
    def torrent(self) -> bytes:
        """The bytes of the .torrent."""
        return (self.directory / "torrent").read_bytes()


@contextlib.contextmanager
def started(room: netns.Room, host: netns.Host, role: str, shelf: Shelf, *words: object) -> Iterator[Child]:
    """One of the roles inside a host, from when it is ready until the block is left. Raises RookeryError `failed`."""
    argv = [sys.executable, "-m", "lab.givers", role, str(shelf.directory), *map(str, words)]
    with room.process(host, argv, stdout=PIPE, cwd=TOP) as child:
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise RookeryError(f"the {role} did not start", kind=ErrorKind.FAILED)
        yield child


def head(_shelf: Shelf, given: argparse.Namespace) -> None:
    """A head that knows nothing and refuses nothing: everybody's key is the same, nobody is named. With --parents,
    whoever lacks something shall take it from these, nearest first."""
    feeds = (Feed(0, 1, tuple(given.parents)),) if given.parents else ()
    answer = codec.dumps(Place(feeds, KEY, 10.0)).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(200, answer if self.path.startswith(routes.CHAIN) else b"{}")

        def do_GET(self) -> None:
            known = self.path.startswith(routes.ANNOUNCE)
            self.answer(200 if known else 503, b"d8:intervali60e5:peers0:e" if known else b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer((HEAD, HTTP_PORT), Handler)
    print("ready", flush=True)
    server.serve_forever()


def background() -> None:
    """Schedule this process as `rookery-seed.service` is (node/units.py)."""
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def giver(shelf: Shelf, given: argparse.Namespace) -> None:
    """What `rookery-seed.service` runs: gives its whole copy, in the background, at --rate."""
    background()
    policy = SeedPolicy(rate=given.rate)
    print("ready", flush=True)
    seed(shelf.blob, shelf.torrent, _source(given), shelf.path, policy, _stopped())


def fetcher(shelf: Shelf, given: argparse.Namespace) -> None:
    """A node that fetches (the head says from whom), and gives meanwhile and afterwards; --rate as orders tell it."""
    stop = _stopped()
    with (
        tempfile.TemporaryDirectory(dir=shelf.directory) as made,
        Fetcher(shelf.blob, shelf.torrent, _source(given), Path(made, "got"), stop=stop) as node,
    ):
        print("ready", flush=True)
        with contextlib.suppress(RookeryError):
            node.run()
            node.give(None)


def relay(shelf: Shelf, given: argparse.Namespace) -> None:
    """Takes everything that the relay of --giver sends, and throws it away."""
    count = open_torrent(shelf.torrent, shelf.blob).pieces
    room = memoryview(bytearray(1 << 20))
    print("ready", flush=True)
    while True:
        with contextlib.suppress(OSError), socket.create_connection((given.giver, RELAY_PORT), 5) as connection:
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 64 << 10)
            connection.sendall(frames.hello(frames.Greeting(shelf.blob.sha256, KEY), bytes((count + 7) // 8)))
            while connection.recv_into(room):
                pass
        time.sleep(0.2)


def mesh(shelf: Shelf, given: argparse.Namespace) -> None:
    """Fetches by BitTorrent from --giver, again and again."""
    metainfo = open_torrent(shelf.torrent, shelf.blob)
    print("ready", flush=True)
    while True:
        with tempfile.TemporaryDirectory(dir=shelf.directory) as made:
            swarm = Swarm(_source(given), NODE_PORT)
            swarm.join(metainfo, Path(made, "got"), have=[False] * metainfo.pieces)
            while not swarm.look(0.5).finished:
                pass
            swarm.close()


def _source(given: argparse.Namespace) -> Source:
    seeders = (f"{given.giver}:{NODE_PORT}",) if given.giver else ()
    return Source(f"http://{HEAD}:{HTTP_PORT}", CREDENTIAL, seeders, given.rate)


def _stopped() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


ROLES = {made.__name__: made for made in (head, giver, fetcher, relay, mesh)}


def main() -> None:
    """Play a role."""
    parser = argparse.ArgumentParser(prog="python -m lab.givers", description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("shelf", type=Path)
    parser.add_argument("--rate", type=int, default=0, help="bytes per second, 0: no cap")
    parser.add_argument("--giver", default="", help="the address of who gives")
    parser.add_argument("--parents", nargs="*", default=(), help="address:port")
    parser.add_argument("--idle", action="store_true", help="run only where nobody else wants the processor")
    given = parser.parse_args()
    if given.idle:
        background()
    ROLES[given.role](Shelf(given.shelf), given)


if __name__ == "__main__":
    main()
