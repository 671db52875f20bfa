# SPDX-License-Identifier: Apache-2.0
"""Roots of another architecture than this machine's, whose programs really run while they are built."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import archives
from lab.archives import Package
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import foreign, image
from rookery.head.build.builder import BuildSite, BuiltTree, find
from rookery.head.build.image import BuiltImage
from rookery.head.build.recipe import Recipe, Repository
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.run import run
from rookery.wire.manifest import Role, parse_payload
from tests import emulation
from tests.emulation import OTHER, OTHER_DEB

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

MACHINE = {"aarch64": 183, "x86_64": 62}  # in every program's header (elf(5), e_machine)
# What a kernel's file has where (Documentation/arch/arm64/booting.rst, Documentation/arch/x86/boot.rst).
KERNEL = {"aarch64": (0x38, b"ARM\x64"), "x86_64": (0x202, b"HdrS")}


@pytest.fixture(scope="module")
def emulated() -> Iterator[None]:
    with emulation.emulated():
        yield


def build(recipe: Recipe, place: Path) -> BuiltTree:
    builder = find(recipe.builder)
    builder.check(recipe)
    (place / "scratch").mkdir(parents=True)
    place.chmod(0o755)
    return builder.build(recipe, BuildSite(place / "tree", place / "scratch", silent, threading.Event()))


@dataclasses.dataclass(frozen=True)
class Made:
    """An image of OTHER, and what is in its root and its drivers."""

    built: BuiltImage
    root: Path
    drivers: Path


@pytest.fixture(scope="module")
def made(emulated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    place = tmp_path_factory.mktemp("foreign")
    recipe = Recipe(
        distribution="debian",
        suite="bookworm",
        kernel=f"linux-image-cloud-{OTHER_DEB}",
        architecture=OTHER,
        packages=("systemd-sysv", "busybox-static"),
        # The hardware database alone takes an emulated processor half a minute.
        exclude=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/lib/udev/hwdb.d/*"),
        commands=("uname -m > /root/machine", "dpkg --print-architecture >> /root/machine"),
    )
    built = image.build(recipe, place / "work")
    run(["unsquashfs", "-quiet", "-no-progress", "-d", place / "root", built.root])
    (place / "drivers").mkdir()
    run(["sh", "-c", f"zstd -dc {built.drivers} | cpio -idm --quiet"], cwd=place / "drivers")
    yield Made(built, place / "root", place / "drivers")
    run(["rm", "-rf", place])


def test_deb_packages_of_another_architecture(made: Made) -> None:
    assert (made.root / "root/machine").read_text().split() == [OTHER, OTHER_DEB]
    assert (made.root / "bin/busybox").read_bytes()[18] == MACHINE[OTHER]
    assert list(made.root.glob("usr/bin/qemu-*")) == []


def test_an_image_of_another_architecture_is_published(made: Made, tmp_path: Path) -> None:
    offset, magic = KERNEL[OTHER]
    assert made.built.kernel.read_bytes()[offset:].startswith(magic)
    modules = made.drivers / "lib/modules" / made.built.kernel_release
    (network,) = modules.rglob("virtio_net.ko")
    assert {path.read_bytes()[18] for path in modules.rglob("*.ko")} == {MACHINE[OTHER]}
    assert str(network.relative_to(modules)) in (modules / "modules.dep").read_text(), "depmod is this machine's own"
    assert made.built.packages[f"linux-image-cloud-{OTHER_DEB}"]
    paths = Paths(tmp_path)
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.create(paths), catalog, make_torrent)
    version = publisher.image("other", made.built, "", "latest", silent, threading.Event())
    catalog.close()
    manifest = parse_payload(version.manifest.signed_bytes)
    assert (manifest.architecture, manifest.kernel_release) == (OTHER, made.built.kernel_release)
    assert (paths.blobs / manifest.blob(Role.KERNEL).sha256).read_bytes()[offset:].startswith(magic)


def test_rpm_packages_of_another_architecture(made: Made, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    root = archives.tiny_root(OTHER, (made.root / "bin/busybox").read_bytes())
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
