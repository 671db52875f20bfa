# SPDX-License-Identifier: Apache-2.0
"""Captures from a real sshd with a real rsync: what comes, what does not, again, and what goes wrong."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.head.trees.capture import Wish, capture
from rookery.head.trees.remote import Remote
from rookery.head.trees.state import Captured
from rookery.run import run

if TYPE_CHECKING:
    from conftest import Room, Sshd

pytestmark = pytest.mark.system
BIG = 20_000_000


@dataclasses.dataclass
class Golden:
    """A machine to capture: sshd, its root, and the head that captures it."""

    room: Room
    sshd: Sshd
    root: Path

    def machine(self, **changes: object) -> Remote:
        known = self.room.paths.known_hosts
        if not known.exists():
            known.write_text(self.sshd.known)
        given = Remote("127.0.0.1", known, port=self.sshd.port, root=str(self.root), options=self.sshd.options)
        return dataclasses.replace(given, **changes)  # type: ignore[arg-type]

    def capture(self, tag: str = "", **changes: object) -> Captured:
        wish = dataclasses.replace(Wish(self.machine(), "golden"), **changes)  # type: ignore[arg-type]
        return capture(self.room.trees, wish, tag, self.room.told.append, self.room.cancel)[0]

    @property
    def tree(self) -> Path:
        return self.room.trees.tree("golden").root


@pytest.fixture
def golden(room: Room, sshd: Sshd, tmp_path: Path, make_root: Callable[[Path], Path]) -> Golden:
    root = make_root(tmp_path / "machine")
    (root / "var/big").write_bytes(os.urandom(BIG))
    os.mkdir(root / "home")
    return Golden(room, sshd, root)


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        names = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(root))] = (
            oct(state.st_mode),
            state.st_uid,
            state.st_gid,
            state.st_rdev,
            0 if path.is_dir() else state.st_nlink,
            0 if path.is_dir() else int(state.st_mtime),
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
            {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
        )
    return found


def test_a_machine_comes_exactly_but_for_what_is_its_own(golden: Golden) -> None:
    root = golden.root
    os.mkfifo(root / "etc/pipe")
    run(["mknod", root / "etc/device", "c", "1", "3"])
    run(["setfacl", "-m", "u:daemon:rw", root / "etc/passwd"])
    run(["truncate", "-s", "50M", root / "var/sparse"])
    os.setxattr(root / "bin/busybox", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    whole = listing(root)
    with socket.socket(socket.AF_UNIX) as wire:
        wire.bind(str(root / "etc/socket"))
        for name in ("proc/version", "sys/kernel", "run/pid", "tmp/scratch", "etc/hostname", "etc/machine-id"):
            (root / name).write_text("its own\n")
        for name in ("etc/ssh/ssh_host_rsa_key", "var/log/messages", "root/.bash_history", "var/log/apt/term.log"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text("its own\n")
        (root / "var/lib/rookery").mkdir(parents=True)
        (root / "var/lib/rookery/site.key").write_text("secret\n")
        done = golden.capture()
    there = listing(golden.tree)
    assert there.pop("var/lib")[0] == "0o40755"
    assert there.pop("var/log/apt")[0] == "0o40755"  # programs expect their directories
    assert there == whole
    assert (golden.tree / "var/sparse").stat().st_blocks < 1000
    assert done.total > BIG
    assert done.moved > BIG
    assert [told.stage for told in golden.room.told][-1] == "copying"
    assert any(told.done > 0 and told.total >= told.done and told.unit == "bytes" for told in golden.room.told)


def test_capturing_again_moves_only_what_changed(golden: Golden) -> None:
    first = golden.capture("latest")
    kept = golden.room.catalog.resolve("golden")
    assert golden.capture("again").moved < first.moved / 200
    assert golden.room.catalog.resolve("golden:again").id == kept.id
    with (golden.root / "var/big").open("r+b") as file:
        file.seek(BIG // 2)
        file.write(b"changed")
    (golden.root / "etc/new").write_text("new\n")
    (golden.root / "etc/passwd").unlink()
    again = golden.capture("latest")
    assert again.moved < first.moved / 50
    assert again.total == pytest.approx(first.total, rel=0.01)
    assert (golden.tree / "var/big").read_bytes() == (golden.root / "var/big").read_bytes()
    assert (golden.tree / "etc/new").exists()
    assert not (golden.tree / "etc/passwd").exists()
    assert golden.room.catalog.resolve("golden").id != kept.id
    assert "capture of 127.0.0.1:" in golden.room.catalog.resolve("golden").recipe
