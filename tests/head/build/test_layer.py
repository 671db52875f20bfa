# SPDX-License-Identifier: Apache-2.0
"""Images on top of images: the same bytes however the one below is opened, and nothing is left, however it ends."""

import hashlib
import os
import platform
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder, image, layer
from rookery.head.build.builder import BasePart
from rookery.head.build.recipe import Recipe, RecipeFile
from rookery.head.progress import Progress, silent
from rookery.run import run

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
Traces = Callable[[Path], list[str]]
RELEASE = "6.1.0-1-test"


@pytest.fixture(scope="module")
def base(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A published root: Debian, with what makes it look like a machine's."""
    place = tmp_path_factory.mktemp("base")
    tree = place / "tree"
    run(["cp", "-a", "--reflink=auto", debian, tree])
    bulk = ("usr/share/locale", "usr/share/zoneinfo", "usr/share/man", "usr/lib/*/gconv")  # only for speed
    run(["rm", "-rf", *(path for pattern in bulk for path in tree.glob(pattern))])
    (tree / "boot" / f"vmlinuz-{RELEASE}").write_bytes(b"a kernel")
    (tree / "usr/lib/modules" / RELEASE).mkdir(parents=True)
    for name in ("modules.dep", "modules.order", "modules.builtin"):
        (tree / "usr/lib/modules" / RELEASE / name).touch()
    (tree / "usr/sbin/init").touch(0o755)
    (tree / "srv/one").write_text("x")
    os.link(tree / "srv/one", tree / "srv/two")
    (tree / "opt/directory").mkdir()
    (tree / "opt/directory/file").write_text("x")
    tree.chmod(0o755)
    os.chown(tree, 0, 12)
    run(
        [
            "mksquashfs",
            tree,
            place / "root.squashfs",
            "-quiet",
            "-no-progress",
            "-noI",
            "-noD",
            "-noF",
            "-noX",
            "-xattrs",
        ]
    )
    run(["rm", "-rf", tree])
    yield place / "root.squashfs"
    run(["rm", "-rf", place])


ABOVE = Recipe(
    from_image="base:stable",
    packages=("less",),
    files=(RecipeFile("/etc/motd", b"hello\n"),),
    commands=("mv /opt/directory /opt/renamed; rm -r /usr/share/doc", "chmod 600 /srv/one; less --version >/root/less"),
)


def build(
    base: Path,
    work: Path,
    recipe: Recipe = ABOVE,
    told: Callable[[Progress], None] = silent,
    cancel: threading.Event | None = None,
) -> image.BuiltImage:
    part = BasePart(base, {"x": "1"}, "0" * 64, platform.machine())
    return image.build(recipe, work, told, cancel, "", lambda reference: part)


def digests(built: image.BuiltImage) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (built.root, built.kernel, built.drivers)]


def test_a_layer_gives_the_same_bytes_as_an_unpacked_copy(
    base: Path, tmp_path: Path, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, told = hashlib.sha256(base.read_bytes()).hexdigest(), list[Progress]()
    mounted = build(base, tmp_path / "mounted", told=told.append)
    assert "opening the image below" in {progress.stage for progress in told}
    assert "unpacking the image below" not in {progress.stage for progress in told}
    found = digests(mounted)
    assert mounted.packages["less"]
    run(["unsquashfs", "-quiet", "-no-progress", "-d", tmp_path / "seen", mounted.root])
    seen = tmp_path / "seen"
    assert (seen / "etc/motd").read_text() == "hello\n"
    assert (seen / "root/less").read_text().startswith("less ")
    assert (seen / "opt/renamed/file").read_text() == "x"
    assert not (seen / "usr/share/doc").exists()
    assert not (seen / "opt/directory").exists()
    assert (seen / "srv/one").stat().st_ino == (seen / "srv/two").stat().st_ino
    assert (seen / "srv/two").stat().st_mode & 0o777 == 0o600
    assert (seen.stat().st_mode & 0o7777, seen.stat().st_gid) == (0o755, 12)
    assert sorted(os.listdir(mounted.root.parent)) == [image.DRIVERS, image.KERNEL, image.ROOT]
    mounted.discard()

    monkeypatch.setattr(layer, "_HOLD", "exit 1")
    told.clear()
    unpacked = build(base, tmp_path / "unpacked", told=told.append)
    assert "unpacking the image below" in {progress.stage for progress in told}
    assert digests(unpacked) == found
    unpacked.discard()
    assert hashlib.sha256(base.read_bytes()).hexdigest() == before
    assert traces(tmp_path) == []


@pytest.mark.parametrize("where", ["in a command", "at the end"])
def test_a_build_that_fails_is_kept_for_a_look(base: Path, tmp_path: Path, traces: Traces, where: str) -> None:
    commands = {
        "in a command": "touch /root/trace; rm -r /usr/share/doc; exit 3",
        "at the end": "touch /root/trace; rm -r /usr/share/doc /boot/vmlinuz*",
    }
    with pytest.raises(RookeryError) as caught:
        build(base, tmp_path, Recipe(from_image="base", commands=(commands[where],)))
    kept = tmp_path / image.FAILED
    assert f"the unfinished root is in {kept}" in caught.value.record.details
    assert (kept / "root/trace").is_file()
    assert (kept / "usr/bin/apt-get").is_file()
    assert not (kept / "usr/share/doc").exists()
    assert os.listdir(tmp_path) == [image.FAILED]
    assert traces(tmp_path) == []
    run(["rm", "-rf", kept])


def test_cancelling_leaves_nothing(base: Path, tmp_path: Path, traces: Traces) -> None:
    cancel = threading.Event()

    def told(progress: Progress) -> None:
        if progress.line == "begun":
            cancel.set()

    with pytest.raises(RookeryError) as caught:
        build(base, tmp_path, Recipe(from_image="base", commands=("echo begun; sleep 600",)), told, cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert os.listdir(tmp_path) == []
    assert traces(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
from rookery.head.build import builder, image
from rookery.head.build.recipe import Recipe
part = builder.BasePart(Path(sys.argv[1]), {}, "0" * 64, "x86_64")
recipe = Recipe(from_image="base", commands=("sleep 600 & echo begun; sleep 600",))
told = lambda progress: print(progress.line)
image.build(recipe, Path(sys.argv[2]), told, None, "", lambda reference: part)
"""


def test_a_killed_build_leaves_no_mount_and_no_process(base: Path, tmp_path: Path, traces: Traces) -> None:
    words = [sys.executable, "-u", "-c", KILLED, base, tmp_path]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdout is not None
        assert "begun\n" in head.stdout
        found = traces(tmp_path)
        children = [os.pidfd_open(int(line.split(":")[0])) for line in found if line.split(":")[0].isdigit()]
        assert len(children) >= 4, found
        assert any(" overlay overlay " in line for line in found)
        os.kill(head.pid, signal.SIGKILL)
    for child in children:
        assert select.select([child], [], [], 30)[0], "a process outlived the head"
        os.close(child)
    assert traces(tmp_path) == []
    # The kernel lets go of the loop device a moment after the last process of the mounts has ended.
    until = threading.Event()
    for _ in range(100):
        if not traces(base.parent):
            break
        until.wait(0.1)
    assert traces(base.parent) == []


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        image.build(Recipe(from_image="base:stable"), tmp_path)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert isinstance(layer.LayerBuilder(), builder.Builder)
    assert os.listdir(tmp_path) == []
