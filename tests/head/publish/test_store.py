# SPDX-License-Identifier: Apache-2.0
"""The store: whole blobs under their digests, or nothing."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import Progress, silent
from rookery.head.publish.store import BlobStore

DATA = b"penguin" * 500_000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("move", [False, True])
def test_a_file_comes_in(store: BlobStore, source: Path, move: bool) -> None:
    told: list[Progress] = []
    assert store.put(source, told.append, move=move) == (DIGEST, len(DATA))
    assert store.path(DIGEST).read_bytes() == DATA
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o444
    assert store.digests() == (DIGEST,)
    assert DIGEST in store
    assert source.exists() is not move
    assert (told[-1].done, told[-1].total, told[-1].unit) == (len(DATA), len(DATA), "bytes")


def test_changing_the_source_later_does_not_change_the_blob(store: BlobStore, source: Path) -> None:
    store.put(source)
    with source.open("r+b") as file:
        file.write(b"changed")
    assert store.path(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("move", [False, True])
def test_a_good_blob_stays_and_a_damaged_one_is_replaced(store: BlobStore, source: Path, move: bool) -> None:
    store.put(source)
    inode = store.path(DIGEST).stat().st_ino
    store.put(source)
    assert store.path(DIGEST).stat().st_ino == inode
    store.path(DIGEST).chmod(0o644)
    with store.path(DIGEST).open("r+b") as file:
        file.write(b"X")
    store.put(source, move=move)
    assert store.path(DIGEST).read_bytes() == DATA
    assert [path.name for path in store.directory.iterdir()] == [DIGEST]


def test_cancelling_leaves_nothing(store: BlobStore, source: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(RookeryError) as caught:
        store.put(source, lambda _: cancel.set(), cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert list(store.directory.iterdir()) == []
    assert source.read_bytes() == DATA


def test_leftovers_go_but_not_what_somebody_is_writing(store: BlobStore, tmp_path: Path) -> None:
    leftover = store.directory / ".incoming-dead"
    leftover.write_bytes(b"half")
    torn = store.directory / f".{DIGEST}.torrent.x7"
    torn.write_bytes(b"half")
    with store.incoming() as alive:
        BlobStore(store.directory)
        assert not leftover.exists()
        assert not torn.exists()
        assert alive.exists()
    assert list(store.directory.iterdir()) == []


def test_torrents_lie_beside_their_blobs_and_go_with_them(store: BlobStore, source: Path) -> None:
    store.put(source)
    store.put_torrent(DIGEST, b"one")
    store.put_torrent(DIGEST, b"two")
    assert store.torrent(DIGEST).read_bytes() == b"two"
    assert store.torrent(DIGEST).name == f"{DIGEST}.torrent"
    assert store.digests() == (DIGEST,)
    store.remove(DIGEST)
    store.remove(DIGEST)
    assert list(store.directory.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../site.key", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_only_digests_are_names(store: BlobStore, digest: str) -> None:
    with pytest.raises(RookeryError) as caught:
        store.path(digest)
    assert caught.value.kind is ErrorKind.INVALID


def test_what_is_no_file_is_refused(store: BlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (
        (tmp_path / "missing", ErrorKind.NOT_FOUND),
        (tmp_path, ErrorKind.INVALID),
        (tmp_path / "fifo", ErrorKind.INVALID),
    ):
        with pytest.raises(RookeryError) as caught:
            store.put(path, silent)
        assert caught.value.kind is kind
