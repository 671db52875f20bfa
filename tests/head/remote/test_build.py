# SPDX-License-Identifier: Apache-2.0
"""Builds on another machine, through a real sshd: what comes home, and what stays there."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import archives
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import image
from rookery.head.build.builder import BasePart, no_base
from rookery.head.build.recipe import Recipe, Repository
from rookery.head.progress import Progress, silent
from rookery.head.remote import build as remote_build
from rookery.head.remote.machine import Remote
from rookery.run import run, which

if TYPE_CHECKING:
    from conftest import Sshd

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@dataclasses.dataclass
class Site:
    """The machine that builds, with a tree to build from, and the head's work directory."""

    sshd: Sshd
    tree: Path
    work: Path
    known: Path

    @property
    def machine(self) -> Remote:
        options = (*self.sshd.options, f"Port={self.sshd.port}")
        return Remote("127.0.0.1", self.known, options=options)

    @property
    def there(self) -> list[str]:
        """What is in the other machine's directory of temporary files."""
        return os.listdir(self.sshd.place / "there")

    def build(
        self,
        recipe: Recipe,
        told: Callable[[Progress], None] = silent,
        cancel: threading.Event | None = None,
        base: Path | None = None,
    ) -> image.BuiltImage:
        part = BasePart(base, {}, "0" * 64, platform.machine()) if base else None
        return remote_build.build(
            self.machine,
            recipe,
            self.work,
            told,
            cancel or threading.Event(),
            lambda name: part or no_base(name),
            "gpu",
        )


@pytest.fixture
def site(sshd: Sshd, tmp_path: Path, make_root: Callable[[Path], Path]) -> Iterator[Site]:
    (tmp_path / "known").write_text(sshd.known)
    yield Site(sshd, make_root(tmp_path / "tree"), tmp_path / "work", tmp_path / "known")
    run(["rm", "-rf", sshd.place / "there"])


def digests(built: image.BuiltImage) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (built.root, built.kernel, built.drivers)]


def test_what_is_built_there_is_what_would_be_built_here(site: Site, tmp_path: Path) -> None:
    recipe = Recipe(archive=str(site.tree), commands=("echo hello >/etc/issue",))
    told: list[Progress] = []
    found = site.build(recipe, told.append)
    here = image.build(recipe, tmp_path / "here")
    assert digests(found) == digests(here)
    assert dataclasses.replace(found, root=here.root, kernel=here.kernel, drivers=here.drivers) == here
    assert site.there == []
    assert len(os.listdir(found.root.parent)) == 3
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages[0] == "reaching the other machine"
    assert stages[-1] == "bringing the image home"
    assert {"counting files", "running the recipe's commands", "packing the root"} <= set(stages)
    assert (told[-1].done, told[-1].unit) == (told[-1].total, "bytes")

    again = Recipe(from_image="base", commands=("echo hello >/etc/issue2",))
    above = site.build(again, told.append, base=found.root)
    part = BasePart(found.root, {}, "0" * 64, platform.machine())
    assert digests(above) == digests(image.build(again, tmp_path / "here", base=lambda name: part))
    assert "sending the image below" in {progress.stage for progress in told}
    assert site.there == []


def test_a_build_that_fails_there(site: Site) -> None:
    with pytest.raises(RookeryError) as caught:
        site.build(Recipe(archive=str(site.tree), commands=("touch /root/trace; echo oh no; exit 3",)))
    assert "'touch /root/trace; echo oh no; exit 3' of the recipe failed" in str(caught.value)
    kept = site.sshd.place / "there/rookery-failed-build-gpu"
    assert f"oh no\nexit code 3\nthe unfinished root is in {kept} there" in caught.value.record.details
    assert (kept / "root/trace").exists()
    assert site.there == [kept.name]
    assert os.listdir(site.work) == []


