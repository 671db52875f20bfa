# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import silent
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.metainfo import MAX_TORRENT, open_torrent
from rookery.wire import merkle
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob, Role
from rookery.wire.torrents import describe

Made = tuple[bytes, bytes, Blob]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[int], Made]:
    def made(size: int) -> Made:
        content = os.urandom(size)
        path = tmp_path / "blob"
        path.write_bytes(content)
        torrent = make_torrent(path, "data.bin", silent, threading.Event())
        blob = Blob(Role.DATA, "data.bin", size, "00" * 32, torrent.info_hash, torrent.info_hash_v1)
        return content, torrent.torrent, blob

    return made


@pytest.mark.parametrize("size", [1, 16384, 16385, 65536, 65537, 131072, 1_000_000])
def test_pieces_are_known_by_their_digests(make: Callable[[int], Made], size: int) -> None:
    content, torrent, blob = make(size)
    metainfo = open_torrent(torrent, blob)
    assert sum(metainfo.length(piece) for piece in range(metainfo.pieces)) == size
    for piece in range(metainfo.pieces):
        data = content[piece * metainfo.piece_size :][: metainfo.piece_size]
        assert metainfo.is_right(piece, data)
        assert not metainfo.is_right(piece, data[:-1] + bytes([data[-1] ^ 1]))
        assert not metainfo.is_right(piece, data + b"x")
        assert not metainfo.is_right(piece, data[:-1])


def test_another_blobs_torrent_is_refused_before_it_is_used(make: Callable[[int], Made]) -> None:
    _, _, blob = make(1000)
    _, other, _ = make(1000)
    with pytest.raises(RookeryError, match="not the one that the signed manifest names") as caught:
        open_torrent(other, blob)
    assert caught.value.kind is ErrorKind.CORRUPT
    assert blob.info_hash in caught.value.record.details


def test_a_size_other_than_the_manifests_is_refused(make: Callable[[int], Made]) -> None:
    _, torrent, blob = make(1000)
    with pytest.raises(RookeryError, match="has 1000 bytes, the manifest 999") as caught:
        open_torrent(torrent, dataclasses.replace(blob, size=999))
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_root_other_than_the_manifests_is_refused(make: Callable[[int], Made]) -> None:
    _, torrent, blob = make(100_000)
    root = describe(lt.bdecode(torrent)).root.hex()
    assert open_torrent(torrent, dataclasses.replace(blob, pieces_root=root)).size == 100_000
    with pytest.raises(RookeryError, match="another root than the manifest") as caught:
        open_torrent(torrent, dataclasses.replace(blob, pieces_root="ab" * 32))
    assert caught.value.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize("torrent", [b"", b"de", b"x" * 100, b"i1e", b"d4:infod4:name1:xee"])
def test_what_is_no_torrent(torrent: bytes) -> None:
    signed = hashlib.sha256(b"d4:name1:xe").hexdigest()
    with pytest.raises(RookeryError, match="cannot be read") as caught:
        open_torrent(torrent, Blob(Role.DATA, "data.bin", 1, "00" * 32, signed))
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize("more", [0, 1, 4])
def test_digests_for_other_pieces_than_there_are_are_refused(make: Callable[[int], Made], more: int) -> None:
    _, torrent, blob = make(5 * 65536)
    entry: Any = lt.bdecode(torrent)
    ((root, layer),) = entry[b"piece layers"].items()
    empty = merkle.root(b"", entry[b"info"][b"piece length"] // BLOCK)
    # The root over pieces that do not exist is the same: it does not tell how many there are.
    entry[b"piece layers"] = {root: (layer + empty * more)[: None if more else -32]}
    with pytest.raises(RookeryError, match="the piece digests in the torrent") as caught:
        open_torrent(lt.bencode(entry), blob)
    assert caught.value.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize("size", [1, 16384, 65537, 131072, 1_000_000])
def test_a_pieces_leaves_are_known_by_its_digest(make: Callable[[int], Made], size: int) -> None:
    content, torrent, blob = make(size)
    metainfo = open_torrent(torrent, blob)
    for piece in range(metainfo.pieces):
        leaves = merkle.leaves(content[piece * metainfo.piece_size :][: metainfo.piece_size])
        assert metainfo.are_leaves(piece, leaves)
        assert not metainfo.are_leaves(piece, leaves[:-1] + bytes([leaves[-1] ^ 1]))
        assert not metainfo.are_leaves(piece, leaves + merkle.NOTHING)
        assert not metainfo.are_leaves(piece, leaves[:-32])


def test_a_huge_one_is_not_even_looked_at() -> None:
    with pytest.raises(RookeryError) as caught:
        open_torrent(bytes(MAX_TORRENT + 1), Blob(Role.DATA, "data.bin", 1, "00" * 32, "11" * 32))
    assert caught.value.kind is ErrorKind.TOO_LARGE


def test_piece_digests_that_do_not_lead_to_the_signed_root_are_refused(make: Callable[[int], Made]) -> None:
    _, torrent, blob = make(300_000)
    entry: Any = lt.bdecode(torrent)
    ((root, layer),) = entry[b"piece layers"].items()
    entry[b"piece layers"] = {root: layer[:32] + bytes(32) + layer[64:]}
    with pytest.raises(RookeryError) as caught:
        open_torrent(lt.bencode(entry), blob)
    assert caught.value.kind in (ErrorKind.CORRUPT, ErrorKind.INVALID)


def test_what_the_info_hash_does_not_cover_is_thrown_away(make: Callable[[int], Made]) -> None:
    _, torrent, blob = make(1000)
    entry: Any = lt.bdecode(torrent)
    entry |= {
        b"announce": b"http://6.6.6.6/announce",
        b"url-list": [b"http://6.6.6.6/file"],
        b"httpseeds": [b"http://6.6.6.6/seed"],
        b"nodes": [[b"6.6.6.6", 6666]],
    }
    params = open_torrent(lt.bencode(entry), blob).parameters()
    found = (params.trackers, params.url_seeds, params.http_seeds, params.dht_nodes, params.peers)
    assert found == ([], [], [], [], [])
