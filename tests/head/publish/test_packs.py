# SPDX-License-Identifier: Apache-2.0
"""Packed blobs: what they share is kept once, and each comes back as it was, whatever became of the others."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.head.publish.pieces import Digester
from rookery.head.publish.store import BlobStore
from rookery.run import run
from rookery.wire.chunks import dump

SIZE = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def put(store: BlobStore, content: bytes) -> str:
    source = store.directory.parent / "source"
    source.write_bytes(content)
    digester = Digester(len(content))
    digest, _ = store.put(source, also=digester.add)
    store.put_chunks(digest, dump(digester.index(digest)))
    return digest


def versions(count: int, size: int = SIZE, seed: int = 1) -> list[bytes]:
    """Each with a twentieth of its bytes changed against the one before."""
    dice = random.Random(seed)
    content, found = bytearray(dice.randbytes(size)), []
    for _ in range(count):
        found.append(bytes(content))
        at = dice.randrange(size - size // 20)
        content[at : at + size // 20] = dice.randbytes(size // 20)
    return found


def disk(store: BlobStore) -> int:
    return sum(path.stat().st_size for path in store.directory.iterdir() if path.suffix != ".chunks")


def test_packed_versions_take_the_sum_of_their_changes_and_come_back(store: BlobStore) -> None:
    contents = versions(12)
    digests = [put(store, content) for content in contents]
    freed = sum(store.pack(digest) for digest in digests[:-1])
    assert freed > 9 * SIZE
    assert disk(store) < SIZE * (1 + 11 * 0.05) * 1.6  # at both ends of a change a chunk is of no use to others
    assert [store.is_packed(digest) for digest in digests] == [True] * 11 + [False]
    assert store.digests() == tuple(sorted(digests))
    assert all(digest in store for digest in digests)
    for digest, content in zip(digests, contents, strict=True):
        assert store.path(digest).read_bytes() == content
        assert not store.is_packed(digest)
    assert not list(store.directory.glob("*.packed"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["pack", "path", "remove"]), st.integers(0, 5)), max_size=25))
def test_whatever_is_done_what_is_left_comes_back(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, int]]
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("packs") / "blobs")
    contents = versions(6, 200_000)
    digests = [put(store, content) for content in contents]
    left = dict(zip(digests, contents, strict=True))
    for what, number in deeds:
        digest = digests[number]
        if what == "remove":
            store.remove(digest, keep_index=number % 2 == 0)
            left.pop(digest, None)
        elif digest in left:
            store.pack(digest) if what == "pack" else store.path(digest)
        assert store.digests() == tuple(sorted(left))
    for digest, content in left.items():
        assert hashlib.sha256(store.path(digest).read_bytes()).digest() == hashlib.sha256(content).digest()
    for digest in left:
        store.remove(digest)
    assert {path.suffix for path in store.directory.iterdir()} <= {".chunks"}, "nothing is kept for nobody"


def test_a_blob_with_nothing_in_common_is_left_as_it_is(store: BlobStore) -> None:
    one, two = put(store, os.urandom(SIZE)), put(store, os.urandom(SIZE))
    assert (store.pack(one), store.pack(two), store.pack("00" * 32)) == (0, 0, 0)
    assert not store.is_packed(one)
    assert not list(store.directory.glob("*.packed"))


def test_one_without_an_index_or_with_a_wrong_one_is_left_as_it_is(store: BlobStore) -> None:
    old, new = versions(2)
    one, two = put(store, old), put(store, new)
    right = store.chunks(one).read_bytes()
    store.chunks(one).write_bytes(b"rubbish")
    assert store.pack(one) == 0
    store.chunks(one).write_bytes(store.chunks(two).read_bytes())
    assert store.pack(one) == 0  # it would come back as another blob
    store.chunks(one).write_bytes(right)
    assert store.pack(one) > 0
    assert store.path(one).read_bytes() == old


def test_damage_is_found_and_said(store: BlobStore) -> None:
    old, new = versions(2)
    one, two = put(store, old), put(store, new)
    assert store.pack(one) > 0
    store.path(two).chmod(0o644)
    with store.path(two).open("r+b") as file:
        file.seek(5000)
        file.write(b"rot")
    with pytest.raises(RookeryError) as caught:
        store.path(one)
    assert caught.value.kind is ErrorKind.CORRUPT
    assert store.is_packed(one), "it may come back when the other one is mended"
    put(store, new)
    assert store.path(one).read_bytes() == old


def test_a_packed_blob_that_is_put_in_again_is_whole(store: BlobStore) -> None:
    old, new = versions(2)
    one = put(store, old)
    put(store, new)
    store.pack(one)
    assert put(store, old) == one
    assert not store.is_packed(one)
    assert store.path(one).read_bytes() == old


@pytest.mark.system
def test_without_room_a_packed_blob_stays_packed(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=7m", "rkpacks", small])
    try:
        store = BlobStore(small / "blobs")
        old, new = versions(2, 2_000_000)
        one, _ = put(store, old), put(store, new)
        (small / "source").unlink()
        assert store.pack(one) > 1_500_000
        (small / "more").write_bytes(bytes(3_500_000))
        with pytest.raises(RookeryError) as caught:
            store.path(one)
        assert caught.value.kind is ErrorKind.NO_SPACE
        assert store.is_packed(one)
        (small / "more").unlink()
        assert store.path(one).read_bytes() == old
    finally:
        run(["umount", small])
