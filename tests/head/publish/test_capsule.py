# SPDX-License-Identifier: Apache-2.0
"""Capsules written and read back: every byte counts, and nothing is taken in before the last one was right."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import os
import resource
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery import codec, files, run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.rows import Version
from rookery.head.progress import Progress, silent
from rookery.head.publish import capsule
from rookery.wire import capsule as form
from rookery.wire.manifest import Role, parse_payload, version_id

if TYPE_CHECKING:
    from conftest import House, OpenHouse

Build = Callable[..., BuiltImage]


@pytest.fixture
def version(house: House, built: Build) -> Version:
    """A small image, published."""
    image = built(b"root" * 700)
    image.kernel.write_bytes(b"kernel")
    image.drivers.write_bytes(b"drivers" * 3)
    return house.publisher.image("base", image, "distribution = 'debian'\n", "latest", silent, house.cancel)


@pytest.fixture
def data(house: House, version: Version, tmp_path: Path) -> bytes:
    """That image as a capsule."""
    capsule.write(version, house.store, house.key, tmp_path / "base.capsule", silent, house.cancel)
    return (tmp_path / "base.capsule").read_bytes()


@pytest.fixture
def other(open_house: OpenHouse, tmp_path: Path) -> House:
    """Another site."""
    return open_house(tmp_path / "other")


def read(data: bytes, house: House) -> dict[Role, bytes]:
    """What a capsule holds, by role; all of it checked."""
    source = io.BytesIO(data)
    with contextlib.ExitStack() as stack:
        opened = capsule.look(source)
        parts = capsule.unpack(source, opened, house.store, stack, silent, house.cancel)
        return {role: path.read_bytes() for role, path in parts.items()}


def test_there_and_back(house: House, other: House, version: Version, data: bytes) -> None:
    opened = capsule.look(io.BytesIO(data))
    assert (opened.key, opened.size) == (house.key.public, len(data))
    assert opened.manifest == parse_payload(version.manifest.signed_bytes)
    assert (opened.capsule.recipe, opened.capsule.packages) == (version.recipe, version.packages)
    assert read(data, other) == {
        Role.ROOT: b"root" * 700,
        Role.KERNEL: b"kernel",
        Role.DRIVERS: b"drivers" * 3,
    }
    assert list(other.store.directory.iterdir()) == []


def test_tar_reads_it(data: bytes, version: Version, tmp_path: Path) -> None:
    blobs = [blob.sha256 for blob in parse_payload(version.manifest.signed_bytes).blobs]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["capsule.json", *(f"blobs/{sha256}" for sha256 in blobs)]
    (tmp_path / "out").mkdir()
    run.run(["tar", "-xf", tmp_path / "base.capsule", "-C", tmp_path / "out"])
    assert [files.sha256_file(tmp_path / "out" / "blobs" / sha256) for sha256 in blobs] == blobs


def test_every_flipped_byte_is_found(data: bytes, other: House) -> None:
    found = []
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= (0x01, 0x20, 0x80)[at % 3]  # another digit, the other case, no ASCII
        with pytest.raises(RookeryError) as caught:
            read(bytes(wrong), other)
        found.append(caught.value.kind)
    assert set(found) == {ErrorKind.CORRUPT, ErrorKind.INVALID}
    assert found.count(ErrorKind.INVALID) == len(form.HEAD)  # the first name in it: then it is no capsule at all
    assert list(other.store.directory.iterdir()) == []


def test_every_truncation_is_found(data: bytes, other: House) -> None:
    for end in [*range(0, len(data), 101), len(data) - 1]:
        with pytest.raises(RookeryError) as caught:
            read(data[:end], other)
        assert caught.value.kind is ErrorKind.CORRUPT
        assert "too early" in str(caught.value)
    with pytest.raises(RookeryError, match="bytes after its end"):
        read(data + b"\0", other)
    assert list(other.store.directory.iterdir()) == []


def resigned(data: bytes, house: House, change: Callable[[form.Capsule], form.Capsule]) -> bytes:
    """The capsule with another head, well signed by the same site."""
    opened = capsule.look(io.BytesIO(data))
    payload = codec.canonical(change(opened.capsule))
    signature = house.key.sign_bytes(form.CONTEXT + payload)
    head = codec.canonical(form.SignedCapsule(base64.b64encode(payload).decode(), opened.key, signature))
    old = form.head_size(data[: form.BLOCK])
    rest = data[form.BLOCK + old + form.padding(old) :]
    return form.header(form.HEAD, len(head)) + head + bytes(form.padding(len(head))) + rest


def test_a_huge_size_is_refused_before_anything_is_read(data: bytes, house: House, other: House) -> None:
    def grow(told: form.Capsule) -> form.Capsule:
        manifest = parse_payload(told.manifest.signed_bytes)
        blobs = tuple(dataclasses.replace(blob, size=1 << 50) for blob in manifest.blobs)
        manifest = dataclasses.replace(manifest, blobs=blobs, version=version_id(manifest.kind, blobs))
        return dataclasses.replace(told, manifest=house.key.sign(manifest))

    with pytest.raises(RookeryError, match="not enough space") as caught:
        read(resigned(data, house, grow), other)
    assert caught.value.kind is ErrorKind.NO_SPACE


def test_a_manifest_of_another_site_inside_is_refused(data: bytes, house: House, other: House) -> None:
    def swap(told: form.Capsule) -> form.Capsule:
        return dataclasses.replace(told, manifest=other.key.sign(parse_payload(told.manifest.signed_bytes)))

    with pytest.raises(RookeryError, match="not signed by the same key") as caught:
        read(resigned(data, house, swap), other)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_damaged_blob_is_not_exported(house: House, version: Version, tmp_path: Path) -> None:
    blob = house.store.path(parse_payload(version.manifest.signed_bytes).blob(Role.KERNEL).sha256)
    blob.chmod(0o600)
    blob.write_bytes(b"kErnel")
    with pytest.raises(RookeryError, match="is damaged on this head") as caught:
        capsule.write(version, house.store, house.key, tmp_path / "c", silent, house.cancel)
    assert caught.value.kind is ErrorKind.CORRUPT
    assert [path.name for path in tmp_path.iterdir() if path.name == "c" or path.name.startswith(".c")] == []


def test_what_is_there_is_not_replaced(house: House, version: Version, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"mine")
    with pytest.raises(RookeryError, match="is there already") as caught:
        capsule.write(version, house.store, house.key, tmp_path / "c", silent, house.cancel)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert (tmp_path / "c").read_bytes() == b"mine"
    with pytest.raises(RookeryError) as caught:
        capsule.write(version, house.store, house.key, tmp_path / "none" / "c", silent, house.cancel)
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_cancelled(house: House, version: Version, data: bytes, other: House, tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(RookeryError) as caught:
        capsule.write(version, house.store, house.key, tmp_path / "c", silent, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert not (tmp_path / "c").exists()
    source = io.BytesIO(data)
    with contextlib.ExitStack() as stack, pytest.raises(RookeryError) as caught:
        capsule.unpack(source, capsule.look(source), other.store, stack, silent, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place])
    try:
        yield place
    finally:
        run.run(["umount", "-l", place])


def test_a_disk_that_is_full_before_and_during(
    house: House, open_house: OpenHouse, built: Build, small_disk: Path, tmp_path: Path
) -> None:
    version = house.publisher.image("base", built(os.urandom(3_000_000)), "", "latest", silent, house.cancel)
    path = tmp_path / "base.capsule"
    capsule.write(version, house.store, house.key, path, silent, house.cancel)
    full = open_house(small_disk / "head")
    filler = small_disk / "filler"

    def attempt(on_progress: Callable[[Progress], None]) -> RookeryError:
        with contextlib.ExitStack() as stack, path.open("rb") as source, pytest.raises(RookeryError) as caught:
            capsule.unpack(source, capsule.look(source), full.store, stack, on_progress, full.cancel)
        return caught.value

    def fill(_progress: Progress) -> None:
        if not filler.exists():
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    during = attempt(fill)
    assert (during.kind, "no space left" in str(during)) == (ErrorKind.NO_SPACE, True)
    before = attempt(silent)
    assert (before.kind, "not enough space" in str(before)) == (ErrorKind.NO_SPACE, True)
    filler.unlink()
    assert list(full.store.directory.iterdir()) == []
    filler.write_bytes(bytes(2_000_000))
    with pytest.raises(RookeryError) as caught:
        capsule.write(version, house.store, house.key, small_disk / "c", silent, house.cancel)
    assert caught.value.kind is ErrorKind.NO_SPACE
    assert not (small_disk / "c").exists()


def test_memory_stays_flat(house: House, other: House, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1 << 20))
    version = house.publisher.path(big, "big", "latest", silent, house.cancel)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "big.capsule"
    capsule.write(version, house.store, house.key, path, silent, house.cancel)
    with contextlib.ExitStack() as stack, path.open("rb") as source:
        capsule.unpack(source, capsule.look(source), other.store, stack, silent, other.cancel)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
