# SPDX-License-Identifier: Apache-2.0
"""A small Debian root, made once, and what a build may have left on this machine."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rookery import files
from rookery.run import run


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian root with apt and nothing more. Not to be changed: see `root`."""
    place = tmp_path_factory.mktemp("debian")
    place.chmod(0o755)
    made = place / "root"
    run(["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", "bookworm", made])
    yield made
    run(["rm", "-rf", place])


@pytest.fixture
def root(debian: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `debian` to work in."""
    run(["cp", "-a", "--reflink=auto", debian, tmp_path / "root"])
    yield tmp_path / "root"
    run(["rm", "-rf", tmp_path / "root"])


@pytest.fixture
def filling_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """For the time of a block, somebody takes nearly all of `small_disk` whenever a build has found room on it."""

    @contextlib.contextmanager
    def filling() -> Iterator[None]:
        require, filler = files.require_space, small_disk / "filler"

        def others_take_it(directory: Path, needed: int, what: str) -> None:
            require(directory, needed, what)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - (1 << 19))

        with monkeypatch.context() as patch:
            patch.setattr(files, "require_space", others_take_it)
            yield
        filler.unlink()

    return filling


@pytest.fixture
def traces() -> Callable[[Path], list[str]]:
    """Finds mounts below a directory, in any mount namespace, processes that live in it, and loop devices of it."""

    def find(place: Path) -> list[str]:
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                root, words = os.readlink(process / "root"), (process / "cmdline").read_bytes()
                mounts = (process / "mountinfo").read_text().splitlines()
            except OSError:
                continue
            if str(place) in root or (os.fsencode(place) in words and process.name != str(os.getpid())):
                found.add(f"{process.name}: {words!r}")
            found |= {line for line in mounts if str(place) in line}
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        return sorted(found | {str(file) for file in backing if str(place) in file.read_text()})

    return find
