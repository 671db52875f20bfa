# SPDX-License-Identifier: Apache-2.0
"""A real image for the tests that boot one. Built once, and kept for the next run as long as what it is made of is the
same."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from rookery.files import scratch_directory
from rookery.head.build import image, recipe
from rookery.head.build.image import BuiltImage
from rookery.head.progress import silent

TOP = Path(__file__).parents[2]
RECIPE = TOP / "examples" / "recipes" / "bookworm.toml"


@pytest.fixture(scope="session")
def bookworm() -> Path:
    """A directory with `root`, `kernel` and `drivers` of the example image."""
    sources = [RECIPE, *sorted((TOP / "src/rookery/head/build").glob("*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = TOP / ".cache" / "test-image"
    there = cache / digest
    if not there.exists():
        with scratch_directory(cache, "build.") as scratch:
            wish = recipe.parse(RECIPE.read_text(), str(RECIPE), RECIPE.parent)
            built = image.build(wish, scratch, silent, threading.Event())
            fresh = scratch / "fresh"
            fresh.mkdir()
            for name in ("root", "kernel", "drivers"):
                os.link(getattr(built, name), fresh / name)
            fresh.rename(there)
    return there


@pytest.fixture
def built(bookworm: Path, tmp_path: Path) -> BuiltImage:
    """The example image, as the builder hands it to publishing: files that may be moved away."""
    mine = tmp_path / "built"
    mine.mkdir()
    for name in ("root", "kernel", "drivers"):
        try:
            os.link(bookworm / name, mine / name)
        except OSError:  # another file system
            (mine / name).write_bytes((bookworm / name).read_bytes())
    return BuiltImage(mine / "root", mine / "kernel", mine / "drivers", "", "x86_64", {})
