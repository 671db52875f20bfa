# SPDX-License-Identifier: Apache-2.0
"""What is different between two versions, by real squashfs files and archives."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import squashfs
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.rows import Version
from rookery.head.progress import Progress, silent
from rookery.head.publish import changes, differences
from rookery.head.publish.differences import FileChanges

if TYPE_CHECKING:
    from conftest import House

Plant = Callable[[Path], None]


def before(top: Path) -> None:
    """A root with one of each thing that can change."""
    (top / "etc").mkdir(parents=True)
    (top / "gone/deep").mkdir(parents=True)
    for name in ("etc/same", "etc/content", "etc/longer", "etc/mode", "etc/owner", "etc/marked", "gone/deep/file"):
        (top / name).write_bytes(b"content of " + name.encode())
    (top / "etc/link").symlink_to("same")
    (top / "etc/type").write_bytes(b"a file")
    os.mknod(top / "etc/device", 0o20600, os.makedev(1, 3))
    (top / "etc" / os.fsdecode(b"odd\n\xff")).write_bytes(b"1")
    os.link(top / "etc/same", top / "etc/same-again")


def after(top: Path) -> None:
    """The same root with each of them changed."""
    before(top)
    (top / "etc/content").write_bytes(b"CONTENT OF etc/content")
    (top / "etc/longer").write_bytes(b"more than that")
    (top / "etc/mode").chmod(0o4755)
    os.chown(top / "etc/owner", 12, 34)
    os.setxattr(top / "etc/marked", "user.mark", b"1")
    (top / "etc/link").unlink()
    (top / "etc/link").symlink_to("mode")
    (top / "etc/type").unlink()
    (top / "etc/type").mkdir()
    (top / "etc/type/new").write_bytes(b"")
    (top / "etc/device").unlink()
    os.mknod(top / "etc/device", 0o20600, os.makedev(1, 5))
    (top / "etc" / os.fsdecode(b"odd\n\xff")).write_bytes(b"2")
    run.run(["rm", "-r", top / "gone"])
    os.utime(top / "etc/same", (1, 1))  # times do not count


EXPECTED = {
    "/etc/content": ("content",),
    "/etc/device": ("device",),
    "/etc/link": ("target",),
    "/etc/longer": ("content",),
    "/etc/marked": ("attributes",),
    "/etc/mode": ("mode",),
    "/etc/odd\\n\\xff": ("content",),
    "/etc/owner": ("owner",),
    "/etc/type": ("type", "mode"),
    "/etc/type/new": ("added",),
    "/gone": ("removed",),
    "/gone/deep": ("removed",),
    "/gone/deep/file": ("removed",),
}


@pytest.fixture
def image(house: House, tmp_path: Path) -> Callable[..., Version]:
    """Publishes a root that a function plants, as an image."""

    def publish(plant: Plant, packages: dict[str, str]) -> Version:
        place = tmp_path / f"image-{random.random()}"
        plant(place / "tree")
        squashfs.pack(place / "tree", place / "root.squashfs", 1_000_000_000, silent, house.cancel)
        parts = [place / name for name in ("root.squashfs", "kernel", "drivers.cpio")]
        for part in parts[1:]:
            part.write_bytes(b"the same in all")
        built = BuiltImage(*parts, "6.1.0", "x86_64", packages)
        return house.publisher.image("base", built, "", "latest", silent, house.cancel)

    return publish


def found(one: Version, two: Version, house: House, **how: bool) -> differences.Difference:
    return differences.compare(one, two, house.store, house.paths.directory, silent, house.cancel, **how)


def what(changes_: FileChanges) -> dict[str, tuple[str, ...]]:
    return {change.path: change.what for change in changes_.entries}


def test_two_images(house: House, image: Callable[..., Version]) -> None:
    one = image(before, {"bash": "5.2-1", "less": "590", "gone": "1"})
    two = image(after, {"bash": "5.2-2", "less": "590", "new": "3"})
    compared = found(one, two, house)
    assert what(compared.files) == EXPECTED
    assert (compared.files.added, compared.files.removed, compared.files.changed) == (1, 3, 9)
    shown = {change.path: (change.before, change.after) for change in compared.files.entries}
    assert shown["/etc/mode"] == ("-rw-r--r-- 0:0 19", "-rwsr-xr-x 0:0 19")
    assert shown["/etc/link"] == ("lrwxrwxrwx 0:0 -> same", "lrwxrwxrwx 0:0 -> mode")
    assert shown["/etc/device"] == ("crw------- 0:0 1,3", "crw------- 0:0 1,5")
    assert shown["/etc/type/new"] == ("", "-rw-r--r-- 0:0 0")
    assert compared.packages == changes.PackageChanges(
        added=(("new", "3"),), removed=(("gone", "1"),), changed=(("bash", "5.2-1", "5.2-2"),)
    )
    assert (compared.blobs, compared.notes) == (("root.squashfs",), ())
    assert not list(house.paths.directory.glob("compare-*"))
    assert "compare-" not in Path("/proc/self/mounts").read_text()
    assert found(one, two, house, with_files=False).files.entries == []
    same = found(one, one, house)
    assert (same.files.entries, same.transfer, same.blobs) == ([], 0, ())


def test_two_directories(house: House, tmp_path: Path) -> None:
    made = []
    for number, plant in enumerate((before, after)):
        plant(tmp_path / str(number))
        made.append(house.publisher.path(tmp_path / str(number), "tree", "latest", silent, house.cancel))
    compared = found(made[0], made[1], house)
    assert what(compared.files) == EXPECTED
    assert found(made[0], made[0], house).files.entries == []


def test_bytes_to_transfer_are_those_of_chunks_that_are_not_there(house: House, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(8_000_000)
    versions = []
    for number, content in enumerate((data, data[:3_000_000] + b"new" * 20_000 + data[3_000_000:])):
        (tmp_path / f"data-{number}").mkdir()
        (tmp_path / f"data-{number}" / "data").write_bytes(content)
        source = tmp_path / f"data-{number}" / "data"
        versions.append(house.publisher.path(source, "data", "latest", silent, house.cancel))
    compared = found(versions[0], versions[1], house)
    assert compared.size == 8_060_000
    assert 60_000 <= compared.transfer < 1_000_000
    assert found(versions[1], versions[0], house).transfer < 1_000_000
    # Without an index: all of it.
    (blob,) = {blob for blob in house.store.digests() if house.store.path(blob).stat().st_size == 8_060_000}
    house.store.chunks(blob).unlink()
    assert found(versions[0], versions[1], house).transfer == 8_060_000


def test_of_different_kinds(house: House, image: Callable[..., Version], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    file = house.publisher.path(tmp_path / "file", "file", "latest", silent, house.cancel)
    compared = found(image(before, {}), file, house)
    assert compared.notes == ("files were not compared: one version is of kind image, the other of kind file",)
    assert compared.transfer == 1


def test_what_cannot_be_mounted(house: House, built: Callable[..., BuiltImage]) -> None:
    made = [
        house.publisher.image("base", built(root), "", "latest", silent, house.cancel)
        for root in (b"no squashfs" * 1000, b"none either" * 1000)
    ]
    with pytest.raises(RookeryError, match="cannot be compared") as caught:
        found(made[0], made[1], house)
    assert caught.value.kind is ErrorKind.FAILED
    assert "--packages" in caught.value.record.hint
    assert not list(house.paths.directory.glob("compare-*"))


def test_cancelled(house: House, image: Callable[..., Version]) -> None:
    def many(top: Path) -> None:
        before(top)
        for number in range(3000):
            (top / f"{number}").write_bytes(os.urandom(10))

    one, two = image(many, {}), image(many, {})
    cancel = threading.Event()

    def on_progress(_progress: Progress) -> None:
        cancel.set()

    with pytest.raises(RookeryError) as caught:
        differences.compare(one, two, house.store, house.paths.directory, on_progress, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert "compare-" not in Path("/proc/self/mounts").read_text()
