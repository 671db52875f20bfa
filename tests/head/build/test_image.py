# SPDX-License-Identifier: Apache-2.0
"""Whole builds with real packages: the same bytes twice, what is in them, failures and cancelling."""

import dataclasses
import hashlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import image
from rookery.head.build.image import BuiltImage
from rookery.head.build.recipe import Recipe, RecipeFile
from rookery.head.progress import Progress
from rookery.run import run

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

KERNELS = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}
SMALL = Recipe(
    distribution="debian",
    suite="bookworm",
    kernel=KERNELS[platform.machine()],
    architecture=platform.machine(),
    # What makes users, keys, caches and alternatives when it is installed.
    packages=("systemd-sysv", "dbus", "openssh-server", "python3-minimal"),
    exclude=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"),
    files=(RecipeFile("/opt/site/motd", b"hello\n", 0o640, "daemon:adm"),),
    commands=("useradd --create-home penguin", "date > /var/log/built; date > /tmp/built"),
)
NO_KERNEL = dataclasses.replace(SMALL, kernel="less", packages=(), files=(), commands=())


@dataclasses.dataclass(frozen=True)
class Seen:
    """A build, its root unpacked, and the progress that it told."""

    built: BuiltImage
    root: Path
    drivers: Path
    told: list[Progress]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    work = tmp_path_factory.mktemp("image")
    told: list[Progress] = []
    built = image.build(SMALL, work, told.append)
    run(["unsquashfs", "-quiet", "-no-progress", "-d", work / "root", built.root])
    (work / "drivers").mkdir()
    run(["sh", "-c", f"zstd -dc {built.drivers} | cpio -idm --quiet"], cwd=work / "drivers")
    yield Seen(built, work / "root", work / "drivers", told)
    built.discard()
    assert not built.root.parent.exists()
    run(["rm", "-rf", work])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def traces(place: Path) -> list[str]:
    """Mounts below a directory, and processes that live in it."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            root, words = os.readlink(process / "root"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(place) in root or os.fsencode(place) in words:
            found.append(f"{process.name}: {words!r}")
    return found


def test_the_same_recipe_gives_the_same_bytes(seen: Seen, tmp_path: Path) -> None:
    again = image.build(SMALL, tmp_path / "elsewhere")
    try:
        for one, other in (
            (seen.built.root, again.root),
            (seen.built.kernel, again.kernel),
            (seen.built.drivers, again.drivers),
        ):
            assert digest(one) == digest(other), f"{one.name} differs"
        assert again.packages == seen.built.packages
    finally:
        again.discard()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_build_says_of_itself(seen: Seen) -> None:
    assert seen.built.architecture == platform.machine()
    assert seen.built.kernel_release in os.listdir(seen.root / "usr/lib/modules")
    assert seen.built.packages["openssh-server"]
    assert digest(seen.built.kernel) == digest(seen.root / f"boot/vmlinuz-{seen.built.kernel_release}")
    stages = list(dict.fromkeys(progress.stage for progress in seen.told))
    assert stages[-4:] == ["taking its identity away", "packing the drivers", "packing the root", "tidying up"]
    assert all(0 <= progress.done <= max(progress.total, 0) for progress in seen.told if progress.total)
    assert any(progress.total > 100 and progress.done == progress.total for progress in seen.told)


def test_the_image_is_nobodys(seen: Seen) -> None:
    root = seen.root
    assert (root / "etc/machine-id").read_bytes() == b""
    for gone in ("etc/hostname", "var/log/built", "tmp/built", "etc/apt/apt.conf.d/99mmdebstrap", "etc/passwd-"):
        assert not os.path.lexists(root / gone), gone
    assert list((root / "etc/ssh").glob("ssh_host_*")) == []
    assert [path for path in (root / "var/log").rglob("*") if not path.is_dir()] == []
    assert list((root / "var/lib/apt/lists").glob("*")) == []
    assert list((root / "boot").glob("initrd*")) == []
    assert list(root.rglob("__pycache__")) == []


def test_files_and_commands_are_in(seen: Seen) -> None:
    motd = seen.root / "opt/site/motd"
    users = dict(line.split(":")[0:3:2] for line in (seen.root / "etc/passwd").read_text().splitlines())
    assert motd.read_text() == "hello\n"
    assert motd.stat().st_mode & 0o7777 == 0o640
    assert motd.stat().st_uid == int(users["daemon"])
    assert (seen.root / "home/penguin").stat().st_uid == int(users["penguin"])
    assert not (seen.root / "usr/share/man/man1").exists()


def test_drivers_hold_what_stage_one_needs(seen: Seen) -> None:
    modules = seen.drivers / "lib/modules" / seen.built.kernel_release
    there = {path.name for path in modules.rglob("*.ko")}
    builtin = {Path(line).name for line in (modules / "modules.builtin").read_text().splitlines()}
    for name in ("virtio_net", "virtio_pci", "virtio_blk", "nvme", "squashfs", "overlay", "loop"):
        assert f"{name}.ko" in there | builtin, name
    listed = {Path(line.split(":")[0]).name for line in (modules / "modules.dep").read_text().splitlines()}
    assert listed == there  # depmod's tables are of the subset
    for module in ("virtio_net", "overlay", "squashfs"):
        plan = run(["modprobe", "-d", seen.drivers, "-S", seen.built.kernel_release, "-a", "--show-depends", module])
        for line in plan.stdout.splitlines():
            if line.startswith("insmod "):
                assert Path(line.split()[1]).is_file(), line
    assert not (seen.drivers / "lib").is_symlink()


def test_a_recipe_that_fails_leaves_its_root_for_a_look(tmp_path: Path) -> None:
    recipe = dataclasses.replace(NO_KERNEL, commands=("echo was here > /root/trace", "echo oh no >&2; exit 3"))
    with pytest.raises(RookeryError) as caught:
        image.build(recipe, tmp_path / "work")
    assert "'echo oh no >&2; exit 3'" in str(caught.value)
    kept = tmp_path / "work" / image.FAILED
    assert f"the unfinished root is in {kept}" in caught.value.record.details
    assert (kept / "root/trace").read_text() == "was here\n"
    assert [path.name for path in (tmp_path / "work").iterdir()] == [image.FAILED]
    assert traces(tmp_path) == []
    run(["rm", "-rf", kept])


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        image.build(dataclasses.replace(NO_KERNEL, packages=("no-such-penguin",)), tmp_path / "work")
    assert caught.value.kind is ErrorKind.INVALID
    assert "no-such-penguin" in str(caught.value)
    assert traces(tmp_path) == []


@pytest.mark.parametrize("stage", ["downloading", "running the recipe's commands"])
def test_cancelling_leaves_no_mount_no_process_no_file(tmp_path: Path, stage: str) -> None:
    recipe = dataclasses.replace(NO_KERNEL, commands=("trap '' TERM; sleep 600 & sleep 600",))
    cancel = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.stage == stage:
            cancel.set()

    with pytest.raises(RookeryError) as caught:
        image.build(recipe, tmp_path / "work", on_progress, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert list((tmp_path / "work").iterdir()) == []
    assert traces(tmp_path) == []


# Builds where no package archive can be reached, and gives up once packages have come.
ISOLATED = """
import sys, threading
from pathlib import Path
from rookery.errors import RookeryError
from rookery.head.build import image
from rookery.head.build.recipe import Recipe

cancel, reached = threading.Event(), []

def on_progress(progress):
    if progress.stage == "unpacking the base":
        reached.append(progress)
        cancel.set()

recipe = Recipe("debian", "bookworm", "less", sys.argv[1])
try:
    image.build(recipe, Path(sys.argv[2]), on_progress, cancel, sys.argv[3])
except RookeryError as error:
    print("reached" if reached else error.kind, error, error.record.details)
"""


def test_an_isolated_head_builds_through_another_network_namespace(tmp_path: Path) -> None:
    name = f"rkbuild{os.getpid()}"
    run(["ip", "netns", "add", name])
    try:
        for namespace, said in ((f"/proc/{os.getpid()}/ns/net", "reached"), ("", "unavailable"), ("/no/ns", "invalid")):
            words = [sys.executable, "-c", ISOLATED, platform.machine(), tmp_path, namespace]
            done = run(["ip", "netns", "exec", name, *words])
            assert done.stdout.startswith(said), done
    finally:
        run(["ip", "netns", "del", name])
    run(["rm", "-rf", tmp_path / image.FAILED])
