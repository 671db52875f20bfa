# SPDX-License-Identifier: Apache-2.0
"""Roots built by dnf for real, from repositories of packages that the test makes and signs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import archives
from lab.archives import Key, Package
from rookery.errors import ErrorKind, RookeryError
from rookery.head import serve
from rookery.head.build import image
from rookery.head.build.image import BuiltImage
from rookery.head.build.recipe import Recipe, RecipeFile, Repository
from rookery.head.config import Paths
from rookery.head.progress import Progress, silent
from rookery.run import PIPE, run, spawn

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

TOOL = "/usr/bin/site-tool"
Traces = Callable[[Path], list[str]]


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Two repositories below `top`: `base`, signed by `ours`, and `site`, by `theirs`."""

    top: Path
    ours: Key
    theirs: Key

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            distribution="rocky",
            suite="9",
            kernel="kernel",
            packages=("tiny-root", "site-tool"),
            groups=("site-services",),
            key=self.ours.armor.strip(),
            repositories=(self.base, self.site),
            exclude=("/usr/share/man/*",),
            keep=("/usr/share/man/kept*",),
            files=(RecipeFile("/opt/site/motd", b"hello\n", 0o640, "daemon:adm"),),
            commands=("uname -m > /root/machine; test -c /dev/null",),
        )

    @property
    def base(self) -> Repository:
        return Repository("base", f"file://{self.top}/base/$releasever")

    @property
    def site(self) -> Repository:
        return Repository("site", f"file://{self.top}/site", key=self.theirs.armor.strip())


def flock(machine: str) -> tuple[Package, ...]:
    """A package whose files belong to a user that it only declares, as those for rpm 4.19 and later do; one whose user
    nobody declares; and what makes users."""
    nest, egg = "/var/lib/penguin/nest", "/usr/bin/egg"
    penguin = Package(
        "penguin",
        files={nest: b"x", egg: b"x", "/usr/lib/sysusers.d/penguin.conf": b"u penguin 471 - /var/lib/penguin\n"},
        modes={nest: 0o640, egg: 0o4755},
        attributes={egg: "%caps(cap_net_raw=ep)"},
        owner="penguin",
        requires=("tiny-root",),
        architecture=machine,
    )
    stray = Package("stray", files={"/var/lib/stray": b"x"}, owner="stray", architecture=machine)
    return penguin, stray, archives.own_sysusers(machine)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    top, machine = tmp_path_factory.mktemp("shelf"), platform.machine()
    base, site = top / "base/9", top / "site"
    base.mkdir(parents=True)
    site.mkdir()
    tool = Package(
        "site-tool",
        files={
            TOOL: b"#!/bin/sh\ncat /var/lib/site-tool\n",
            "/usr/share/man/tool.1": b"x",
            "/usr/share/man/kept": b"x",
        },
        modes={TOOL: 0o4755},
        attributes={TOOL: "%caps(cap_net_raw=ep)"},
        scripts={"post": "echo set up on $(date +%s) > /var/lib/site-tool; echo x >/dev/null"},
        requires=("tiny-root",),
        architecture=machine,
    )
    service = Package("site-service", files={"/etc/service.conf": b"a = 1\n"}, requires=("tiny-root",))
    halting = Package("halting", scripts={"pre": "exit 3"}, requires=("tiny-root",))
    grumbling = Package("grumbling", scripts={"post": "exit 4"}, requires=("tiny-root",))
    unsigned = Package("unsigned", files={"/unsigned": b""})
    waiting = Package(
        "waiting",
        scripts={"post": "trap '' TERM; sleep 600 & touch /root/waits; sleep 600"},
        requires=("tiny-root",),
    )
    with (
        archives.signing_key(top / "ours") as ours,
        archives.signing_key(top / "theirs", "Site <site@site.example>") as theirs,
    ):
        kernel = archives.tiny_kernel(top, machine)
        for package in (archives.tiny_root(machine), kernel, archives.own_rpm(machine, "/usr/share/rpm")):
            archives.rpm(package, base, ours)
        for package in (tool, service, halting, grumbling, waiting, *flock(machine)):
            archives.rpm(package, site, theirs)
        archives.rpm(unsigned, site, None)
        archives.rpm_repository(base)
        archives.rpm_repository(site, {"site-services": ["site-service"]})
        yield Shelf(top, ours, theirs)
    run(["rm", "-rf", top])


