# SPDX-License-Identifier: Apache-2.0
"""The upper layer looks like the image's root: over real squashfs files, with and without attributes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery import run
from rookery.head.build import squashfs
from rookery.head.progress import silent
from rookery.node import overlay

LABEL = b"system_u:object_r:root_t:s0\0"
WHEN = 1_234_567_890


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a directory as the squashfs that it makes."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    lower = tmp_path / "lower"
    lower.mkdir()

    def mount(tree: Path) -> Path:
        squashfs.pack(tree, tmp_path / "root.squashfs", WHEN, silent, threading.Event())
        run.run(["mount", "-t", "squashfs", "-o", "loop,ro", tmp_path / "root.squashfs", lower])
        return lower

    yield mount
    run.run(["umount", "-l", lower], check=False)


@pytest.mark.parametrize("label", [b"", LABEL])
def test_it_is_as_the_root(mounted: Callable[[Path], Path], tmp_path: Path, label: bytes) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    tree.chmod(0o2711)
    os.chown(tree, 12, 34)
    tree.chmod(0o2711)
    if label:
        os.setxattr(tree, "security.selinux", label)
    os.utime(tree, (WHEN, WHEN))
    overlay.make_upper(mounted(tree), tmp_path / "upper")
    state = (tmp_path / "upper").stat()
    assert (state.st_mode & 0o7777, state.st_uid, state.st_gid, int(state.st_mtime)) == (0o2711, 12, 34, WHEN)
    found = {name: os.getxattr(tmp_path / "upper", name) for name in os.listxattr(tmp_path / "upper")}
    assert found == ({"security.selinux": label} if label else {})
