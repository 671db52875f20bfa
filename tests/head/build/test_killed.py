# SPDX-License-Identifier: Apache-2.0
"""Heads that are killed in the middle of a build: nothing of it goes on, and the next one is as if it had not been.

Further ones, by what they are about: test_rpm_build.py, test_layer.py (mounts), test_inside.py, remote/test_build.py.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.shelf import shelf_of_debs
from rookery.head import serve
from rookery.head.build import image
from rookery.head.build.archive import COPYING
from rookery.head.build.container import ARCHITECTURES
from rookery.head.build.recipe import Recipe
from rookery.head.config import Paths
from rookery.run import run, spawn

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
Traces = Callable[[Path], list[str]]
WAITS = ("sleep 600 & touch /root/waits; sleep 600",)
MANY = 4000  # files; their names are more than a pipe holds


@dataclasses.dataclass(frozen=True)
class Case:
    """A build that comes to a place where it waits, and one that does not. begun: is it there? Gets its work
    directory."""

    waiting: Recipe
    fine: Recipe
    begun: Callable[[Path], bool]


def in_root(work: Path) -> bool:
    """A program that the build started inside its root has left its mark."""
    return bool(list(work.glob("build-*/tree/root/waits")))


@pytest.fixture
def deb(tmp_path: Path) -> Iterator[Case]:
    """In a package's own script, in mmdebstrap."""
    (tmp_path / "shelf").mkdir()
    with shelf_of_debs(tmp_path / "shelf") as shelf:
        yield Case(dataclasses.replace(shelf.recipe, packages=("waiting",)), shelf.recipe, in_root)


@pytest.fixture
def container(tmp_path: Path, make_root: Callable[[Path], Path]) -> Recipe:
    tree, name = make_root(tmp_path / "source"), f"{tmp_path}/layout:a"
    run(["tar", "-C", tree, "-cf", tmp_path / "layer.tar", "."])
    run(["umoci", "init", "--layout", tmp_path / "layout"])
    run(["umoci", "new", "--image", name])
    words = ["--architecture", ARCHITECTURES[platform.machine()], "--os", "linux"]
    run(["umoci", "config", "--image", name, *words])
    run(["umoci", "raw", "add-layer", "--image", name, tmp_path / "layer.tar"])
    return Recipe(container=f"oci:{name}")


@pytest.fixture
def container_fetched(container: Recipe) -> Iterator[Case]:
    """In skopeo, which waits for a registry's first word."""
    with socket.create_server(("127.0.0.1", 0)) as registry:
        wire = select.poll()
        wire.register(registry, select.POLLIN)
        mute = Recipe(container=f"docker://127.0.0.1:{registry.getsockname()[1]}/site/image:1")
        yield Case(mute, container, lambda work: bool(wire.poll(0)))


@pytest.fixture
def container_changed(container: Recipe) -> Case:
    """In a command inside what was unpacked."""
    return Case(dataclasses.replace(container, commands=WAITS), container, in_root)


@pytest.fixture
def tree_copied(tmp_path: Path, make_root: Callable[[Path], Path]) -> Case:
    """In rsync, whose messages the head does not take any more."""
    tree = make_root(tmp_path / "source")
    (tree / "many").mkdir()
    for number in range(MANY):
        (tree / "many" / f"{number:0100}").touch()

    def begun(work: Path) -> bool:
        return bool(list(work.glob("build-*/tree/many/*99")))

    recipe = Recipe(archive=str(tree))
    return Case(recipe, recipe, begun)


@pytest.fixture
def tarball_changed(tmp_path: Path, make_root: Callable[[Path], Path]) -> Case:
    """In a command inside what was unpacked."""
    run(["tar", "-C", make_root(tmp_path / "source"), "-czf", tmp_path / "root.tgz", "."])
    recipe = Recipe(archive=f"{tmp_path}/root.tgz")
    return Case(dataclasses.replace(recipe, commands=WAITS), recipe, in_root)


@pytest.fixture(params=["deb", "container_fetched", "container_changed", "tree_copied", "tarball_changed"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


BUILD = f"""
import pickle, signal, sys
from pathlib import Path
from rookery.head.build import image
told = lambda progress: progress.stage == {COPYING!r} and signal.pause()
image.build(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), told)
"""


def namespaces(process: str) -> set[str]:
    """Those of mounts and processes that a process is in, but for our own."""
    kinds, own = ("mnt", "pid", "net", "ipc"), os.getpid()
    return {os.readlink(f"/proc/{process}/ns/{kind}") for kind in kinds} - {
        os.readlink(f"/proc/{own}/ns/{kind}") for kind in kinds
    }


def everywhere() -> set[str]:
    """The namespaces of all processes."""
    found = set[str]()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            found |= namespaces(place.name)
        except OSError:
            continue
    return found


def test_a_killed_build_leaves_nothing_and_the_next_one_succeeds(case: Case, tmp_path: Path, traces: Traces) -> None:
    paths = Paths(tmp_path / "head")
    work = paths.work
    work.mkdir(parents=True)
    (tmp_path / "recipe").write_bytes(pickle.dumps(case.waiting))
    with spawn([sys.executable, "-c", BUILD, tmp_path / "recipe", work]) as head:
        until = time.monotonic() + 300
        while not case.begun(work):
            assert head.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        found = [line.split(":")[0] for line in traces(work)]
        processes = [name for name in found if name.isdigit() and name != str(head.pid)]
        children = [os.pidfd_open(int(name)) for name in processes]
        apart = set().union(*map(namespaces, processes))
        assert len(children) >= 2
        assert {kind.split(":")[0] for kind in apart} >= {"mnt", "pid"}
        os.kill(head.pid, signal.SIGKILL)
        assert head.wait(30) == -signal.SIGKILL
    for child in children:
        assert select.select([child], [], [], 30)[0], "a process outlived the head"
        os.close(child)
    assert traces(work) == []
    assert apart & everywhere() == set()
    (left,) = work.iterdir()
    assert left.name.startswith("build-")
    # What is left is not in the way of the next build, nor that of it; the next head takes it away.
    image.build(case.fine, work).discard()
    assert list(work.iterdir()) == [left]
    serve._empty(paths)
    assert not left.exists()
