# SPDX-License-Identifier: Apache-2.0
"""For all tests; and a real image for those that boot one. Built once, and kept for the next run as long as what it is
made of is the same."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

# pytest rewrites the asserts of anyio's modules when they are imported, because anyio ships a plugin. A server's thread
# that imports them while another thread compiles trips over a fault of CPython 3.11 (python/cpython#106905); here they
# are imported before any thread is there.
import anyio._backends._asyncio
import anyio._core._fileio
import anyio.from_thread
import anyio.streams.memory
import anyio.to_thread  # noqa: F401
import pytest

from rookery.files import scratch_directory
from rookery.head.build import image, recipe
from rookery.head.build.image import BuiltImage
from rookery.head.progress import silent

TOP = Path(__file__).parents[1]
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
