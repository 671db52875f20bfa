# SPDX-License-Identifier: Apache-2.0
"""Fetching from a real HTTP server and a real seeder on loopback, inside this process."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from rookery import codec
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.progress import silent
from rookery.head.publish.chunker import Chunker
from rookery.head.publish.tree import pack
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch import fetch as fetching
from rookery.node.fetch.fetch import Fetcher, fetch, part_path, seed
from rookery.node.fetch.metainfo import open_torrent
from rookery.node.fetch.offer import fetch_offer, read_offer, split_key
from rookery.node.fetch.olds import sidecar_path
from rookery.node.fetch.policy import Limits
from rookery.node.fetch.ranges import Connection, get
from rookery.node.fetch.swarm import Swarm
from rookery.wire import chunks, routes
from rookery.wire.chunks import dump
from rookery.wire.engine import HEAD_QUEUE
from rookery.wire.manifest import Blob, Manifest, Role, SignedManifest, VersionKind, payload_of, version_id
from rookery.wire.orders import FetchOffer, SeedPolicy, Source
from rookery.wire.report import Transfer

KEY = SigningKey(bytes(32))
PUBLIC = KEY.verify_key.encode().hex()
WORD = "word"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shelf: "Shelf"

    def log_message(self, *_words: object) -> None:
        pass

    def do_GET(self) -> None:
        shelf = self.shelf
        path = self.path.partition("?")[0]
        shelf.asked.append((self.path, self.headers.get("Range")))
        if path.startswith(routes.ANNOUNCE):
            self.answer(200, b"d8:intervali10e5:peers0:e")
        elif path == "/fetch/data:latest":
            self.answer(200, codec.dumps(shelf.offer).encode())
        elif self.headers.get("Authorization") != f"Bearer {WORD}":
            refusal = {"title": "no credential", "kind": "unauthorized", "details": "", "hint": "ask for a ticket"}
            self.answer(401, json.dumps(refusal).encode())
        elif shelf.status:
            self.answer(shelf.status.pop(0), b"out of order")
        elif path in shelf.files:
            self.content(shelf.files[path])
        else:
            self.answer(404, b"")

    def content(self, data: bytes) -> None:
        matched = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if matched is None or not self.shelf.ranges:
            self.answer(200, data)
            return
        first, last = int(matched[1]), min(int(matched[2] or len(data) - 1), len(data) - 1)
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.shelf.break_after:
            part, self.shelf.break_after = part[: self.shelf.break_after], 0
            self.close_connection = True
        self.wfile.write(part)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Shelf:
    """What the server has, and how it behaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.status: list[int] = []
        self.ranges = True
        self.break_after = 0
        self.offer: FetchOffer | None = None
        self.source = Source("", WORD)
        self.seeder: Seeder | None = None

    def put(self, content: bytes, role: Role = Role.DATA, name: str = "data.bin", swarm: bool = True) -> Blob:
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / digest
        path.write_bytes(content)
        self.files[f"{routes.BLOB}/{digest}"] = content
        if not swarm:
            return Blob(role, name, len(content), digest)
        made = make_torrent(path, name, silent, threading.Event())
        self.files[f"{routes.TORRENT}/{digest}"] = made.torrent
        chunker = Chunker(len(content))
        chunker.add(content)
        index = dump(chunker.index(digest))
        self.files[f"{routes.CHUNKS}/{digest}"] = index
        if self.seeder is not None:
            self.seeder.add(path, made.torrent)
        chunks = hashlib.sha256(index).hexdigest()
        return Blob(role, name, len(content), digest, made.info_hash, made.info_hash_v1, chunks)

    def torrent(self, blob: Blob) -> bytes:
        return self.files[f"{routes.TORRENT}/{blob.sha256}"]

    def publish(self, kind: VersionKind, *blobs: Blob, key: SigningKey = KEY) -> FetchOffer:
        manifest = Manifest(version_id(kind, blobs), kind, "data", 0, blobs)
        payload = payload_of(manifest)
        signed = SignedManifest(
            base64.b64encode(payload).decode(), key.verify_key.encode().hex(), key.sign(payload).signature.hex()
        )
        self.offer = FetchOffer(signed, self.source)
        return self.offer

    @property
    def url(self) -> str:
        return f"{self.source.head}/fetch/data:latest?ticket=t&key={PUBLIC}"


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    folder = tmp_path / "shelf"
    folder.mkdir()
    found = Shelf(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"shelf": found}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found.seeder = Seeder(lambda *_: None, "127.0.0.1", port)
    found.seeder.start()
    found.source = Source(f"http://127.0.0.1:{server.server_address[1]}", WORD, (f"127.0.0.1:{port}",))
    try:
        yield found
    finally:
        found.seeder.stop()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_file_comes_from_the_swarm_and_gets_its_name_at_the_end(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    blob = shelf.put(content)
    told: list[Transfer] = []
    to = tmp_path / "new" / "got"
    stats = fetch(blob, shelf.torrent(blob), shelf.source, to, told.append)
    assert to.read_bytes() == content
    assert not part_path(to).exists()
    assert stats.bytes_from_head_swarm == stats.bytes_total == 3_000_000
    assert (told[-1].done, told[-1].total, told[-1].from_head) == (3_000_000, 3_000_000, 3_000_000)


def test_a_file_that_is_right_already_costs_nothing(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    blob = shelf.put(content)
    (tmp_path / "got").write_bytes(content)
    stats = fetch(blob, shelf.torrent(blob), shelf.source, tmp_path / "got")
    assert (stats.bytes_had, stats.bytes_from_head, stats.bytes_from_peers) == (300_000, 0, 0)
    assert shelf.asked == []


def test_a_wrong_file_of_that_name_is_replaced(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    blob = shelf.put(content)
    (tmp_path / "got").write_bytes(bytes(300_000))
    fetch(blob, shelf.torrent(blob), shelf.source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content


def test_what_is_there_of_it_is_looked_through_and_kept(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(20 * 65536)
    blob = shelf.put(content)
    half = bytearray(content)
    half[10 * 65536 :] = bytes(10 * 65536)
    half[3 * 65536] ^= 1
    part_path(tmp_path / "got").write_bytes(half)
    stats = fetch(blob, shelf.torrent(blob), shelf.source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content
    assert stats.bytes_had == 9 * 65536
    assert stats.bytes_from_head == 11 * 65536


def test_what_came_before_anybody_looked_was_not_there_before(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(20 * 65536)
    blob = shelf.put(content)
    part_path(tmp_path / "got").write_bytes(content[: 5 * 65536])
    look = Swarm.have

    def late(swarm: Swarm) -> list[bool]:
        while not all(found := look(swarm)):
            time.sleep(0.01)
        return found

    monkeypatch.setattr(Swarm, "have", late)  # as on a machine that is slower than its network
    stats = fetch(blob, shelf.torrent(blob), shelf.source, tmp_path / "got")
    assert (stats.bytes_had, stats.bytes_from_head, stats.bytes_failed) == (5 * 65536, 15 * 65536, 0)


def test_another_torrent_is_refused_before_anything_is_fetched(shelf: Shelf, tmp_path: Path) -> None:
    blob, other = shelf.put(os.urandom(100_000)), shelf.put(os.urandom(100_000))
    with pytest.raises(RookeryError, match="not the one that the signed manifest names"):
        fetch(blob, shelf.torrent(other), shelf.source, tmp_path / "got")
    assert not list(tmp_path.glob("*got*"))


def test_few_requests_wait_at_the_head(shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.seeder is not None
    shelf.seeder.set_rate(4_000_000)
    blob = shelf.put(os.urandom(8_000_000))
    swarm, waiting = Swarm(shelf.source), [0]
    swarm.join(open_torrent(shelf.torrent(blob), blob), tmp_path / "part")
    try:
        while not swarm.look(0.02).finished:
            waiting += [info.download_queue_length for info in swarm._torrent.get_peer_info()]
    finally:
        swarm.close()
    # A second's worth is 244: what the head says it takes is what holds, not the asker's own settings.
    assert HEAD_QUEUE // 2 < max(waiting) <= HEAD_QUEUE


def test_without_a_seeder_http_brings_everything(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(10_000_000)
    blob = shelf.put(content)
    source = dataclasses.replace(shelf.source, seeders=())
    stats = fetch(blob, shelf.torrent(blob), source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content
    assert stats.bytes_from_head_http == stats.bytes_from_head == 10_000_000
    assert all(asked_range for path, asked_range in shelf.asked if path.startswith(routes.BLOB))


def test_a_server_without_ranges_is_not_believed(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(os.urandom(1_000_000))
    shelf.ranges = False
    source = dataclasses.replace(shelf.source, seeders=())
    fetcher = Fetcher(blob, shelf.torrent(blob), source, tmp_path / "got", limits=Limits(give_up=3.0))
    with fetcher, pytest.raises(RookeryError, match=r"nothing of data\.bin came") as caught:
        fetcher.run()
    assert "byte range" in caught.value.record.details


def test_a_bad_copy_that_nobody_else_has_is_told(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    blob = shelf.put(content)
    shelf.files[f"{routes.BLOB}/{blob.sha256}"] = content[:500_000] + b"!" + content[500_001:]
    source = dataclasses.replace(shelf.source, seeders=())
    fetcher = Fetcher(blob, shelf.torrent(blob), source, tmp_path / "got", limits=Limits(give_up=4.0))
    with fetcher, pytest.raises(RookeryError, match=r"head's own copy of data\.bin is bad") as caught:
        fetcher.run()
    assert caught.value.kind is ErrorKind.CORRUPT
    assert "1 of 16 pieces are missing" in caught.value.record.details
    assert len([path for path, _ in shelf.asked if path.startswith(routes.BLOB)]) <= 3, "a wrong piece rests"
    assert not (tmp_path / "got").exists()


def test_a_stop_leaves_the_part_for_the_next_time(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(os.urandom(5_000_000))
    stop = threading.Event()
    stop.set()
    with pytest.raises(RookeryError) as caught:
        fetch(blob, shelf.torrent(blob), dataclasses.replace(shelf.source, seeders=()), tmp_path / "got", None, stop)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert not (tmp_path / "got").exists()


def test_a_digest_that_is_wrong_at_the_end_is_never_accepted(shelf: Shelf, tmp_path: Path) -> None:
    blob = dataclasses.replace(shelf.put(os.urandom(200_000)), sha256="00" * 32)
    torrent = next(data for path, data in shelf.files.items() if path.startswith(routes.TORRENT))
    with pytest.raises(RookeryError, match="not what was signed") as caught:
        fetch(blob, torrent, shelf.source, tmp_path / "got")
    assert caught.value.kind is ErrorKind.CORRUPT
    assert not (tmp_path / "got").exists()


# -- blobs without a torrent


def test_a_plain_blob_is_continued_where_it_broke_off(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    blob = shelf.put(content, swarm=False)
    part_path(tmp_path / "got").write_bytes(content[:1_000_000])
    shelf.break_after = 700_000
    stats = fetch(blob, b"", shelf.source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content
    assert (stats.bytes_had, stats.bytes_from_head_http) == (1_000_000, 2_000_000)
    assert [asked for _, asked in shelf.asked] == ["bytes=1000000-2999999", "bytes=1700000-2999999"]


def test_a_plain_blob_that_is_wrong_is_thrown_away(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(b"right" * 1000, swarm=False)
    shelf.files[f"{routes.BLOB}/{blob.sha256}"] = b"wrong" * 1000
    with pytest.raises(RookeryError) as caught:
        fetch(blob, b"", shelf.source, tmp_path / "got")
    assert caught.value.kind is ErrorKind.CORRUPT
    assert not list(tmp_path.glob("*got*"))


def test_an_empty_blob(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(b"", swarm=False)
    fetch(blob, b"", shelf.source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b""


def test_a_busy_head_is_asked_again_and_a_refusing_one_is_not(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(b"x" * 1000, swarm=False)
    shelf.status = [503, 500]
    fetch(blob, b"", shelf.source, tmp_path / "got")
    assert len(shelf.asked) == 3
    with pytest.raises(RookeryError) as caught:
        fetch(blob, b"", dataclasses.replace(shelf.source, credential="stolen"), tmp_path / "other")
    assert caught.value.record == ErrorRecord(ErrorKind.UNAUTHORIZED, "no credential", "", "ask for a ticket")
    assert len(shelf.asked) == 4


# -- seeding


def test_a_seed_gives_to_others_until_it_is_told_to_stop(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    blob = shelf.put(content)
    stop, told = threading.Event(), threading.Event()
    path = tmp_path / "mine"
    path.write_bytes(content)
    result: list[Transfer] = []
    thread = threading.Thread(
        target=lambda: result.append(
            seed(blob, shelf.torrent(blob), shelf.source, path, SeedPolicy(), stop, lambda _: told.set())
        )
    )
    thread.start()
    assert told.wait(10)
    stop.set()
    thread.join(10)
    assert result[0].total == result[0].done == 1_000_000


def test_a_seed_ends_by_itself_when_its_time_is_over(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    blob = shelf.put(content)
    (tmp_path / "mine").write_bytes(content)
    policy = SeedPolicy(seconds=1)
    seed(blob, shelf.torrent(blob), shelf.source, tmp_path / "mine", policy, threading.Event())


def test_what_is_not_whole_is_not_given(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(os.urandom(100_000))
    (tmp_path / "mine").write_bytes(b"short")
    for path in (tmp_path / "mine", tmp_path / "absent"):
        with pytest.raises(RookeryError) as caught:
            seed(blob, shelf.torrent(blob), shelf.source, path, SeedPolicy(seconds=1), threading.Event())
        assert caught.value.kind is ErrorKind.CORRUPT


# -- older versions


def changed(content: bytes) -> bytes:
    return content[:1_000_000] + b"a new package" + content[1_000_000:]


def test_an_update_fetches_what_changed(shelf: Shelf, tmp_path: Path) -> None:
    old = os.urandom(3_000_000)
    new, told = changed(old), list[Transfer]()
    shelf.publish(VersionKind.FILE, shelf.put(old))
    fetch_offer(shelf.url, tmp_path)
    shelf.publish(VersionKind.FILE, shelf.put(new))
    shelf.asked.clear()
    stats = fetch_offer(shelf.url, tmp_path, on_progress=told.append)
    assert (tmp_path / "data.bin").read_bytes() == new
    assert stats.bytes_had == stats.bytes_filled == told[-1].had
    assert stats.bytes_had + stats.bytes_from_head == len(new)
    assert 0 < stats.bytes_from_head <= 200_000
    # The next time nobody has to be asked what this file is made of.
    assert len([path for path, _ in shelf.asked if path.startswith(routes.CHUNKS)]) == 2
    shelf.publish(VersionKind.FILE, shelf.put(changed(new)))
    shelf.asked.clear()
    assert fetch_offer(shelf.url, tmp_path).bytes_filled > 2_500_000
    assert len([path for path, _ in shelf.asked if path.startswith(routes.CHUNKS)]) == 1


def test_a_file_that_is_named_gives_what_it_has(shelf: Shelf, tmp_path: Path) -> None:
    old = os.urandom(2_000_000)
    shelf.put(old)
    (tmp_path / "elsewhere").write_bytes(old)
    blob = shelf.put(changed(old))
    stats = fetch(blob, shelf.torrent(blob), shelf.source, tmp_path / "got", have=[tmp_path / "elsewhere"])
    assert (tmp_path / "got").read_bytes() == changed(old)
    assert stats.bytes_filled > 1_700_000
    assert not list(tmp_path.glob(".*"))


def test_the_same_content_elsewhere_is_not_fetched_at_all(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    blob = shelf.put(content)
    (tmp_path / "elsewhere").write_bytes(content)
    told: list[Transfer] = []
    to = tmp_path / "new" / "got"
    with Fetcher(blob, b"", shelf.source, to, told.append, have=[tmp_path], keep=True) as fetcher:
        stats = fetcher.run()
        assert shelf.asked == []
        assert (stats.bytes_had, stats.bytes_filled, stats.bytes_from_head) == (2_000_000, 2_000_000, 0)
        assert to.read_bytes() == content
        assert sorted(path.name for path in to.parent.iterdir()) == [".got.chunks", "got"]
        assert told[-1].done == told[-1].had == 2_000_000
        # It is given all the same; the torrent is asked for then.
        fetcher.give(0.0)
    assert [path for path, _ in shelf.asked if path.startswith(routes.TORRENT)]
    # Its sidecar, which tells no more than what it is, is copied when it tells all.
    index = shelf.files[f"{routes.CHUNKS}/{blob.sha256}"]
    sidecar_path(to).write_bytes(index)
    with Fetcher(blob, b"", shelf.source, tmp_path / "third", have=[to], keep=True) as fetcher:
        fetcher.run()
    assert sidecar_path(tmp_path / "third").read_bytes() == index


def test_what_no_swarm_carries_is_copied_as_well(shelf: Shelf, tmp_path: Path) -> None:
    blob = shelf.put(b"a kernel" * 100_000, name="kernel", swarm=False)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "vmlinuz").write_bytes(b"a kernel" * 100_000)
    stats = fetch(blob, b"", shelf.source, tmp_path / "kernel", have=[tmp_path / "older"])
    assert (stats.bytes_filled, shelf.asked) == (800_000, [])
    assert (tmp_path / "kernel").read_bytes() == b"a kernel" * 100_000


def test_a_file_that_changes_while_it_is_copied_does_no_harm(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, older = os.urandom(500_000), tmp_path / "older"
    blob = shelf.put(content)
    older.write_bytes(content)

    def change(_self: Fetcher, _done: int) -> None:
        older.write_bytes(content[:-1])
        os.truncate(part_path(tmp_path / "got"), 1000)

    monkeypatch.setattr(Fetcher, "_tell_copied", change)
    stats = fetch(blob, b"", shelf.source, tmp_path / "got", have=[older])
    assert (tmp_path / "got").read_bytes() == content
    assert stats.bytes_from_head > 0


def test_an_older_file_that_has_rotten_costs_what_it_lost(shelf: Shelf, tmp_path: Path) -> None:
    old = os.urandom(2_000_000)
    shelf.publish(VersionKind.FILE, shelf.put(old))
    fetch_offer(shelf.url, tmp_path)
    rotten = bytearray(old)
    rotten[500_000] ^= 255
    (tmp_path / "data.bin").write_bytes(rotten)
    stats = fetch_offer(shelf.url, tmp_path)  # the same version again
    assert (tmp_path / "data.bin").read_bytes() == old
    assert 0 < stats.bytes_from_head <= 131_072


@pytest.mark.parametrize("index", [None, b"rubbish"], ids=["no index", "another index"])
def test_without_a_right_index_everything_is_fetched(shelf: Shelf, tmp_path: Path, index: bytes | None) -> None:
    old = os.urandom(500_000)
    shelf.put(old)
    (tmp_path / "got").write_bytes(old)
    blob = shelf.put(changed(old))
    route = f"{routes.CHUNKS}/{blob.sha256}"
    shelf.files = {path: data for path, data in shelf.files.items() if path != route}
    if index is not None:
        shelf.files[route] = index
    stats = fetch(blob, shelf.torrent(blob), shelf.source, tmp_path / "got")
    assert (stats.bytes_filled, stats.bytes_from_head) == (0, blob.size)
    assert (tmp_path / "got").read_bytes() == changed(old)


# -- offers


def test_a_published_file_is_fetched_by_its_url(shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(500_000)
    shelf.publish(VersionKind.FILE, shelf.put(content))
    told: list[Transfer] = []
    stats = fetch_offer(shelf.url, tmp_path / "to", on_progress=told.append)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [".data.bin.chunks", "data.bin"]
    assert (tmp_path / "to" / "data.bin").read_bytes() == content
    assert stats.bytes_total == told[-1].done == 500_000
    assert "key" not in shelf.asked[0][0], "the head is not told whom we believe"


def test_a_published_tree_is_unpacked(shelf: Shelf, tmp_path: Path) -> None:
    top = tmp_path / "source"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "file").write_text("hello")
    pack(top, tmp_path / "tar", silent, threading.Event())
    shelf.publish(VersionKind.TREE, shelf.put((tmp_path / "tar").read_bytes(), name="tree.tar"))
    fetch_offer(shelf.url, tmp_path / "to", seed_seconds=0.5)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [".data.chunks", "data"]
    assert (tmp_path / "to" / "data" / "sub" / "file").read_text() == "hello"
    with pytest.raises(RookeryError) as caught:
        fetch_offer(shelf.url, tmp_path / "to")
    assert caught.value.kind is ErrorKind.CONFLICT


def tree_of(shelf: Shelf, top: Path) -> None:
    """Publish a directory."""
    archive = shelf.folder / "tree.tar"
    pack(top, archive, silent, threading.Event())
    shelf.publish(VersionKind.TREE, shelf.put(archive.read_bytes(), name="tree.tar"))


@pytest.fixture
def older_tree(shelf: Shelf, tmp_path: Path) -> Path:
    """A directory of which an older version was fetched to `one`, and the newer one is published."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    for number in range(10):
        (top / "sub" / f"file{number}").write_bytes(os.urandom(300_000 + number))
    tree_of(shelf, top)
    fetch_offer(shelf.url, tmp_path / "one")
    (top / "sub" / "file4").write_bytes(b"changed, and shorter")
    tree_of(shelf, top)
    shelf.asked.clear()
    return top


def is_fetched(top: Path, to: Path) -> bool:
    """Whether `to` holds the directory and nothing but it."""
    assert sorted(path.name for path in to.iterdir()) == [".data.chunks", "data"]
    return all((to / "data/sub" / file.name).read_bytes() == file.read_bytes() for file in (top / "sub").iterdir())


@pytest.mark.parametrize("have", ["one", "one/data"])
def test_of_a_tree_only_what_changed_is_fetched(shelf: Shelf, tmp_path: Path, older_tree: Path, have: str) -> None:
    stats = fetch_offer(shelf.url, tmp_path / "two", have=[tmp_path / have])
    assert is_fetched(older_tree, tmp_path / "two")
    # By swarm and HTTP a piece may come twice.
    assert stats.bytes_total - stats.bytes_from_head <= stats.bytes_filled < stats.bytes_total
    assert 0 < stats.bytes_from_head < 600_000 < stats.bytes_total - 2_000_000
    # The very same tree once more: nobody is asked.
    shelf.asked.clear()
    stats = fetch_offer(shelf.url, tmp_path / "three", have=[tmp_path / "two"])
    assert is_fetched(older_tree, tmp_path / "three")
    assert stats.bytes_filled == stats.bytes_total
    asked = {path.partition("?")[0] for path, _ in shelf.asked if not path.startswith(routes.ANNOUNCE)}
    assert asked == {"/fetch/data:latest"}  # an announce may be of the fetch before, which takes its leave


def test_a_tree_that_was_worked_in_does_no_harm(shelf: Shelf, tmp_path: Path, older_tree: Path) -> None:
    old = tmp_path / "one" / "data"
    for path in old.rglob("*"):
        os.utime(path)
    (old / "sub" / "file7").write_bytes(b"mine")
    stats = fetch_offer(shelf.url, tmp_path / "two", have=[old])
    assert is_fetched(older_tree, tmp_path / "two")
    assert 1_500_000 < stats.bytes_filled < stats.bytes_total


@pytest.mark.parametrize("what", ["no sidecar", "a socket", "no room"])
def test_a_tree_that_cannot_be_packed_again_is_left_out(
    shelf: Shelf, tmp_path: Path, older_tree: Path, what: str
) -> None:
    old = tmp_path / "one" / "data"
    if what == "no sidecar":
        sidecar_path(old).unlink()
    elif what == "a socket":
        os.mknod(old / "socket", 0o600 | stat.S_IFSOCK)
    else:
        sidecar_path(old).write_bytes(chunks.stub("ab" * 32, 1 << 43))
    stats = fetch_offer(shelf.url, tmp_path / "two", have=[old])
    assert is_fetched(older_tree, tmp_path / "two")
    assert (stats.bytes_filled, stats.bytes_from_head) == (0, stats.bytes_total)


def test_an_image_is_its_three_blobs(shelf: Shelf, tmp_path: Path) -> None:
    root = shelf.put(os.urandom(400_000), Role.ROOT, "root.squashfs")
    kernel = shelf.put(b"kernel" * 100, Role.KERNEL, "vmlinuz", swarm=False)
    drivers = shelf.put(b"drivers" * 100, Role.DRIVERS, "drivers.cpio", swarm=False)
    offer = tmp_path / "offer.json"
    offer.write_text(codec.dumps(shelf.publish(VersionKind.IMAGE, root, kernel, drivers)))
    told: list[Transfer] = []
    stats = fetch_offer(str(offer), tmp_path / "to", PUBLIC, told.append)
    names = sorted(path.name for path in (tmp_path / "to").iterdir())
    assert names == [".root.squashfs.chunks", "drivers.cpio", "root.squashfs", "vmlinuz"]
    assert stats.bytes_total == told[-1].total == told[-1].done == 400_000 + 600 + 700
    assert [transfer.done for transfer in told] == sorted(transfer.done for transfer in told)


def test_an_offer_that_another_site_signed_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(VersionKind.FILE, shelf.put(b"x" * 1000), key=SigningKey(bytes([1]) * 32))
    with pytest.raises(RookeryError, match="another site's key"):
        fetch_offer(shelf.url, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_keys_must_be_there_and_agree(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(VersionKind.FILE, shelf.put(b"x" * 1000))
    with pytest.raises(RookeryError, match="no site key"):
        fetch_offer(split_key(shelf.url)[0], tmp_path / "to")
    with pytest.raises(RookeryError, match="another key than the one"):
        fetch_offer(shelf.url, tmp_path / "to", "11" * 32)
    with pytest.raises(RookeryError, match="64 hex digits"):
        fetch_offer(split_key(shelf.url)[0], tmp_path / "to", "nonsense")


def test_an_offer_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RookeryError, match="cannot be read") as caught:
        fetch_offer(str(tmp_path / "absent.json"), tmp_path / "to", PUBLIC)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(RookeryError, match="manifest"):
        fetch_offer(str(tmp_path / "bad.json"), tmp_path / "to", PUBLIC)


def test_a_url_is_split_from_its_key() -> None:
    assert split_key(f"http://h:1/fetch/a:b?ticket=t&key={PUBLIC}#x") == ("http://h:1/fetch/a:b?ticket=t", PUBLIC)
    assert split_key("http://h/fetch/a?ticket=t") == ("http://h/fetch/a?ticket=t", None)


# -- the connection


def test_small_answers_are_bounded(shelf: Shelf) -> None:
    blob = shelf.put(b"x" * 5000, swarm=False)
    url = routes.blob_url(shelf.source.head, blob.sha256)
    assert get(url, WORD) == b"x" * 5000
    with pytest.raises(RookeryError) as caught:
        get(url, WORD, most=4999)
    assert caught.value.kind is ErrorKind.TOO_LARGE


@pytest.mark.parametrize("url", ["ftp://x/", "x", "http:///path"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(RookeryError, match="not an HTTP address"):
        Connection(url)


def test_a_head_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RookeryError, match="does not answer") as caught:
        get("http://127.0.0.1:9/x")
    assert caught.value.kind is ErrorKind.UNAVAILABLE


def test_nothing_begins_without_room(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = dataclasses.replace(shelf.put(b"x" * 1000), size=1 << 49)
    with pytest.raises(RookeryError) as caught:
        fetch(blob, shelf.torrent(blob) if blob.sha256 else b"", shelf.source, tmp_path / "got")
    assert caught.value.kind is ErrorKind.NO_SPACE

    class NoBlocks:
        total = free = 0

    # A RAM file system without a limit says so: it must not be taken for a full one.
    usage: Any = lambda _path: NoBlocks  # noqa: E731
    monkeypatch.setattr(fetching.shutil, "disk_usage", usage)
    right = shelf.put(b"y" * 1000)
    fetch(right, shelf.torrent(right), shelf.source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"y" * 1000


def test_a_file_that_is_nested_beyond_measure_is_no_offer(tmp_path: Path) -> None:
    path = tmp_path / "offer.json"
    path.write_text("[" * 200_000)
    with pytest.raises(RookeryError) as caught:
        read_offer(str(path))
    assert caught.value.kind is ErrorKind.INVALID
