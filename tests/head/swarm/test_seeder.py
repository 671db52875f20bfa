# SPDX-License-Identifier: Apache-2.0
"""A real seeder on loopback."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import libtorrent
import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import silent
from rookery.head.publish.publish import MadeTorrent
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fetch import Fetcher
from rookery.relay.incoming import Incoming
from rookery.relay.taker import take_metadata
from rookery.wire import opening
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import Source
from rookery.wire.torrents import describe
from tests.ports import free_port

PIECE = 65536
KEY = "cd" * 32


class Told:
    """What the seeder told of bad copies."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []
        self.one = threading.Event()

    def __call__(self, sha256: str, message: str) -> None:
        self.messages.append((sha256, message))
        self.one.set()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def seeder(told: Told, port: int) -> Iterator[Seeder]:
    found = Seeder(told, "127.0.0.1", port)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def lay(folder: Path, size: int = 2_000_000) -> tuple[Path, MadeTorrent]:
    content = os.urandom(size)
    path = folder / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    return path, make_torrent(path, "data.bin", silent, threading.Event())


def get(path: Path, made: MadeTorrent, port: int, to: Path) -> int:
    """Fetch it as a node does; the bytes that came from the seeder. No HTTP is there to help."""
    blob = Blob(Role.DATA, "data.bin", path.stat().st_size, path.name, made.info_hash, made.info_hash_v1)
    source = Source("http://127.0.0.1:9", "word", (f"127.0.0.1:{port}",))
    with Fetcher(blob, made.torrent, source, to) as fetcher:
        return fetcher.run().bytes_from_head_swarm


def test_what_is_added_is_given_and_counted(seeder: Seeder, port: int, tmp_path: Path) -> None:
    path, made = lay(tmp_path)
    assert seeder.add(path, made.torrent) == made.info_hash
    assert seeder.add(path, made.torrent) == made.info_hash
    assert get(path, made, port, tmp_path / "got") == 2_000_000
    assert (tmp_path / "got").read_bytes() == path.read_bytes()
    (given,) = seeder.stats()
    assert (given.sha256, given.info_hash, given.sent, given.bad_pieces) == (path.name, made.info_hash, 2_000_000, ())


def open_(relay_port: int, name: str, size: int) -> bytes:
    came = Incoming()
    take_metadata(f"127.0.0.1:{relay_port}", name, KEY, came, opening.length(size), 10)
    return came.content()


def test_the_opening_is_given_and_counted(told: Told, port: int, tmp_path: Path) -> None:
    path, made = lay(tmp_path)
    root = describe(libtorrent.bdecode(made.torrent)).root.hex()
    seeder = Seeder(told, "127.0.0.1", port, key_for=lambda _sha256: KEY)
    seeder.start()
    try:
        seeder.add(path, made.torrent)
        found = open_(seeder.relay_port, root, 2_000_000)
        assert opening.check(found, 2_000_000, root) == path.read_bytes()[:16384]
        until = time.monotonic() + 5
        while seeder.stats()[0].sent != 16384:
            assert time.monotonic() < until, "the block is in the account"
            time.sleep(0.01)
        seeder.remove(made.info_hash)
        with pytest.raises(RookeryError) as caught:
            open_(seeder.relay_port, root, 2_000_000)
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        rotten = bytearray(path.read_bytes())
        rotten[0] ^= 1
        path.write_bytes(rotten)
        seeder.add(path, made.torrent)
        with pytest.raises(RookeryError):
            open_(seeder.relay_port, root, 2_000_000)
    finally:
        seeder.stop()


def test_a_blob_that_cannot_be_read_has_no_opening(seeder: Seeder, tmp_path: Path) -> None:
    _, made = lay(tmp_path)
    seeder.add(Path("/proc/self/mem"), made.torrent, "ab" * 32)  # a file whose first byte nobody can read
    assert seeder._relay is not None
    assert seeder._relay.shelf("ab" * 32) is not None


