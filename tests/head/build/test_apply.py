# SPDX-License-Identifier: Apache-2.0
"""A recipe's packages, files and commands in a root that is there already, by the root's own package manager."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apply
from rookery.head.build.recipe import Recipe, RecipeFile
from rookery.head.progress import Progress, silent
from rookery.run import run

pytestmark = pytest.mark.system
Traces = Callable[[Path], list[str]]


def applied(root: Path, recipe: Recipe, on_progress: Callable[[Progress], None] = silent) -> None:
    apply.apply(root, recipe, root.parent / "scratch", on_progress, threading.Event())


def test_packages_then_files_then_commands(root: Path, traces: Traces) -> None:
    told: list[Progress] = []
    recipe = Recipe(
        archive="/x",
        packages=("cron", "less"),  # cron would be started by its package
        files=(RecipeFile("/opt/site/motd", b"hello\n", 0o640, "daemon:daemon"),),
        commands=("less --version >/root/less", "cat /opt/site/motd >/root/motd; pgrep cron >/root/running || true"),
    )
    applied(root, recipe, told.append)
    assert (root / "usr/bin/less").is_file()
    assert (root / "root/less").read_text().startswith("less ")
    assert (root / "root/motd").read_text() == "hello\n"
    assert (root / "root/running").read_text() == ""
    state = (root / "opt/site/motd").stat()
    assert (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (0o640, 1, 1)
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert os.listdir(root / "var/lib/apt/lists") == []
    last = {progress.stage: (progress.done, progress.total) for progress in told}
    assert list(last) == ["reading package lists", apply.INSTALLING, "writing files", "running the recipe's commands"]
    assert last[apply.INSTALLING][0] == last[apply.INSTALLING][1] >= 4
    assert traces(root) == []


def test_a_package_that_is_not_there(root: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", packages=("no-such-penguin", "less")))
    assert str(caught.value) == "no package no-such-penguin in the archives that this root's apt-get knows"
    assert caught.value.kind is ErrorKind.INVALID


def test_archives_that_do_not_answer(root: Path) -> None:
    for file in [root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").iterdir()]:
        file.unlink(missing_ok=True)
    (root / "etc/apt/sources.list").write_text("deb http://127.0.0.1:1/debian bookworm main\n")
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", packages=("less",)))
    assert str(caught.value) == "apt-get in this root cannot reach its package archives"
    assert caught.value.kind is ErrorKind.UNAVAILABLE


def test_a_command_that_fails_is_shown(root: Path, traces: Traces) -> None:
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", commands=("true", "echo oh no >&2; exit 3")))
    assert str(caught.value) == "the command 'echo oh no >&2; exit 3' of the recipe failed in the image's root"
    assert caught.value.record.details == "oh no\nexit code 3"
    assert traces(root) == []


def test_a_file_does_not_leave_the_root(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "opt/link").symlink_to(outside)
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", files=(RecipeFile("/opt/link/file", b"x"),)))
    assert "the file /opt/link/file" in str(caught.value)
    assert os.listdir(outside) == []


def test_a_root_without_a_package_manager(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(RookeryError) as caught:
        applied(tmp_path / "root", Recipe(archive="/x", packages=("less",)))
    assert "this root has none of apt-get, dnf, microdnf, zypper" in str(caught.value)


SPEC = """
Name: rookery-penguin
Version: 1.2
Release: 3
Summary: A penguin
License: MIT
BuildArch: noarch
%description
%post -p <lua>
io.open("/root/penguin", "w"):write("waddles\\n")
%files
/opt/penguin
%install
mkdir -p %{buildroot}/opt
echo hello >%{buildroot}/opt/penguin
"""


def repository(root: Path, tmp_path: Path) -> str:
    """Put a repository of a package of our own into a root; returns its URL there."""
    (tmp_path / "penguin.spec").write_text(SPEC)
    run(["rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/rpm", tmp_path / "penguin.spec"])
    run(["cp", "-r", tmp_path / "rpm/RPMS/noarch", root / "srv/repository"])
    run(["createrepo_c", root / "srv/repository"])
    return "file:///srv/repository"


def only(root: Path, tool: str) -> None:
    """Make `tool` the root's package manager."""
    applied(root, Recipe(archive="/x", packages=(tool, "rpm")))
    for program in ("apt-get", "apt"):
        (root / "usr/bin" / program).unlink()


@pytest.mark.timeout(900)
def test_zypper_where_that_is_the_roots_package_manager(root: Path, tmp_path: Path) -> None:
    only(root, "zypper")
    url = repository(root, tmp_path)
    (root / "etc/zypp/repos.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/zypp/repos.d/local.repo").write_text(
        f"[local]\nname=local\nbaseurl={url}\nenabled=1\ngpgcheck=0\ntype=rpm-md\n"
    )
    applied(root, Recipe(archive="/x", packages=("rookery-penguin",)))
    assert (root / "opt/penguin").read_text() == "hello\n"
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", packages=("no-such-penguin",)))
    assert str(caught.value) == "no package no-such-penguin in the archives that this root's zypper knows"


@pytest.mark.timeout(900)
def test_dnf_where_that_is_the_roots_package_manager(root: Path, tmp_path: Path) -> None:
    only(root, "dnf")
    url = repository(root, tmp_path)
    (root / "etc/yum.repos.d").mkdir(parents=True)
    (root / "etc/yum.repos.d/local.repo").write_text(f"[local]\nname=local\nbaseurl={url}\nenabled=1\ngpgcheck=0\n")
    told: list[Progress] = []
    applied(root, Recipe(archive="/x", packages=("rookery-penguin",)), told.append)
    assert (root / "opt/penguin").read_text() == "hello\n"
    assert (root / "root/penguin").read_text() == "waddles\n"
    assert os.listdir(root / "var/cache/dnf") == []
    assert [progress.stage for progress in told if progress.total][-1] == apply.INSTALLING
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", packages=("no-such-penguin",)))
    assert str(caught.value) == "no package no-such-penguin in the archives that this root's dnf knows"
    (root / "etc/yum.repos.d/local.repo").write_text(
        "[local]\nname=local\nbaseurl=http://127.0.0.1:1/\nenabled=1\ngpgcheck=0\n"
    )
    with pytest.raises(RookeryError) as caught:
        applied(root, Recipe(archive="/x", packages=("rookery-penguin",)))
    assert caught.value.kind is ErrorKind.UNAVAILABLE
