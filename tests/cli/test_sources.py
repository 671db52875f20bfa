# SPDX-License-Identifier: Apache-2.0
"""By command line: an image out of a tree, one on top of it, the same on another machine, also on one of another
architecture, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rookery.run import run
from tests.emulation import OTHER, OTHER_DEB, emulated

if TYPE_CHECKING:
    from conftest import Place, Sshd

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def no_images(operate: Any) -> Any:
    yield
    for image in json.loads(operate("image", "list", "--json").out)["images"]:
        operate("image", "rm", image["name"], "-y")


def built(operate: Any, *words: str) -> dict[str, Any]:
    done = operate("image", "build", *words, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def on(running: Place, sshd: Sshd) -> list[str]:
    """The words that have an image built on the machine of `sshd`, which the head knows from now on."""
    (running.directory / "known_hosts").write_text(sshd.known)
    words = ["--on", "root@127.0.0.1", "--ssh-option", f"Port={sshd.port}"]
    return words + [word for option in sshd.options for word in ("--ssh-option", option)]


def test_from_a_tree_to_an_image_on_top_of_it(
    operate: Any, running: Place, sshd: Sshd, make_root: Callable[[Path], Path], tmp_path: Path
) -> None:
    make_root(tmp_path / "tree")
    (tmp_path / "tree.toml").write_text('archive = "tree"\ncommands = ["echo made >/etc/made"]\n')
    (tmp_path / "above.toml").write_text('from = "small:stable"\ncommands = ["echo above >/etc/above"]\n')
    small = built(operate, "small", str(tmp_path / "tree.toml"), "--tag", "stable")
    above = built(operate, "above", str(tmp_path / "above.toml"))
    assert above["id"] != small["id"]

    there = on(running, sshd)
    assert built(operate, "small", str(tmp_path / "tree.toml"), *there)["id"] == small["id"]
    assert built(operate, "above", str(tmp_path / "above.toml"), *there)["id"] == above["id"]
    assert os.listdir(sshd.place / "there") == []
    assert os.listdir(running.directory / "work") == []


# A login to it: what runs there sees the root of the other machine alone, with what its own kernel would give it.
ENTER = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --bind "$TMPDIR" "$1/var/tmp"
exec env -u TMPDIR chroot "$1" /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""
TOOLS = "base-files,python3,rsync,squashfs-tools,cpio,zstd,kmod,util-linux,mount,coreutils,tar,gzip,dash,busybox-static"


@pytest.fixture(scope="module")
def other_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a machine with another processor and a later Debian than this project's."""
    place = tmp_path_factory.mktemp("machine")
    words = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=extract"]
    run([*words, f"--architectures={OTHER_DEB}", f"--include={TOOLS}", "trixie", place / "root"])
    with emulated():
        yield place / "root"
    run(["rm", "-rf", place])


def test_on_a_machine_of_another_architecture(
    operate: Any,
    running: Place,
    sshd: Sshd,
    sshd_config: Callable[[str], None],
    other_machine: Path,
    make_root: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    (sshd.place / "enter").write_text(ENTER)
    sshd_config(f"ForceCommand exec unshare --mount /bin/sh {sshd.place}/enter {other_machine}")
    make_root(other_machine / "srv/tree")
    shutil.copy(other_machine / "bin/busybox", other_machine / "srv/tree/bin/busybox")
    recipe = tmp_path / "other.toml"
    recipe.write_text(f'architecture = "{OTHER}"\narchive = "/srv/tree"\ncommands = ["uname -m >/etc/built-on"]\n')
    version = built(operate, "other", str(recipe), *on(running, sshd))
    assert version["architecture"] == OTHER
    (blob,) = [blob for blob in version["blobs"] if blob["role"] == "root"]
    there = running.directory / "blobs" / blob["sha256"]
    assert run(["unsquashfs", "-cat", there, "etc/built-on"]).stdout == f"{OTHER}\n"
    assert run(["unsquashfs", "-cat", there, "etc/motd"]).stdout == "hello\n"
    assert os.listdir(sshd.place / "there") == []
    assert os.listdir(running.directory / "work") == []


def test_what_leaves_the_tree_is_refused(operate: Any, running: Place, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../written"))
    (tmp_path / "evil.toml").write_text('archive = "evil.tar"\n')
    done = operate("image", "build", "evil", str(tmp_path / "evil.toml"))
    assert done.code == 2
    assert "is refused: its entry '../../written' has a name that leaves the tree" in done.err
    (tmp_path / "none.toml").write_text('from = "nobody"\n')
    assert operate("image", "build", "above", str(tmp_path / "none.toml")).code == 3
    done = operate("image", "build", "evil", str(tmp_path / "evil.toml"), "--on", "-oProxyCommand=x")
    assert (done.code, "is not a host" in done.err) == (2, True)