@dataclasses.dataclass(frozen=True)
class Seen:
    built: BuiltImage
    root: Path
    told: list[Progress]


@pytest.fixture(scope="module")
def seen(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One image, built, and its published squashfs unpacked."""
    work = tmp_path_factory.mktemp("image")
    told: list[Progress] = []
    built = image.build(shelf.recipe, work, told.append)
    run(["unsquashfs", "-quiet", "-no-progress", "-d", work / "root", built.root])
    yield Seen(built, work / "root", told)
    run(["rm", "-rf", work])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(recipe: Recipe, work: Path, traces: Traces) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        image.build(recipe, work)
    assert traces(work) == []
    assert [path.name for path in work.iterdir() if path.name != image.FAILED] == []
    return caught.value


def test_packages_groups_files_and_commands_are_in(seen: Seen) -> None:
    assert {"tiny-root", "tiny-kernel", "site-tool", "site-service"} <= set(seen.built.packages)
    assert seen.built.packages["site-tool"] == "1.0-1"
    assert seen.built.kernel_release == "9.9.9-test"
    assert (seen.root / "etc/service.conf").read_text() == "a = 1\n"
    motd = seen.root / "opt/site/motd"
    assert (motd.read_text(), motd.stat().st_mode & 0o7777, motd.stat().st_uid) == ("hello\n", 0o640, 2)
    assert (seen.root / "root/machine").read_text().strip() == platform.machine()


def test_scripts_ran_and_capabilities_travel_to_the_published_root(seen: Seen) -> None:
    assert (seen.root / "var/lib/site-tool").read_text().startswith("set up on ")
    tool = seen.root / TOOL.lstrip("/")
    assert tool.stat().st_mode & 0o7777 == 0o4755
    said = run(["getcap", tool]).stdout
    assert "cap_net_raw=ep" in said
    # linux/capability.h: VFS_CAP_REVISION_2 with the effective flag, then the permitted set, little endian.
    assert os.getxattr(tool, "security.capability").hex()[:16] == "0100000200200000"


def test_excluded_paths_stay_out(seen: Seen) -> None:
    assert sorted(path.name for path in (seen.root / "usr/share/man").iterdir()) == ["kept"]


def test_the_database_is_where_the_distribution_looks(seen: Seen) -> None:
    """Rocky 9 keeps it in /var/lib/rpm, wherever this machine's rpm has its own."""
    assert (seen.root / "var/lib/rpm/rpmdb.sqlite").is_file()
    listed = run(["rpm", "--dbpath", seen.root / "var/lib/rpm", "-q", "site-tool", "gpg-pubkey"]).stdout.split()
    assert listed[0] == f"site-tool-1.0-1.{platform.machine()}"
    assert len(listed) == 3  # and two keys
    verified = run(["rpm", "--root", seen.root, "--dbpath", "/var/lib/rpm", "-V", "site-tool"], check=False)
    assert [line for line in verified.stdout.splitlines() if "/man/" not in line] == []


def test_nothing_of_the_build_stays(seen: Seen, shelf: Shelf) -> None:
    for gone in ("var/cache/dnf", "etc/yum.repos.d", "var/lib/dnf/history.sqlite", "dev/null", "proc/self"):
        assert not os.path.lexists(seen.root / gone), gone
    for place in (shelf.top, seen.built.root.parent):
        found = run(["grep", "-rlF", place, seen.root], check=False).stdout.splitlines()
        assert found == []


def test_progress_is_told(seen: Seen) -> None:
    stages = list(dict.fromkeys(progress.stage for progress in seen.told))
    assert stages.index("reading package lists") < stages.index("installing packages") < stages.index("tidying up")
    steps = [progress for progress in seen.told if progress.stage == "installing packages" and progress.total]
    assert steps[-1].done == steps[-1].total


def test_the_same_recipe_gives_the_same_bytes(shelf: Shelf, tmp_path: Path) -> None:
    recipe = dataclasses.replace(shelf.recipe, packages=("tiny-root", "rpm", "sysusers", "penguin"))
    digests = []
    for name in ("one", "other"):
        built = image.build(recipe, tmp_path / name)
        digests.append([digest(path) for path in (built.root, built.kernel, built.drivers)])
        built.discard()
    assert digests[0] == digests[1]


def test_an_image_whose_rpm_looks_elsewhere_has_its_database_there(shelf: Shelf, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        shelf.recipe, packages=("tiny-root", "rpm"), files=(), commands=("/usr/bin/rpm -qa >/root/list",)
    )
    built = image.build(recipe, tmp_path / "work")
    root = tmp_path / "root"
    run(["unsquashfs", "-quiet", "-no-progress", "-d", root, built.root])
    listed = (root / "root/list").read_text().split()
    assert {"tiny-root", "rpm", "site-service"} <= {line.rsplit("-", 2)[0] for line in listed}
    assert (root / "usr/share/rpm/rpmdb.sqlite").is_file()
    assert not (root / "var/lib/rpm/rpmdb.sqlite").exists()
    assert built.packages["rpm"] == "1.0-1"
    run(["rm", "-rf", tmp_path / "work", root])


def test_a_package_that_is_not_there(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    error = refused(dataclasses.replace(shelf.recipe, packages=("no-such-penguin",)), tmp_path, traces)
    assert error.kind is ErrorKind.INVALID
    assert str(error) == "no package no-such-penguin in the repositories of rocky 9"


def test_a_group_that_does_not_exist(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    error = refused(dataclasses.replace(shelf.recipe, groups=("no-such-flock",)), tmp_path, traces)
    assert error.kind is ErrorKind.INVALID
    assert str(error) == "no group no-such-flock in the repositories of rocky 9"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/site", "file:///nowhere/at/all"])
def test_a_repository_that_does_not_answer(shelf: Shelf, tmp_path: Path, traces: Traces, url: str) -> None:
    recipe = dataclasses.replace(shelf.recipe, repositories=(shelf.base, dataclasses.replace(shelf.site, url=url)))
    error = refused(recipe, tmp_path, traces)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert f"the repository site ({url})" in str(error)


def test_a_key_that_is_another(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    recipe = dataclasses.replace(shelf.recipe, repositories=(shelf.base, dataclasses.replace(shelf.site, key="")))
    error = refused(recipe, tmp_path, traces)
    assert error.kind is ErrorKind.CORRUPT
    assert "the repository site" in str(error)


def test_a_package_without_a_signature(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    recipe = dataclasses.replace(shelf.recipe, packages=("tiny-root", "unsigned"))
    assert refused(recipe, tmp_path / "work", traces).kind is ErrorKind.CORRUPT
    trusted = dataclasses.replace(
        recipe, repositories=(shelf.base, dataclasses.replace(shelf.site, key="", trusted=True))
    )
    image.build(trusted, tmp_path / "work").discard()
    run(["rm", "-rf", tmp_path / "work"])


def test_a_script_that_fails_stops_or_is_told(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    stopped = refused(dataclasses.replace(shelf.recipe, packages=("halting",)), tmp_path / "work", traces)
    assert "halting" in stopped.record.details
    kept = tmp_path / "work" / image.FAILED
    assert (kept / "usr/bin/busybox").is_file()
    assert str(kept) in stopped.record.details
    built = image.build(dataclasses.replace(shelf.recipe, packages=("grumbling",)), tmp_path / "other")
    assert [note for note in built.notes if "grumbling" in note and "failed" in note]
    run(["rm", "-rf", tmp_path / "work", tmp_path / "other"])


def test_users_that_packages_declare_own_their_files(shelf: Shelf, tmp_path: Path) -> None:
    recipe = dataclasses.replace(shelf.recipe, packages=("tiny-root", "penguin", "sysusers", "stray"))
    built = image.build(recipe, tmp_path / "work")
    root = tmp_path / "root"
    run(["unsquashfs", "-quiet", "-no-progress", "-d", root, built.root])
    nest, egg = (root / "var/lib/penguin/nest").stat(), (root / "usr/bin/egg").stat()
    assert (nest.st_uid, nest.st_gid, nest.st_mode & 0o7777) == (471, 471, 0o640)
    assert (egg.st_uid, egg.st_gid, egg.st_mode & 0o7777) == (471, 471, 0o4755)
    assert "cap_net_raw=ep" in run(["getcap", root / "usr/bin/egg"]).stdout
    assert "penguin:x:471:471:" in (root / "etc/passwd").read_text()
    assert [note for note in built.notes if "there is no stray in the image" in note]
    run(["rm", "-rf", tmp_path / "work", root])


def test_a_disk_that_fills_up(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    work = tmp_path / "small"
    work.mkdir()
    # Large enough to be begun on; the first packages fill it.
    run(["mount", "-t", "tmpfs", "-o", "size=1200m,nr_inodes=150", "tmpfs", work])
    try:
        with pytest.raises(RookeryError) as caught:
            image.build(dataclasses.replace(shelf.recipe, packages=("rpm",)), work)
        assert caught.value.kind is ErrorKind.NO_SPACE
    finally:
        run(["umount", work])
    assert traces(tmp_path) == []


@contextlib.contextmanager
def once(there: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Call `act` when `there` becomes true, as long as the block lasts."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if there():
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_cancelling_leaves_no_mount_no_process_no_file(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    recipe, cancel = dataclasses.replace(shelf.recipe, packages=("waiting",)), threading.Event()
    waits = once(lambda: bool(list(tmp_path.glob("build-*/tree/root/waits"))), cancel.set)
    with waits, pytest.raises(RookeryError) as caught:
        image.build(recipe, tmp_path, silent, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert list(tmp_path.iterdir()) == []
    assert traces(tmp_path) == []


BUILD = """
import sys
from pathlib import Path
from rookery.head.build import image, recipe
text = Path(sys.argv[1]).read_text()
image.build(recipe.parse(text, "waiting.toml", Path("/")), Path(sys.argv[2]))
"""


def test_a_killed_head_takes_its_build_along(shelf: Shelf, tmp_path: Path, traces: Traces) -> None:
    (tmp_path / "ours.asc").write_text(shelf.ours.armor)
    (tmp_path / "theirs.asc").write_text(shelf.theirs.armor)
    recipe = tmp_path / "waiting.toml"
    recipe.write_text(
        'distribution = "rocky"\nsuite = "9"\nkernel = "kernel"\npackages = ["waiting"]\n'
        f'[[repositories]]\nname = "base"\nurl = "{shelf.base.url}"\nkey = "{tmp_path}/ours.asc"\n'
        f'[[repositories]]\nname = "site"\nurl = "{shelf.site.url}"\nkey = "{tmp_path}/theirs.asc"\n'
    )
    paths = Paths(tmp_path / "head")
    work = paths.work
    work.mkdir(parents=True)
    with (
        spawn([sys.executable, "-c", BUILD, recipe, work]) as head,
        once(lambda: bool(list(work.glob("build-*/tree/root/waits"))), head.kill),
    ):
        assert head.wait(120) == -signal.SIGKILL
    # The kernel ends all processes of the namespace, one after the other, once the head is gone.
    until = time.monotonic() + 30
    while traces(work) and time.monotonic() < until:
        time.sleep(0.05)
    assert traces(work) == []
    (left,) = work.iterdir()
    assert left.name.startswith("build-")
    serve._empty(paths)  # as the next head does when it starts
    assert [path for path in work.iterdir() if path.name.startswith("build-")] == []


SERVE = """
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
with http.server.ThreadingHTTPServer(("127.0.0.1", 8000), handler) as server:
    print("listening", flush=True)
    server.serve_forever()
"""


def test_repositories_are_reached_through_another_network_namespace(shelf: Shelf, tmp_path: Path) -> None:
    name = f"rkrpm{os.getpid()}"
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        words = ["ip", "netns", "exec", name, sys.executable, "-c", SERVE, shelf.top]
        with spawn(words, stdout=PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            url = "http://127.0.0.1:8000"
            recipe = dataclasses.replace(
                shelf.recipe,
                packages=("tiny-root",),
                repositories=(
                    dataclasses.replace(shelf.base, url=f"{url}/base/9"),
                    dataclasses.replace(shelf.site, url=f"{url}/site"),
                ),
            )
            built = image.build(recipe, tmp_path / "work", network_namespace=f"/run/netns/{name}")
            assert "tiny-root" in built.packages
    finally:
        run(["ip", "netns", "del", name])
    run(["rm", "-rf", tmp_path / "work"])


def test_a_recipe_in_deb_words_is_refused(shelf: Shelf) -> None:
    for change, word in (
        ({"repositories": ()}, "[[repositories]]"),
        ({"mirror": "http://mirror.example/"}, "[[repositories]]"),
        ({"repositories": (dataclasses.replace(shelf.site, suites=("9",)),)}, "leave them out"),
        ({"repositories": (shelf.base,), "key": ""}, "'key'"),
    ):
        with pytest.raises(RookeryError) as caught:
            image.build(dataclasses.replace(shelf.recipe, **change), Path("/nowhere"), silent)  # type: ignore[arg-type]
        assert caught.value.kind is ErrorKind.INVALID
        assert word in caught.value.record.hint
