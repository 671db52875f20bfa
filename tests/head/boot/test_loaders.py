# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot import loaders
from rookery.head.config import Paths


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_loaders_of_this_host_are_installed_world_readable(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    before = os.umask(0o077)
    try:
        made = loaders.install(paths)
    finally:
        os.umask(before)
    assert {"undionly.kpxe", "snponly.efi"} <= {path.name for path in made}
    for path in made:
        assert path.stat().st_mode & 0o777 == 0o644
    assert loaders.tftp_root(paths).stat().st_mode & 0o777 == 0o755
    assert (loaders.tftp_root(paths) / "snponly.efi").read_bytes()[:2] == b"MZ"


def test_names_of_both_distribution_families_are_found(tmp_path: Path) -> None:
    debian, fedora = tmp_path / "lib", tmp_path / "share"
    write(debian / "undionly.kpxe", b"bios")
    write(fedora / "ipxe-snponly-x86_64.efi", b"uefi")
    write(fedora / "arm64-efi" / "snponly.efi", b"arm")
    loaders.install(Paths(tmp_path / "head"), (debian, fedora))
    root = loaders.tftp_root(Paths(tmp_path / "head"))
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        "undionly.kpxe": b"bios",
        "snponly.efi": b"uefi",
        "snponly-arm64.efi": b"arm",
    }


def test_a_missing_loader_says_what_to_install_and_installs_nothing(tmp_path: Path) -> None:
    write(tmp_path / "lib" / "undionly.kpxe", b"bios")
    with pytest.raises(RookeryError, match=r"no iPXE boot loader snponly\.efi in") as caught:
        loaders.install(Paths(tmp_path), (tmp_path / "lib",))
    assert caught.value.kind is ErrorKind.MISSING
    assert "package ipxe" in caught.value.record.hint
    assert not loaders.tftp_root(Paths(tmp_path)).exists()


def test_a_newer_loader_replaces_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "lib" / "undionly.kpxe", b"old")
    write(tmp_path / "lib" / "snponly.efi", b"same")
    loaders.install(Paths(tmp_path), (tmp_path / "lib",))
    write(tmp_path / "lib" / "undionly.kpxe", b"new")
    loaders.install(Paths(tmp_path), (tmp_path / "lib",))
    assert loaders.installed(Paths(tmp_path), "undionly.kpxe").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../../site.key", "x", "snponly-arm64.efi", ""])
def test_nothing_but_loaders_is_given_out(tmp_path: Path, name: str) -> None:
    loaders.tftp_root(Paths(tmp_path)).mkdir(parents=True)
    with pytest.raises(RookeryError) as caught:
        loaders.installed(Paths(tmp_path), name)
    assert caught.value.kind is ErrorKind.NOT_FOUND
