# SPDX-License-Identifier: Apache-2.0
"""Opening, changing, publishing and removing a working tree, with a real squashfs."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import image
from rookery.head.build.builder import BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.progress import silent
from rookery.head.trees import lock, trees
from rookery.run import run
from rookery.wire.manifest import Role, parse_payload

if TYPE_CHECKING:
    from conftest import Room

pytestmark = pytest.mark.system


def unpacked(room: Room, version_id: str, where: Path) -> Path:
    version = room.catalog.resolve(version_id)
    root = parse_payload(version.manifest.signed_bytes).blob(Role.ROOT)
    run(["unsquashfs", "-quiet", "-no-progress", "-dest", where, room.store.path(root.sha256)])
    return where


def test_an_unchanged_tree_is_the_same_version(room: Room) -> None:
    root = room.open()
    assert os.getxattr(root / "etc/motd", "user.colour") == b"green"
    assert (root / "etc/motd").stat().st_nlink == 2
    assert not room.trees.tree("base").changed
    assert room.publish("again").id == room.base.id
    assert set(room.catalog.resolve("base").tags) == {"again", "latest"}
    assert not room.trees.tree("base").changed


def test_each_publication_of_a_change_is_a_new_version(room: Room, tmp_path: Path) -> None:
    root = room.open()
    (root / "etc/motd.new").write_text("changed\n")
    assert room.trees.tree("base").changed
    second = room.publish()
    assert second.id != room.base.id
    assert not room.trees.tree("base").changed
    (root / "etc/motd.new").chmod(0o600)
    assert room.trees.tree("base").changed
    third = room.publish("third")
    assert len({room.base.id, second.id, third.id}) == 3
    assert len(room.catalog.image("base").versions) == 3
    # The old versions are what they were.
    assert not (unpacked(room, room.base.id, tmp_path / "one") / "etc/motd.new").exists()
    assert (unpacked(room, second.id, tmp_path / "two") / "etc/motd.new").stat().st_mode & 0o777 == 0o644
    assert (unpacked(room, third.id, tmp_path / "three") / "etc/motd.new").stat().st_mode & 0o777 == 0o600
    # Taking the change back is the first version again.
    (root / "etc/motd.new").unlink()
    assert room.publish("back").id == room.base.id


def test_drivers_that_did_not_change_are_not_packed_again(room: Room, tmp_path: Path) -> None:
    def drivers() -> str:
        return parse_payload(room.catalog.resolve("other").manifest.signed_bytes).blob(Role.DRIVERS).sha256

    # Compressed as no publication does it, so that they are known again.
    with image.site(room.paths.work) as site:
        built = image.finish(tmp_path / "made", site, Recipe(), BuiltTree({}), 1_600_001_000)
    run(["gzip", "-d", "-S", ".cpio", built.drivers])
    run(["gzip", "-1", "-S", ".cpio", built.drivers.with_suffix("")])
    room.publisher.image("other", built, "", "latest", silent, room.cancel)
    before = drivers()
    assert before != parse_payload(room.base.manifest.signed_bytes).blob(Role.DRIVERS).sha256
    room.trees.open("other", silent, room.cancel)
    root = room.trees.tree("other").root
    (root / "etc/motd.new").write_text("changed\n")
    room.trees.publish("other", "latest", silent, room.cancel)
    assert drivers() == before
    # Damaged on the disk, they are packed anew.
    path = room.store.path(before)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (root / "etc/motd.new").write_text("changed again\n")
    room.trees.publish("other", "latest", silent, room.cancel)
    assert drivers() == parse_payload(room.base.manifest.signed_bytes).blob(Role.DRIVERS).sha256


def test_the_hour_of_a_change_does_not_count(room: Room) -> None:
    root = room.open()
    (root / "etc/motd.new").write_text("changed\n")
    first = room.publish()
    room.trees.close("base")
    root = room.open(f"base@{room.base.id}")
    (root / "etc/motd.new").write_text("changed\n")
    assert room.publish().id == first.id


def test_identity_goes_but_for_what_the_recipe_keeps(room: Room) -> None:
    root = room.open()
    (root / "etc/hostname").write_text("kept\n")
    (root / "etc/ssh/ssh_host_ed25519_key").write_text("secret\n")
    (root / "var/log/messages").write_text("history\n")
    version = room.publish()
    assert (root / "etc/hostname").exists()
    assert not (root / "etc/ssh/ssh_host_ed25519_key").exists()
    assert not (root / "var/log/messages").exists()
    assert version.recipe.startswith(f"# From a working tree: base@{room.base.id[:12]}\n# what it is made of\n")
    room.trees.close("base")
    root = room.open(f"base@{version.id}")
    (root / "etc/motd.new").touch()
    assert room.publish().recipe.count("# From a working tree") == 1


def test_a_tree_is_there_once(room: Room, tmp_path: Path) -> None:
    root = room.open()
    (root / "etc/mine").touch()
    assert room.open() == root  # the same version: nothing is done
    assert (root / "etc/mine").exists()
    second = room.publish()
    with pytest.raises(RookeryError) as raised:
        room.open(f"base@{room.base.id}")
    assert raised.value.kind is ErrorKind.CONFLICT
    assert "image close base" in raised.value.record.hint
    assert room.open(f"base@{second.id}") == root
    room.trees.close("base")
    assert not root.exists()
    assert list(room.paths.trees.iterdir()) == []
    for act in (room.trees.close, room.trees.tree):
        with pytest.raises(RookeryError) as raised:
            act("base")
        assert raised.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(RookeryError):
        room.publish()
    assert list(room.paths.trees.iterdir()) == []


@pytest.mark.parametrize("name", ["../base", "a/b", "", ".base"])
def test_a_name_is_no_path(room: Room, name: str) -> None:
    with pytest.raises(RookeryError) as raised:
        room.trees.tree(name)
    assert raised.value.kind is ErrorKind.INVALID


def test_a_tree_in_use_is_neither_published_nor_removed(room: Room) -> None:
    root = room.open()
    with lock.hold(root.parent, "shell"):
        assert room.trees.tree("base").holder is not None
        for act in (room.publish, lambda: room.trees.close("base"), lambda: room.trees.free("base"), room.open):
            with pytest.raises(RookeryError) as raised:
                act()
            assert raised.value.kind is ErrorKind.CONFLICT
            assert "in use: shell, by " in str(raised.value)
            assert str(os.getpid()) in str(raised.value)
    assert room.trees.tree("base").holder is None
    assert room.publish().id == room.base.id


def test_two_publications_at_once(room: Room) -> None:
    root = room.open()
    (root / "etc/mine").touch()
    begun, go_on = threading.Event(), threading.Event()

    def slowly(_progress: object) -> None:
        begun.set()
        assert go_on.wait(60)

    found: list[str] = []
    first = threading.Thread(
        target=lambda: found.append(room.trees.publish("base", "one", slowly, threading.Event()).id)
    )
    first.start()
    assert begun.wait(60)
    with pytest.raises(RookeryError) as raised:
        room.trees.publish("base", "two", silent, threading.Event())
    go_on.set()
    first.join()
    assert raised.value.kind is ErrorKind.CONFLICT
    assert "in use: publish, by " in str(raised.value)
    assert [version.id for version in room.catalog.image("base").versions if version.id != room.base.id] == found


def test_cancelled_while_it_is_opened_and_published(room: Room) -> None:
    def act(run_it: object) -> None:
        with pytest.raises(RookeryError) as raised:
            run_it()  # type: ignore[operator]
        assert raised.value.kind is ErrorKind.CANCELLED

    cancel = threading.Event()
    act(lambda: room.trees.open("base", lambda _progress: cancel.set(), cancel))
    assert room.trees.all() == ()
    assert list(room.paths.trees.iterdir()) == []
    root = room.open()
    (root / "etc/mine").touch()
    cancel = threading.Event()
    act(lambda: room.trees.publish("base", "latest", lambda _progress: cancel.set(), cancel))
    assert len(room.catalog.image("base").versions) == 1
    assert [path for path in room.paths.work.iterdir() if path != room.paths.trees] == []
    assert room.publish().id != room.base.id


def test_a_tree_without_a_kernel_stays(room: Room) -> None:
    root = room.open()
    kernel = next((root / "boot").iterdir())
    kernel.rename(root / "kernel")
    with pytest.raises(RookeryError, match="no kernel"):
        room.publish()
    (root / "kernel").rename(kernel)
    assert room.publish().id == room.base.id


def test_a_blob_that_is_no_squashfs(room: Room) -> None:
    version = room.catalog.resolve("base")
    path = room.store.path(parse_payload(version.manifest.signed_bytes).blob(Role.ROOT).sha256)
    path.chmod(0o644)
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(RookeryError):
        room.open()
    assert list(room.paths.trees.iterdir()) == []


@pytest.mark.parametrize("more", [-100_000, 300_000])
def test_a_disk_that_fills_up(room: Room, more: int) -> None:
    size = max(blob.stat().st_size for blob in room.paths.blobs.iterdir())
    room.paths.trees.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size + more}", "none", room.paths.trees])
    try:
        with pytest.raises(RookeryError) as raised:
            room.open()
        assert raised.value.kind is ErrorKind.NO_SPACE
        assert list(room.paths.trees.iterdir()) == []
    finally:
        run(["umount", room.paths.trees])
    assert room.open().is_dir()


def test_what_a_killed_head_left_is_removed(room: Room) -> None:
    root = room.open()
    (room.paths.trees / ".closed-x" / "old").mkdir(parents=True)
    (room.paths.trees / "half" / "root").mkdir(parents=True)
    trees.sweep(room.paths.trees)
    assert [path.name for path in room.paths.trees.iterdir()] == ["base"]
    assert (root / "etc/motd").exists()


def test_only_images_are_opened(room: Room, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    publisher = room.trees._publisher
    publisher.path(tmp_path / "data", "data", "latest", silent, threading.Event())
    with pytest.raises(RookeryError) as raised:
        room.open("data")
    assert raised.value.kind is ErrorKind.INVALID