def test_cancelling_cleans_up_there(site: Site) -> None:
    cancel = threading.Event()

    def told(progress: Progress) -> None:
        if progress.line == "begun":
            cancel.set()

    with pytest.raises(RookeryError) as caught:
        site.build(Recipe(archive=str(site.tree), commands=("echo begun; sleep 600",)), told, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert site.there == []
    assert os.listdir(site.work) == []
    assert living(site.sshd.place / "there") == []


KILLED = """
import sys, threading
from pathlib import Path
from rookery.head.build.recipe import Recipe
from rookery.head.build.builder import no_base
from rookery.head.remote import build as remote_build
from rookery.head.remote.machine import Remote
tree, work, known, *options = sys.argv[1:]
recipe = Recipe(archive=tree, commands=("echo begun; sleep 600",))
told = lambda progress: print(progress.line)
machine = Remote("127.0.0.1", Path(known), options=options)
remote_build.build(machine, recipe, Path(work), told, threading.Event(), no_base)
"""


def test_a_killed_head_leaves_nothing_there(site: Site) -> None:
    words = [sys.executable, "-u", "-c", KILLED, site.tree, site.work, site.known, *site.machine.options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdout is not None
        assert "begun\n" in head.stdout
        assert len(site.there) == 1
        os.kill(head.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while site.there or living(site.sshd.place / "there"):
        assert time.monotonic() < until, (site.there, living(site.sshd.place / "there"))
        time.sleep(0.1)


def test_packages_are_installed_there(site: Site, tmp_path: Path) -> None:
    machine, shelf = platform.machine(), site.sshd.place / "packages"
    shelf.mkdir()
    with archives.signing_key(tmp_path / "gpg") as key:
        for package in (archives.tiny_root(machine), archives.tiny_kernel(tmp_path, machine)):
            archives.rpm(package, shelf, key)
        archives.rpm_repository(shelf)
        (tmp_path / "key.asc").write_text(key.armor)
    repository = Repository("site", f"file://{shelf}", str(tmp_path / "key.asc"))
    recipe = Recipe(
        distribution="rocky", suite="9", kernel="kernel", packages=("tiny-root",), repositories=(repository,)
    )
    told: list[Progress] = []
    found = site.build(recipe, told.append)
    assert set(found.packages) == {"tiny-root", "tiny-kernel"}
    assert {"reading package lists", "installing packages"} <= {progress.stage for progress in told}
    assert digests(found) == digests(image.build(recipe, tmp_path / "here"))
    assert site.there == []

    with pytest.raises(RookeryError) as caught:
        site.build(dataclasses.replace(recipe, packages=("no-such-penguin",)))
    assert caught.value.kind is ErrorKind.INVALID
    assert "no-such-penguin" in str(caught.value)
    assert caught.value.record.details.endswith("this was on 127.0.0.1")


# What a machine does to the bytes that it sends home: `cut`, `flip`, `fewer`, or `silent`.
DAMAGE = """
import json, sys
of, to, how = sys.stdin.buffer, sys.stdout.buffer, sys.argv[1]
for line in of:
    if how == "silent":
        break
    if how == "fewer" and (image := json.loads(line).get("image")):
        del image["files"][2]["sha256"]
        line = json.dumps({"image": image}).encode() + b"\\n"
    to.write(line)
    to.flush()
    if image := json.loads(line).get("image"):
        size = image["files"][0]["size"]
        data = bytearray(of.read(size if how == "flip" else size // 2))
        data[len(data) // 2] ^= how == "flip"
        to.write(data)
        to.write(of.read() if how == "flip" else b"")
        break
"""
_RUN = '/bin/sh -c "$SSH_ORIGINAL_COMMAND"'
BROKEN: dict[str, tuple[str, ErrorKind, str, str]] = {
    "no Python": (
        f"PATH={{place}}/bin exec {_RUN}",
        ErrorKind.MISSING,
        "127.0.0.1 has no Python 3.11 or later, which builders need",
        "install it there",
    ),
    "no root": (
        f"exec setpriv --reuid=65534 --regid=65534 --clear-groups {_RUN}",
        ErrorKind.FORBIDDEN,
        "the user on 127.0.0.1 is not root, and sudo does not let it be without a password",
        "--on root@127.0.0.1",
    ),
    "no rsync": (
        f"exec unshare --mount sh -c 'mount --bind /dev/null {{rsync}} && {_RUN}'",
        ErrorKind.MISSING,
        "copying a tree needs rsync, which is not installed",
        "apt install rsync",
    ),
    "no directory": (
        f"exec env TMPDIR={{place}}/nowhere {_RUN}",
        ErrorKind.UNAVAILABLE,
        "the build on 127.0.0.1 ended without a word (exit code 1)",
        "build again",
    ),
    "cut short": (
        f"{_RUN} | {{damage}} cut",
        ErrorKind.UNAVAILABLE,
        "the other machine is gone",
        "build again",
    ),
    "a wrong byte": (
        f"{_RUN} | {{damage}} flip",
        ErrorKind.CORRUPT,
        "root.squashfs did not arrive as it was built",
        "build again",
    ),
    "half an answer": (
        f"{_RUN} | {{damage}} fewer",
        ErrorKind.FAILED,
        "the other machine says what no build says",
        "its login shell must print nothing",
    ),
    "no word": (
        f"{_RUN} | {{damage}} silent",
        ErrorKind.UNAVAILABLE,
        "the build on 127.0.0.1 ended without a word (exit code 0)",
        "build again",
    ),
    "a talking shell": (
        f"echo Welcome; {_RUN}",
        ErrorKind.FAILED,
        "the other machine says what no build says",
        "its login shell must print nothing",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_machine_that_is_broken(site: Site, sshd_config: Callable[[str], None], name: str) -> None:
    command, kind, message, hint = BROKEN[name]
    place = site.sshd.place
    (place / "bin").mkdir()
    for program in ("sh", "id", "mktemp", "rm", "head"):
        (place / "bin" / program).symlink_to(which(program) or "")
    (place / "damage.py").write_text(DAMAGE)
    damage = f"{sys.executable} -I {place}/damage.py"
    sshd_config(f"ForceCommand {command.format(place=place, rsync=which('rsync'), damage=damage)}")
    with pytest.raises(RookeryError) as caught:
        site.build(Recipe(archive=str(site.tree)))
    error = caught.value.record
    assert (error.kind, error.message) == (kind, message), error.details
    assert hint in error.hint
    assert os.listdir(site.work) == []
    until = time.monotonic() + 60  # a build that nobody listens to any more cleans up by itself
    while site.there or living(place / "there"):
        assert time.monotonic() < until, (site.there, living(place / "there"))
        time.sleep(0.1)


def living(place: Path) -> list[bytes]:
    """The command lines of processes that have to do with a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in words:
            found.append(words)
    return found


def test_a_machine_that_does_not_let_us_in(site: Site) -> None:
    site.known.write_text("")
    with pytest.raises(RookeryError) as caught:
        site.build(Recipe(archive=str(site.tree)))
    assert caught.value.kind is ErrorKind.UNAUTHORIZED
    assert os.listdir(site.work) == []


def test_an_image_below_that_is_not_there(site: Site) -> None:
    with pytest.raises(RookeryError) as caught:
        site.build(Recipe(from_image="base:stable"))
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert site.there == []
