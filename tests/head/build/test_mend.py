# SPDX-License-Identifier: Apache-2.0
"""What a root lacks, what would mend it, and that nothing is read through a link that leads out of it."""

import os
import platform
import threading
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import drivers, installed, kernel, mend, rooted

RELEASE = "6.1.0-1"
OURS = platform.machine()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root that can be booted."""
    root = tmp_path / "root"
    modules = root / "usr/lib/modules" / RELEASE
    for name in ("boot", "etc", "usr/sbin", "usr/lib/systemd", "usr/lib/firmware"):
        (root / name).mkdir(parents=True)
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("")
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(b"kernel")
    (root / "usr/lib/systemd/systemd").touch(0o755)
    (root / "usr/sbin/init").symlink_to("/lib/systemd/systemd")
    (root / "lib").symlink_to("usr/lib")
    (root / "sbin").symlink_to("usr/sbin")
    return root


def told(tree: Path, architecture: str = "x86_64") -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        mend.require_bootable(tree, architecture)
    assert caught.value.kind is ErrorKind.INVALID
    return caught.value


def test_a_whole_root_is_well(tree: Path) -> None:
    mend.require_bootable(tree, OURS)
    assert kernel.find(tree).image == tree / f"boot/vmlinuz-{RELEASE}"


@pytest.mark.parametrize(("machine", "architecture"), [(62, "x86_64"), (183, "aarch64"), (243, "")])
def test_the_architecture_is_that_of_its_init(tree: Path, machine: int, architecture: str) -> None:
    (tree / "usr/lib/systemd/systemd").write_bytes(b"\x7fELF\2\1\1".ljust(16, b"\0") + bytes([3, 0, machine, 0]))
    for named in ("x86_64", "aarch64"):
        if architecture in ("", named):  # of what we do not know we say nothing
            mend.require_architecture(tree, named)
            continue
        with pytest.raises(RookeryError) as caught:
            mend.require_architecture(tree, named)
        assert str(caught.value) == f"the root is for {architecture}, and the image would be for {named}"
        assert caught.value.kind is ErrorKind.INVALID
    (tree / "usr/lib/systemd/systemd").write_text("#!/bin/sh\n")
    mend.require_architecture(tree, "x86_64")


@pytest.mark.parametrize(
    ("release", "hint"),
    [
        ("ID=debian", 'kernel = "linux-image-arm64" and packages = ["systemd-sysv", "udev"]'),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', 'kernel = "kernel" and packages = ["systemd"]'),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', 'kernel = "kernel-default" and packages = ["systemd", "udev"]'),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'", 'kernel = "linux-image-generic"'),
        ("ID=alpine", 'commands = ["apk add linux-lts openrc"]'),
        ("ID=nobody", "put a kernel with its modules and an init"),
    ],
)
def test_what_would_mend_it(tree: Path, release: str, hint: str) -> None:
    (tree / "etc/os-release").write_text(release + "\n")
    (tree / f"boot/vmlinuz-{RELEASE}").unlink()
    (tree / "usr/sbin/init").unlink()
    (tree / "usr/lib/systemd/systemd").unlink()
    error = told(tree, "aarch64")
    assert str(error) == "the image has no kernel with modules and no init"
    assert hint in error.record.hint


def test_only_what_is_missing_is_told(tree: Path) -> None:
    (tree / "etc/os-release").write_text("ID=debian\nPRETTY_NAME='Debian 12'\n")
    (tree / f"boot/vmlinuz-{RELEASE}").rename(tree / "kernel")
    error = told(tree)
    assert str(error) == "the image has no kernel with modules"
    assert error.record.details == "its root is Debian 12"
    assert error.record.hint.endswith('root: kernel = "linux-image-amd64"')
    (tree / "kernel").rename(tree / f"boot/vmlinuz-{RELEASE}")
    (tree / "usr/lib/systemd/systemd").unlink()
    assert str(told(tree)) == "the image has no init"


def test_paths_are_found_as_from_inside(tree: Path) -> None:
    assert rooted.file(tree, "/sbin/init") == tree / "usr/lib/systemd/systemd"
    assert rooted.directory(tree, "lib/modules") == tree / "usr/lib/modules"
    assert rooted.find(tree, "../../etc") == tree / "etc"
    assert rooted.file(tree, "etc") is None
    (tree / "circle").symlink_to("circle")
    assert rooted.find(tree, "circle") is None
    os.mkfifo(tree / "pipe")
    assert rooted.find(tree, "pipe") == tree / "pipe"
    assert rooted.file(tree, "pipe") is None


def test_a_secret_of_the_head_is_no_kernel(tree: Path, tmp_path: Path) -> None:
    """A kernel is published, and given to whoever asks: a link must not make one of the head's own files."""
    (tmp_path / "secret").write_text("secret")
    for target in (str(tmp_path / "secret"), "../" * 30 + str(tmp_path / "secret"), "../../secret"):
        image = tree / f"boot/vmlinuz-{RELEASE}"
        image.unlink()
        image.symlink_to(target)
        assert kernel.candidates(tree) == []
    (tree / "boot/vmlinuz-6.1.0-1").unlink()
    (tree / "boot").rmdir()
    (tree / "boot").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"elsewhere/vmlinuz-{RELEASE}").write_text("secret")
    assert kernel.candidates(tree) == []
    (tmp_path / "status").write_text("Package: x\nStatus: install ok installed\nVersion: 1\n")
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").symlink_to(tmp_path / "status")
    assert installed.packages(tree) == {}


@pytest.mark.parametrize("case", ["a name that climbs", "a link that climbs"])
def test_modules_come_from_the_image_only(tree: Path, tmp_path: Path, case: str) -> None:
    modules = tree / "usr/lib/modules" / RELEASE
    (tmp_path / "secret.ko").write_text("secret")
    name = "kernel/drivers/net/ethernet/" + ("../" * 10 + "secret.ko" if "name" in case else "secret.ko")
    (modules / "kernel/drivers/net/ethernet").mkdir(parents=True)
    (modules / "kernel/drivers/net/ethernet/secret.ko").symlink_to(tmp_path / "secret.ko")
    (modules / "modules.dep").write_text(f"{name}:\n")
    with pytest.raises(RookeryError) as caught:
        drivers.pack(tree, kernel.find(tree), tmp_path / "drivers", tmp_path, threading.Event())
    assert "which is no file of the image" in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["root", "secret.ko"]


def test_packages_of_a_dpkg_root(tree: Path) -> None:
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").write_text(
        "Package: less\nStatus: install ok installed\nVersion: 590-2\nDescription: pager\n with: colons\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: bash\nStatus: hold ok installed\nVersion: 5\n"
    )
    assert installed.packages(tree) == {"bash": "5", "less": "590-2"}
