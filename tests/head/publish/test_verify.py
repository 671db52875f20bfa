# SPDX-License-Identifier: Apache-2.0
"""Verifying a stored version: each kind of damage is named."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import libtorrent
import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import Progress, silent
from rookery.head.publish.site import SiteKey
from rookery.head.publish.verify import Problem, info_hash_of, verify
from rookery.wire.manifest import Role, parse_payload


@pytest.fixture
def version(house, tmp_path: Path):
    (tmp_path / "data").write_bytes(b"penguin" * 300_000)
    return house.publisher.path(tmp_path / "data", "data", None, silent, house.cancel)


def problems(house, version) -> tuple[Problem, ...]:
    return verify(version, house.store, house.key.public, silent, house.cancel)


def digest_of(version) -> str:
    return parse_payload(version.manifest.signed_bytes).blob(Role.DATA).sha256


def test_all_is_well_and_the_progress_says_how_far(house, version) -> None:
    told: list[Progress] = []
    assert verify(version, house.store, house.key.public, told.append, house.cancel) == ()
    assert (told[-1].done, told[-1].total) == (2_100_000, 2_100_000)


def flip(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1_234_567 % path.stat().st_size)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def shorten(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda store, digest: flip(store.path(digest)), "is damaged"),
        (lambda store, digest: shorten(store.path(digest)), "has 2099999 bytes instead of 2100000"),
        (lambda store, digest: store.path(digest).unlink(), "is missing"),
        (lambda store, digest: store.torrent(digest).unlink(), "torrent is missing"),
        (lambda store, digest: store.chunks(digest).unlink(), "chunks is missing"),
        (lambda store, digest: flip(store.chunks(digest)), "is not the chunk index that the manifest names"),
        (lambda store, digest: shorten(store.torrent(digest)), "torrent is damaged"),
        (lambda store, digest: store.put_torrent(digest, b"d4:infod1:ai1eee"), "is not the torrent"),
    ],
)
def test_damage_is_named(house, version, spoil: Callable, said: str) -> None:
    spoil(house.store, digest_of(version))
    (problem,) = problems(house, version)
    assert problem.subject == "data"
    assert said in problem.message
    assert problem.hint


@pytest.mark.parametrize("spoil", [shorten, Path.unlink])
def test_publishing_again_repairs(house, version, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    flip(house.store.path(digest_of(version)))
    spoil(house.store.torrent(digest_of(version)))
    spoil(house.store.chunks(digest_of(version)))
    again = house.publisher.path(tmp_path / "data", "data", None, silent, house.cancel)
    assert again.id == version.id
    assert problems(house, again) == ()


def test_a_lost_torrent_comes_back_for_every_name_of_the_content(house, version, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes((tmp_path / "data").read_bytes())
    twin = house.publisher.path(tmp_path / "copy", "twin", None, silent, house.cancel)
    house.store.torrent(digest_of(version)).unlink()
    again = house.publisher.path(tmp_path / "copy", "twin", None, silent, house.cancel)
    assert again.manifest == twin.manifest
    assert problems(house, version) == problems(house, again) == ()


def test_another_key_or_another_versions_manifest(house, version, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = SiteKey.create(dataclasses.replace(house.paths, directory=tmp_path / "other"))
    (problem,) = verify(version, house.store, other.public, silent, house.cancel)
    assert (problem.subject, "not signed by this site's key" in problem.message) == ("manifest", True)
    (problem,) = problems(house, dataclasses.replace(version, id="ab" * 32))
    assert problem.subject == "manifest"


def test_cancelling(house, version) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(RookeryError) as caught:
        verify(version, house.store, house.key.public, silent, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED


def test_the_info_hash_is_libtorrents(house, version) -> None:
    torrent = house.store.torrent(digest_of(version)).read_bytes()
    assert info_hash_of(torrent) == str(libtorrent.torrent_info(libtorrent.bdecode(torrent)).info_hashes().v2)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"d", b"d4:infod", b"d4:info", b"d3:abci1e", b"d9999:x", b"de", b"d4:infoi1"]
)
def test_what_is_no_torrent(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        info_hash_of(data)
