# SPDX-License-Identifier: Apache-2.0
"""Roots of failed builds: each is kept, whoever fails beside it, and keeping it hides no error."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rookery.errors import RookeryError
from rookery.head.build import image, kept
from rookery.head.build.recipe import Recipe
from rookery.head.progress import Progress, silent
from rookery.run import run

pytestmark = pytest.mark.system


@pytest.fixture
def failing(tmp_path: Path, make_root: Callable[[Path], Path]) -> Callable[..., RookeryError]:
    """Builds an image that fails in a command, once it has left a mark in its root; returns the error."""
    tree = make_root(tmp_path / "tree")

    def build(name: str, mark: str, told: Callable[[Progress], None] = silent) -> RookeryError:
        commands = (f"echo {mark} >/root/mark; echo begun", f"echo {mark} fails; exit 3")
        with pytest.raises(RookeryError) as caught:
            image.build(Recipe(archive=str(tree), commands=commands), tmp_path / "work", told, name=name)
        return caught.value

    return build


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a")])
def test_two_builds_that_fail_at_the_same_time(
    failing: Callable[..., RookeryError], tmp_path: Path, names: tuple[str, str]
) -> None:
    for again in range(3):
        both = threading.Barrier(2, timeout=60)

        def told(progress: Progress, both: threading.Barrier = both) -> None:
            if progress.line == "begun":
                both.wait()

        marks = [f"m{again}{number}" for number in range(2)]
        with ThreadPoolExecutor() as pool:
            errors = list(pool.map(failing, names, marks, [told, told]))
        for name, mark, error in zip(names, marks, errors, strict=True):
            assert f"'echo {mark} fails; exit 3' of the recipe failed" in str(error)
            assert f"the unfinished root is in {tmp_path / 'work'}/failed-build-{name}" in error.record.details
        found = {path.name: (path / "root/mark").read_text().strip() for path in (tmp_path / "work").iterdir()}
        assert set(found) == {f"failed-build-{name}" for name in names}
        assert set(found.values()) <= set(marks)
        assert len(found) == len(set(names))


def test_many_that_keep_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes on a machine that builds for others have no lock in common, so these threads have none."""
    monkeypatch.setattr(kept, "_KEEPING", contextlib.nullcontext())
    count = 8
    together = threading.Barrier(count)

    def keep(number: int) -> None:
        tree = tmp_path / f"build-{number}" / "tree"
        (tree / "content").mkdir(parents=True)
        together.wait()
        kept.keep(tree, tmp_path / "kept", "kept")

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(keep, range(count)))
    assert os.listdir(tmp_path / "kept") == ["content"]
    assert not list(tmp_path.glob("build-*/tree"))


def test_only_the_newest_are_kept(failing: Callable[..., RookeryError], tmp_path: Path) -> None:
    for name in ("a", "b", "c", "a", "d"):
        failing(name, f"of-{name}")
    assert kept.MOST == 3
    assert sorted(os.listdir(tmp_path / "work")) == ["failed-build-a", "failed-build-c", "failed-build-d"]


@pytest.fixture
def occupied(tmp_path: Path) -> Iterator[Path]:
    """The place of a failed build, in which somebody mounted something: it cannot be moved."""
    place = tmp_path / "work" / image.failed("a")
    place.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "rookery-test", place])
    yield place
    run(["umount", place])


def test_an_error_is_told_when_its_root_cannot_be_kept(
    failing: Callable[..., RookeryError], occupied: Path, tmp_path: Path
) -> None:
    error = failing("a", "x")
    assert "'echo x fails; exit 3' of the recipe failed" in str(error)
    assert f"x fails\nexit code 3\nthe unfinished root could not be kept in {occupied}: " in error.record.details
    assert os.listdir(tmp_path / "work") == [occupied.name]


def test_a_recipe_goes_on_from_the_root_that_was_kept(tmp_path: Path, make_root: Callable[[Path], Path]) -> None:
    """As the refusal says: first it gets an init, then a kernel too, under the same name all the time."""
    tree, work = make_root(tmp_path / "tree"), tmp_path / "work"
    (tree / "etc/os-release").write_text("ID=debian\n")
    (kernel,) = (tree / "boot").iterdir()
    kernel.rename(tree / "kernel")
    (tree / "sbin/init").unlink()
    recipe = Recipe(archive=str(tree))
    for lacks, command in (
        ("no kernel with modules and no init", "ln -s ../bin/busybox /sbin/init"),
        ("no kernel with modules", f"mv /kernel /boot/{kernel.name}"),
    ):
        with pytest.raises(RookeryError) as caught:
            image.build(recipe, work, name="a")
        assert str(caught.value) == f"the image has {lacks}"
        assert "to one whose 'archive' is the unfinished root: kernel = " in caught.value.record.hint
        there = caught.value.record.details.rpartition("the unfinished root is in ")[2]
        assert there == str(work / "failed-build-a")
        recipe = Recipe(archive=there, commands=(command,))
    built = image.build(recipe, work, name="a")
    run(["unsquashfs", "-quiet", "-no-progress", "-dest", tmp_path / "out", built.root])
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/sbin/init").readlink() == Path("../bin/busybox")
    assert os.getxattr(tmp_path / "out/etc/motd", "user.colour") == b"green"
