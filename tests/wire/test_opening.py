# SPDX-License-Identifier: Apache-2.0
"""The opening of a blob, against the roots that real torrents name."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import libtorrent as lt
import pytest

from rookery.head.progress import silent
from rookery.head.swarm.torrent import make_torrent
from rookery.wire import opening
from rookery.wire.engine import BLOCK
from rookery.wire.torrents import Described, describe

SIZES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 4 * BLOCK, 4 * BLOCK + 1, 21 * BLOCK + 7, 64 * BLOCK, 1_000_000]


def made(path: Path, size: int) -> tuple[bytes, Described]:
    """Random bytes, and what libtorrent's own reader accepts as their torrent."""
    data = os.urandom(size)
    path.write_bytes(data)
    torrent = make_torrent(path, "data", silent, threading.Event()).torrent
    lt.load_torrent_buffer(torrent)
    return data, describe(lt.bdecode(torrent))


@pytest.mark.parametrize("size", SIZES)
def test_it_proves_the_first_block(tmp_path: Path, size: int) -> None:
    data, described = made(tmp_path / "data", size)
    found = opening.dump(data[: described.piece_size], described.layer, size, described.piece_size)
    assert len(found) == opening.length(size)
    assert opening.check(found, size, described.root.hex()) == data[:BLOCK]


@pytest.mark.parametrize("size", [1, 3 * BLOCK, 21 * BLOCK + 7])
def test_no_other_bytes_do(tmp_path: Path, size: int) -> None:
    data, described = made(tmp_path / "data", size)
    root = described.root.hex()
    found = opening.dump(data[: described.piece_size], described.layer, size, described.piece_size)
    for at in {0, len(found) // 100, len(found) - 1}:
        wrong = bytearray(found)
        wrong[at] ^= 1
        assert opening.check(bytes(wrong), size, root) is None
    for wrong_length in (found[:-1], found + b"\0", found[32:], b""):
        assert opening.check(wrong_length, size, root) is None
    assert opening.check(found, size, "0" * 64) is None
