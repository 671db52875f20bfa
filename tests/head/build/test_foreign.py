# SPDX-License-Identifier: Apache-2.0
"""Roots of another architecture than this machine's, whose programs really run while they are built."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import archives
from lab.archives import Package
from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import foreign
from rookery.head.build.builder import BuildSite, BuiltTree, find
from rookery.head.build.deb import ARCHITECTURES
from rookery.head.build.recipe import Recipe, Repository
from rookery.head.progress import silent
from rookery.run import run

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"
MACHINE = {"aarch64": 183, "x86_64": 62}  # in every program's header (elf(5), e_machine)


@pytest.fixture(scope="module")
def emulated() -> Iterator[None]:
    """The kernel gives programs of OTHER to qemu-user: as this machine is set up, or for the time of the test."""
    if run(["arch-test", ARCHITECTURES[OTHER]], check=False).code == 0:
        yield
        return
    word = f"qemu-{OTHER}"
    line = Path(f"/usr/lib/binfmt.d/{word}.conf").read_text().strip()
    with files.scratch_directory(Path("/run"), "binfmt.") as place:
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", place])
        try:
            (place / "register").write_text(line.replace(f":{word}:", ":rookery-test:", 1))
            try:
                yield
            finally:
                (place / "rookery-test").write_text("-1")
        finally:
            run(["umount", place])


def build(recipe: Recipe, place: Path) -> BuiltTree:
    builder = find(recipe.builder)
    builder.check(recipe)
    (place / "scratch").mkdir(parents=True)
    place.chmod(0o755)
    return builder.build(recipe, BuildSite(place / "tree", place / "scratch", silent, threading.Event()))


@pytest.fixture(scope="module")
def debian_tree(emulated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("foreign")
    recipe = Recipe(
        distribution="debian",
        suite="bookworm",
        kernel="busybox-static",
        architecture=OTHER,
        commands=("uname -m > /root/machine", "dpkg --print-architecture >> /root/machine"),
    )
    assert build(recipe, place).packages["busybox-static"]
    yield place / "tree"
    run(["rm", "-rf", place])


def test_deb_packages_of_another_architecture(debian_tree: Path) -> None:
    assert (debian_tree / "root/machine").read_text().split() == [OTHER, ARCHITECTURES[OTHER]]
    assert (debian_tree / "bin/busybox").read_bytes()[18] == MACHINE[OTHER]
    assert list(debian_tree.glob("usr/bin/qemu-*")) == []


def test_rpm_packages_of_another_architecture(debian_tree: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    root = archives.tiny_root(OTHER, (debian_tree / "bin/busybox").read_bytes())
    kernel = Package(
        "kernel", requires=("tiny-root",), scripts={"post": "uname -m > /root/by-script"}, architecture=OTHER
    )
    with archives.signing_key(tmp_path / "gpg") as key:
        for package in (root, kernel):
            archives.rpm(package, packages, key)
        archives.rpm_repository(packages)
        recipe = Recipe(
            distribution="rocky",
            suite="10",
            kernel="kernel",
            architecture=OTHER,
            key=key.armor.strip(),
            repositories=(Repository("site", f"file://{packages}"),),
            commands=("uname -m > /root/by-command",),
        )
        built = build(recipe, tmp_path / "place")
    tree = tmp_path / "place/tree"
    assert set(built.packages) == {"kernel", "tiny-root"}
    assert (tree / "root/by-script").read_text().strip() == OTHER
    assert (tree / "root/by-command").read_text().strip() == OTHER
    assert (tree / "usr/bin/busybox").read_bytes()[18] == MACHINE[OTHER]
    assert (tree / "usr/lib/sysimage/rpm/rpmdb.sqlite").is_file()
    run(["rm", "-rf", tmp_path / "place"])


def test_without_emulation_an_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked with an arch-test that finds nothing, as on a machine without qemu."""
    (tmp_path / "arch-test").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "arch-test").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RookeryError) as caught:
        foreign.check(OTHER)
    assert caught.value.kind is ErrorKind.MISSING
    assert "qemu-user-static" in caught.value.record.hint
