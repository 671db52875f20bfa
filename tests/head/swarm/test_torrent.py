# SPDX-License-Identifier: Apache-2.0
import hashlib
import random
import threading
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import Progress, silent
from rookery.head.publish.pieces import LARGEST_PIECE, MOST_PIECES, SMALLEST_PIECE, PieceDigester, piece_size
from rookery.head.swarm.torrent import make_torrent


@given(st.integers(1, 1 << 45))
def test_piece_size_is_a_power_of_two_that_keeps_the_number_of_pieces_bounded(size: int) -> None:
    found = piece_size(size)
    assert found & (found - 1) == 0
    assert SMALLEST_PIECE <= found <= LARGEST_PIECE
    if found < LARGEST_PIECE:
        assert -(-size // found) <= MOST_PIECES
    if found > SMALLEST_PIECE:
        assert size > found // 2 * MOST_PIECES


def test_a_torrent_is_hybrid_private_and_names_one_file(tmp_path: Path) -> None:
    path = tmp_path / ("ab" * 32)
    path.write_bytes(bytes(range(256)) * 1000)
    made = make_torrent(path, "root.squashfs", silent, threading.Event())
    entry: Any = lt.bdecode(made.torrent)
    params = lt.load_torrent_buffer(made.torrent)
    assert params.ti is not None
    assert (str(params.info_hashes.v2), params.info_hashes.has_v1()) == (made.info_hash, True)
    assert (len(made.info_hash), len(made.info_hash_v1)) == (64, 40)
    assert params.ti.priv()
    assert params.ti.num_files() == 1
    assert entry[b"info"][b"name"] == b"root.squashfs"
    assert list(entry[b"info"][b"file tree"]) == [b"root.squashfs"]
    assert b"announce" not in entry
    # Swarms know it by the same dictionary without what v2 added: some clients cannot read an empty key.
    info = {key: value for key, value in entry[b"info"].items() if key not in (b"file tree", b"meta version")}
    assert hashlib.sha1(lt.bencode(info)).hexdigest() == made.info_hash_v1
    assert set(info) == {b"length", b"name", b"piece length", b"pieces", b"private"}


def by_libtorrent(path: Path, name: str) -> bytes:
    """The torrent as libtorrent's own maker writes it."""
    size = path.stat().st_size
    maker = lt.create_torrent([lt.create_file_entry(path.name, size)], piece_size(size))
    maker.set_priv(True)
    lt.set_piece_hashes(maker, str(path.parent))
    entry: Any = maker.generate()
    info = entry[b"info"]
    (described,) = info[b"file tree"].values()
    info[b"name"] = name.encode()
    info[b"file tree"] = {name.encode(): described}
    for varying in (b"creation date", b"created by"):
        entry.pop(varying, None)
    found: bytes = lt.bencode(entry)
    return found


SIZES = [1, 16384, 16385, 65535, 65536, 65537, 5 * 65536, 1_000_000, MOST_PIECES * SMALLEST_PIECE + 70_000]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_what_libtorrent_would_make(tmp_path: Path, size: int) -> None:
    path = tmp_path / "blob"
    with path.open("wb") as file:  # sparse: the largest is half a gigabyte
        file.write(random.Random(size).randbytes(min(size, 300_000)))
        file.truncate(size)
    assert make_torrent(path, "data.bin", silent, threading.Event()).torrent == by_libtorrent(path, "data.bin")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200_000), st.lists(st.integers(1, 70_000), min_size=1, max_size=8))
def test_how_the_bytes_come_does_not_show(size: int, steps: list[int]) -> None:
    data = random.Random(size).randbytes(size)
    in_steps, place = PieceDigester(size), 0
    while place < size:
        step = steps[place % len(steps)]
        in_steps.add(data[place : place + step])
        place += step
    at_once = PieceDigester(size)
    at_once.add(data)
    assert in_steps.digests() == at_once.digests()


def test_the_same_bytes_and_name_make_the_same_torrent_wherever_they_lie(tmp_path: Path) -> None:
    made = []
    for folder in ("one", "two"):
        path = tmp_path / folder / folder
        path.parent.mkdir()
        path.write_bytes(b"the same" * 40_000)
        made.append(make_torrent(path, "data.bin", silent, threading.Event()))
    assert made[0] == made[1]
    assert make_torrent(path, "other.bin", silent, threading.Event()).info_hash != made[0].info_hash


def test_progress_is_told_in_bytes_up_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(bytes(5_000_000))
    told: list[Progress] = []
    make_torrent(path, "blob", told.append, threading.Event())
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert (told[-1].done, told[-1].total, told[-1].unit) == (5_000_000, 5_000_000, "bytes")
    assert len(told) > 10


def test_hashing_is_cancelled_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(bytes(20_000_000))
    cancel, told = threading.Event(), []

    def stop_soon(progress: Progress) -> None:
        told.append(progress)
        cancel.set()

    with pytest.raises(RookeryError) as caught:
        make_torrent(path, "blob", stop_soon, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert len(told) == 1


def test_what_cannot_be_a_torrent(tmp_path: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        make_torrent(tmp_path / "absent", "absent", silent, threading.Event())
    assert caught.value.kind is ErrorKind.NOT_FOUND
    (tmp_path / "empty").touch()
    with pytest.raises(RookeryError, match="empty") as caught:
        make_torrent(tmp_path / "empty", "empty", silent, threading.Event())
    assert caught.value.kind is ErrorKind.INVALID
