# SPDX-License-Identifier: Apache-2.0
"""Access control lists of the image below are there when a recipe's steps begin in a layer above it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from rookery import acls, run
from rookery.head.build import squashfs
from rookery.head.build.layer import Layer
from rookery.head.progress import silent

pytestmark = pytest.mark.system


def test_a_layer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "srv").mkdir(parents=True)
    run.run(["setfacl", "-m", "u:4321:rwx", "-d", "-m", "g:99:rx", tree / "srv"])
    names = ("system.posix_acl_access", "system.posix_acl_default")
    values = [os.getxattr(tree / "srv", name) for name in names]
    assert acls.record(tree) == 1
    squashfs.pack(tree, tmp_path / "root.squashfs", 0, silent, threading.Event())
    layer = Layer(tmp_path / "root.squashfs", tmp_path / "layer")
    try:
        assert acls.restore(layer.tree) == 1
        assert [os.getxattr(layer.tree / "srv", name) for name in names] == values
        assert acls.record(layer.tree) == 1
    finally:
        layer.close()