def test_adding_and_removing_leaves_other_blobs_alone(seeder: Seeder, port: int, tmp_path: Path) -> None:
    one, made_one = lay(tmp_path)
    two, made_two = lay(tmp_path)
    seeder.add(one, made_one.torrent)
    get(one, made_one, port, tmp_path / "first")
    seeder.add(two, made_two.torrent)
    seeder.remove(made_two.info_hash)
    seeder.remove(made_two.info_hash)
    (given,) = seeder.stats()
    # It is the same torrent as before, not one that was started again: it still knows what it gave.
    assert (given.info_hash, given.sent) == (made_one.info_hash, 2_000_000)
    assert get(one, made_one, port, tmp_path / "second") == 2_000_000


def test_a_bad_copy_is_found_by_a_check(seeder: Seeder, told: Told, port: int, tmp_path: Path) -> None:
    path, made = lay(tmp_path)
    seeder.add(path, made.torrent)
    get(path, made, port, tmp_path / "got")  # every piece was right when it was read
    with path.open("r+b") as file:
        file.seek(3 * PIECE)
        file.write(b"rot")
    assert seeder.check(made.info_hash)
    assert told.one.wait(20)
    ((sha256, message),) = told.messages
    assert sha256 == path.name
    assert "head's own copy" in message
    assert "piece 3" in message
    assert seeder.stats()[0].bad_pieces == (3,)
    assert not seeder.check(made.info_hash), "a thousand reports are not a thousand checks"


def test_a_good_copy_survives_a_check(seeder: Seeder, told: Told, port: int, tmp_path: Path) -> None:
    path, made = lay(tmp_path)
    seeder.add(path, made.torrent)
    assert seeder.check(made.info_hash)
    assert get(path, made, port, tmp_path / "got") == 2_000_000
    assert told.messages == []
    assert not seeder.check("00" * 32)


def test_a_blob_that_vanished_is_told(seeder: Seeder, told: Told, tmp_path: Path) -> None:
    path, made = lay(tmp_path)
    seeder.add(path, made.torrent)
    path.unlink()
    seeder.check(made.info_hash)
    assert told.one.wait(20)
    assert len(seeder.stats()[0].bad_pieces) == -(-2_000_000 // PIECE)


def test_a_port_in_use_is_told(told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(RookeryError, match=f"port {taken} is in use") as caught:
            Seeder(told, "127.0.0.1", taken).start()
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "swarm_port" in caught.value.record.hint


def test_what_cannot_be_added(seeder: Seeder, tmp_path: Path) -> None:
    path, made = lay(tmp_path, 100)
    for torrent in (b"", b"de", b"nonsense"):
        with pytest.raises(RookeryError) as caught:
            seeder.add(path, torrent)
        assert caught.value.kind is ErrorKind.INVALID
    path.unlink()
    with pytest.raises(RookeryError) as caught:
        seeder.add(path, made.torrent)
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_a_stopped_seeder_says_so_and_can_start_again(told: Told, port: int, tmp_path: Path) -> None:
    path, made = lay(tmp_path)
    seeder = Seeder(told, "127.0.0.1", port)
    with pytest.raises(RookeryError, match="not running"):
        seeder.add(path, made.torrent)
    for round_ in ("one", "two"):
        seeder.start()
        seeder.add(path, made.torrent)
        assert get(path, made, port, tmp_path / round_) == 2_000_000
        seeder.stop()
        assert seeder.stats() == ()


def test_the_rate_cap_holds_for_private_addresses(told: Told, port: int, tmp_path: Path) -> None:
    path, made = lay(tmp_path, 3_000_000)
    seeder = Seeder(told, "127.0.0.1", port, rate=1_000_000)
    seeder.start()
    try:
        seeder.add(path, made.torrent)
        blob = Blob(Role.DATA, "data.bin", 3_000_000, path.name, made.info_hash, made.info_hash_v1)
        source = Source("http://127.0.0.1:9", "word", (f"127.0.0.1:{port}",))
        with Fetcher(blob, made.torrent, source, tmp_path / "got") as fetcher:
            # Uncapped, loopback takes a hundredth of a second; the cap alone makes it at least one.
            assert fetcher.run().seconds > 1.0
    finally:
        seeder.stop()
