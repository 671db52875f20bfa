# SPDX-License-Identifier: Apache-2.0
"""Containers become roots: umoci's images, in a layout, an archive or a registry, are unpacked exactly or refused."""

import io
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder, image
from rookery.head.build.container import ARCHITECTURES, ContainerBuilder
from rookery.head.build.recipe import Limits, Recipe
from rookery.head.progress import Progress, silent
from rookery.run import run

pytestmark = pytest.mark.system
Traces = Callable[[Path], list[str]]
OURS = ARCHITECTURES[platform.machine()]


class Images:
    """An OCI layout that a test fills. Every image in it is of umoci's making."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.layout = place / "layout"
        run(["umoci", "init", "--layout", self.layout])

    def make(self, tag: str, *layers: Path, architecture: str = OURS) -> str:
        """A new image of these tar archives; returns it as a recipe's 'container'."""
        name = f"{self.layout}:{tag}"
        run(["umoci", "new", "--image", name])
        run(["umoci", "config", "--image", name, "--architecture", architecture, "--os", "linux"])
        for layer in layers:
            run(["umoci", "raw", "add-layer", "--image", name, layer])
        return f"oci:{name}"

    def layer(self, *entries: tarfile.TarInfo | tuple[str, bytes]) -> Path:
        """A tar archive of a test's own entries, or of files (name, content)."""
        path = self._place / f"layer{len(list(self._place.iterdir()))}.tar"
        with tarfile.open(path, "w") as tar:
            for entry in entries:
                info = tarfile.TarInfo(entry[0]) if isinstance(entry, tuple) else entry
                content = entry[1] if isinstance(entry, tuple) else bytes(info.size)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    def packed(self, tree: Path) -> Path:
        """A tar archive of a tree, exact."""
        path = self._place / f"tree{len(list(self._place.iterdir()))}.tar"
        run(["tar", "-C", tree, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-cf", path, "."])
        return path


@pytest.fixture
def images(tmp_path: Path) -> Images:
    (tmp_path / "images").mkdir()
    return Images(tmp_path / "images")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    tree = tmp_path / "small"
    for name in ("dev", "etc", "usr/bin", "var"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/os-release").write_text('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    (tree / "usr/bin/tool").write_text("#!/bin/sh\n")
    (tree / "usr/bin/tool").chmod(0o4755)
    os.chown(tree / "usr/bin/tool", 12, 345)
    run(["setcap", "cap_net_raw+ep", tree / "usr/bin/tool"])
    os.link(tree / "usr/bin/tool", tree / "usr/bin/also")
    os.setxattr(tree / "etc/os-release", "user.note", b"x\0y")
    (tree / "bin").symlink_to("usr/bin")
    (tree / "var/lock").symlink_to("/run/lock")
    os.mknod(tree / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(tree / "var/pipe")
    return tree


def built(recipe: Recipe, place: Path, told: Callable[[Progress], None] = silent) -> builder.BuiltTree:
    (place / "scratch").mkdir(parents=True)
    return ContainerBuilder().build(
        recipe, builder.BuildSite(place / "tree", place / "scratch", told, threading.Event())
    )


def refused(recipe: Recipe, place: Path) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        built(recipe, place)
    return caught.value


def listing(tree: Path) -> dict[str, tuple[object, ...]]:
    """Everything that is to be kept of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted(tree.rglob("*")):
        state, name = path.lstat(), str(path.relative_to(tree))
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        link = os.readlink(path) if path.is_symlink() else inodes.setdefault(state.st_ino, name)
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        found[name] = (
            state.st_mode, state.st_uid, state.st_gid, state.st_rdev, int(state.st_mtime), content, link, attributes,
        )  # fmt: skip
    return found


@pytest.fixture(params=["oci", "docker-archive", "zstd"])
def kept(request: pytest.FixtureRequest, images: Images, small: Path, tmp_path: Path) -> str:
    """The same image of two layers, in several forms."""
    hidden = images.layer(("var/old", b"x"), ("var/gone/a", b"x"), ("etc/changed", b"before"), ("opt/a", b"x"))
    after = images.layer(
        ("var/.wh.old", b""),
        ("var/.wh.gone", b""),
        ("opt/.wh..wh..opq", b""),
        ("opt/b", b"x"),
        ("etc/changed", b"after"),
    )
    made = images.make("a", images.packed(small), hidden, after)
    copy = {
        "docker-archive": f"docker-archive:{tmp_path}/image.tar:small:1",
        "zstd": f"oci:{tmp_path}/zstd:a",
    }.get(request.param)
    if copy is None:
        return made
    packed = ["--dest-compress-format", "zstd"] if request.param == "zstd" else []
    run(["skopeo", "copy", *packed, made, copy])
    if packed:
        documents = [
            blob.read_text(errors="replace")
            for blob in (tmp_path / "zstd/blobs/sha256").iterdir()
            if blob.stat().st_size < 4096
        ]
        assert any("+zstd" in text for text in documents)
    return copy


def test_an_image_is_unpacked_exactly(kept: str, small: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    built(Recipe(container=kept), tmp_path / "build", told.append)
    found, wanted = listing(tmp_path / "build/tree"), listing(small)
    later = {"etc/changed", "opt", "opt/b"}
    for parent in ("etc", "var", "."):  # their times are those of the later layers
        found.pop(parent, None)
        wanted.pop(parent, None)
    assert {name: state for name, state in found.items() if name not in later} == wanted
    assert later <= set(found)
    assert (tmp_path / "build/tree/etc/changed").read_text() == "after"
    assert stat.S_IMODE((tmp_path / "build").stat().st_mode) == 0o700
    assert os.listdir(tmp_path / "build/scratch") == []
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages[kept.startswith("docker-archive")] == "fetching the container"
    zstd = ["unpacking zstd layers"] if "/zstd:" in kept else []
    assert stages[-2 - len(zstd) :] == ["looking through the layers", *zstd, "unpacking the layers"]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real registry on loopback, of which skopeo is told that it speaks plain HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "registry.yml").write_text(
        json.dumps({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
            "http": {"addr": address},
        })
    )  # fmt: skip
    (tmp_path / "home/.config/containers").mkdir(parents=True)
    (tmp_path / "home/.config/containers/registries.conf").write_text(
        f'[[registry]]\nlocation = "{address}"\ninsecure = true\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ["docker-registry", "serve", tmp_path / "registry.yml"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        said = next((line for line in server.stdout if "listening on" in line), "")
        assert address in said
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield address
        server.terminate()


def test_an_image_out_of_a_registry(registry: str, images: Images, small: Path, tmp_path: Path) -> None:
    made = images.make("a", images.packed(small))
    run(["skopeo", "copy", made, f"docker://{registry}/site/small:1"])
    built(Recipe(container=f"docker://{registry}/site/small:1"), tmp_path / "build")
    assert listing(tmp_path / "build/tree") == listing(small)
    error = refused(Recipe(container=f"docker://{registry}/site/small:2"), tmp_path / "other")
    assert (error.kind, str(error)) == (ErrorKind.NOT_FOUND, f"the registry has no docker://{registry}/site/small:2")


def test_images_that_cannot_be_had(images: Images, tmp_path: Path) -> None:
    error = refused(Recipe(container=f"oci:{tmp_path}/nowhere:a"), tmp_path / "a")
    assert (error.kind, str(error)) == (ErrorKind.NOT_FOUND, f"there is no container image at oci:{tmp_path}/nowhere:a")
    error = refused(Recipe(container="docker://127.0.0.1:1/x:y"), tmp_path / "b")
    assert (error.kind, str(error)) == (ErrorKind.UNAVAILABLE, "cannot reach docker://127.0.0.1:1/x:y")


def test_an_image_for_other_machines(images: Images, tmp_path: Path) -> None:
    made = images.make("a", images.layer(("x", b"")), architecture="s390x")
    error = refused(Recipe(container=made), tmp_path / "build")
    assert str(error) == f"{made} is for s390x, and the recipe for {OURS}"


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_path_escape_is_refused_and_nothing_is_written(images: Images, tmp_path: Path, traces: Traces) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    up = "../" * 20
    for number, layer in enumerate([
        images.layer((f"{up}{outside}/written", b"x")),
        images.layer(link("way", str(outside)), ("way/written", b"x")),
        images.layer(link("way", f"{up}{outside}"), ("way/written", b"x")),
        images.layer(link("way", f"{up}{outside}/secret", tarfile.LNKTYPE), ("way", b"written")),
        images.layer(link("way", str(outside)), ("way/.wh.secret", b"")),
        images.layer((f"{up}{outside}/.wh.secret", b"")),
    ]):  # fmt: skip
        # The first layer is good: nothing of that one may be there either.
        made = images.make(f"t{number}", images.layer(("good", b"x")), layer)
        error = refused(Recipe(container=made), tmp_path / f"build{number}")
        assert error.kind is ErrorKind.INVALID
        assert "is refused: its entry" in str(error)
        assert not (tmp_path / f"build{number}/tree").exists()
        assert {path.name: path.read_text() for path in outside.iterdir()} == {"secret": "x"}
    assert traces(tmp_path) == []


def test_a_bomb_is_refused_before_it_goes_off(images: Images, tmp_path: Path) -> None:
    with (tmp_path / "bomb").open("wb") as file:
        file.truncate(1 << 28)
    run(["tar", "-C", tmp_path, "-cf", tmp_path / "bomb.tar", "bomb"])
    made = images.make("a", tmp_path / "bomb.tar")
    error = refused(Recipe(container=made, limits=Limits(bytes=100 << 20)), tmp_path / "build")
    assert (error.kind, str(error)) == (ErrorKind.TOO_LARGE, f"{made} holds more than {100 << 20} bytes")
    assert not (tmp_path / "build/tree").exists()


MOST_OF_IT = 64 << 20  # bytes: four times as much as there is on the small disk


def zeros(images: Images, tmp_path: Path, where: str) -> str:
    """An image that is small, and whose one layer unpacks to many bytes: a file's, or those after the archive's end."""
    layer = images.layer(("bomb", bytes(MOST_OF_IT if where == "a file" else 1)))
    if where != "a file":
        os.truncate(layer, layer.stat().st_size + MOST_OF_IT)
    return images.make("bomb", layer)


def repacked(made: str, form: str, tmp_path: Path) -> str:
    """The same image as zstd layers, or as an archive that is compressed as a whole."""
    if form == "zstd":
        run(["skopeo", "copy", "--dest-compress-format", "zstd", made, f"oci:{tmp_path}/{form}:a"])
        return f"oci:{tmp_path}/{form}:a"
    run(["skopeo", "copy", made, f"{form}:{tmp_path}/{form}:a:1"])
    if form == "oci-archive":  # whose layers are packed already: the bomb is around them
        os.truncate(tmp_path / form, (tmp_path / form).stat().st_size + MOST_OF_IT)
    run(["gzip", tmp_path / form])
    return f"{form}:{tmp_path}/{form}.gz:a:1"


@pytest.mark.parametrize("form", ["zstd", "docker-archive", "oci-archive"])
@pytest.mark.parametrize("where", ["a file", "after the end"])
def test_what_skopeo_would_unpack_is_refused_before_it(
    images: Images, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, where: str
) -> None:
    made = repacked(zeros(images, tmp_path, where), form, tmp_path)
    monkeypatch.setattr(image, "SPACE", 1 << 20)
    work, told, most = small_disk / "work", list[str](), 0

    def on_progress(progress: Progress) -> None:
        nonlocal most
        most = max(most, shutil.disk_usage(small_disk).used)
        told.append(progress.stage)

    for limits, kind, words in (
        (Limits(), ErrorKind.NO_SPACE, "not enough space for unpacking"),
        (Limits(bytes=MOST_OF_IT - 1), ErrorKind.TOO_LARGE, f"{made} holds more than {MOST_OF_IT - 1} bytes"),
    ):
        with pytest.raises(RookeryError) as caught:
            image.build(Recipe(container=made, limits=limits), work, on_progress)
        assert caught.value.kind is kind
        assert words in str(caught.value)
        assert os.listdir(work) == []
    assert not {"unpacking zstd layers", "unpacking the layers"} & set(told)
    assert ("fetching the container" in told) == (form == "zstd")
    assert most < 2 << 20


@pytest.mark.parametrize("form", ["oci", "zstd"])
def test_a_disk_that_fills_up_after_the_look_is_told(
    images: Images,
    small_disk: Path,
    filling_disk: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    form: str,
) -> None:
    made = images.make("a", images.layer(("noise", os.urandom(3 << 20))))
    made = repacked(made, form, tmp_path) if form == "zstd" else made
    with filling_disk():
        error = refused(Recipe(container=made), small_disk / "build")
    assert error.kind is ErrorKind.NO_SPACE, error.record.details
    assert str(error) == f"no space left to unpack {made} in {small_disk}/build/scratch"
    run(["rm", "-rf", small_disk / "build"])
    built(Recipe(container=made), small_disk / "build")
    assert (small_disk / "build/tree/noise").stat().st_size == 3 << 20


def test_a_disk_that_is_full_is_told(images: Images, small_disk: Path, tmp_path: Path) -> None:
    made = images.make("a", images.layer(("noise", os.urandom(3 << 20))))
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, 15 << 20)
    error = refused(Recipe(container=made), small_disk / "build")
    assert (error.kind, str(error)) == (
        ErrorKind.NO_SPACE,
        f"no space left to fetch {made} in {small_disk}/build/scratch",
    )


def test_an_image_without_kernel_and_init_is_told_so(
    images: Images, small: Path, tmp_path: Path, traces: Traces
) -> None:
    made = images.make("a", images.packed(small))
    with pytest.raises(RookeryError) as caught:
        image.build(Recipe(container=made), tmp_path / "work")
    error = caught.value.record
    assert error.message == "the image has no kernel with modules and no init"
    assert error.details.startswith("its root is Debian GNU/Linux 12 (bookworm)\n")
    package = {"x86_64": "linux-image-amd64", "aarch64": "linux-image-arm64"}[platform.machine()]
    assert f'kernel = "{package}" and packages = ["systemd-sysv", "udev"]' in error.hint
    kept = tmp_path / "work" / image.FAILED
    assert (kept / "usr/bin/tool").is_file()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700  # its set-user-ID programs are for no other user
    assert traces(tmp_path) == []


def test_the_recipe_gives_it_both(debian: Path, images: Images, tmp_path: Path, traces: Traces) -> None:
    made = images.make("a", images.packed(debian))
    small_kernel = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}[platform.machine()]
    whole = image.build(
        Recipe(container=made, kernel=small_kernel, packages=("systemd-sysv", "udev")), tmp_path / "work"
    )
    try:
        assert whole.packages[f"linux-image-{whole.kernel_release}"]
        assert whole.packages["systemd-sysv"]
        assert run(["unsquashfs", "-ll", whole.root, "usr/sbin/init"], check=False).stdout.count("init") == 1
    finally:
        whole.discard()
    assert traces(tmp_path) == []
