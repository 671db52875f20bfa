# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, or fills up, while a working tree is published: a clear error, and nothing is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.image import SPACE
from rookery.head.progress import Progress, silent
from rookery.head.publish.verify import verify
from rookery.run import run
from tests.kernel_modules import module

if TYPE_CHECKING:
    from conftest import Room

pytestmark = pytest.mark.system

PAGE = os.sysconf("SC_PAGE_SIZE")
MODULES = "usr/lib/modules/6.1.0-test"
NOISE = 3 << 20  # bytes of the tree that no compression makes fewer
EMPTY = 6 << 20  # bytes of a module that nearly vanish in the root and in the archive of drivers, but not beside them


def resize(disk: Path, size: int) -> None:
    run(["mount", "-o", f"remount,size={size}", disk])


def leave(disk: Path, room: int) -> None:
    """Make the disk as small as what is on it and `room` bytes."""
    resize(disk, shutil.disk_usage(disk).used + room)


def change(root: Path) -> None:
    (root / "etc/noise").write_bytes(os.urandom(NOISE))
    card = root / MODULES / "kernel/drivers/net/ethernet/card.ko"
    card.parent.mkdir(parents=True)
    card.write_bytes(module(b"license=GPL\0" + bytes(EMPTY)))
    (root / MODULES / "modules.dep").write_text("kernel/drivers/net/ethernet/card.ko:\n")


# What is on the small disk, the stage in which it becomes full ("": it is so before), and how many bytes still fit.
@pytest.mark.parametrize(
    ("what", "stage", "left"),
    [
        ("work", "", 0),
        ("work", "taking its identity away", 0),
        ("work", "packing the drivers", 2 * PAGE),
        ("work", "packing the drivers", NOISE + (EMPTY >> 1)),
        ("work", "packing the drivers", NOISE + EMPTY + (EMPTY >> 1)),
        ("blobs", "", 0),
        ("blobs", "storing", 0),
    ],
)
def test_a_disk_that_fills_up_while_a_tree_is_published(
    room: Room, small_disk: Path, what: str, stage: str, left: int
) -> None:
    place: Path = getattr(room.paths, what)
    run(["cp", "-a", f"{place}/.", small_disk])
    run(["mount", "--bind", small_disk, place])
    try:
        resize(small_disk, 2 * SPACE)
        root = room.open()
        change(root)
        tree, blobs, scratch = (set(os.listdir(path)) for path in (root / "etc", room.paths.blobs, room.paths.work))
        filled = []

        def fill(progress: Progress) -> None:
            if progress.stage == stage and not filled:
                filled.append(progress)
                leave(small_disk, left)

        if not stage:
            leave(small_disk, left)
        with pytest.raises(RookeryError) as raised:
            room.trees.publish("base", "next", fill, room.cancel)
        assert raised.value.kind is ErrorKind.NO_SPACE, raised.value.record
        assert raised.value.record.hint
        assert len(filled) == bool(stage)
        # The tree is there, with its change; of what was begun there is nothing; the version before is whole.
        assert room.trees.tree("base").changed
        assert set(os.listdir(root / "etc")) >= tree
        assert set(os.listdir(room.paths.blobs)) == blobs
        assert set(os.listdir(room.paths.work)) == scratch
        (only,) = room.catalog.image("base").versions
        assert (only.id, only.tags) == (room.base.id, ("latest",))
        assert verify(only, room.store, room.publisher._key.public, silent, room.cancel) == ()
        # With room again it is done.
        resize(small_disk, 2 * SPACE)
        second = room.publish("next")
        assert second.id != room.base.id
        assert not room.trees.tree("base").changed
        for version in room.catalog.image("base").versions:
            assert verify(version, room.store, room.publisher._key.public, silent, room.cancel) == ()
        assert len(room.catalog.image("base").versions) == 2
    finally:
        run(["umount", "-l", place])
