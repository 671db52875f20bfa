# SPDX-License-Identifier: Apache-2.0
"""Trees: everything is in the archive exactly, and other tools read it."""

import os
import socket
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import silent
from rookery.head.publish import tree
from rookery.run import run

NEVER = threading.Event()
WHEN = 1_600_000_000_123_456_789


def make_tree(root: Path, names: tuple[str, ...] = ("b", "a", "ü", "x" * 150)) -> Path:
    (root / "dir").mkdir(parents=True)
    for name in names:
        (root / "dir" / name).write_text(f"content of {name}")
    (root / os.fsdecode(b"not-utf8-\xff")).write_text("odd")
    os.chmod(root / "dir" / "a", 0o4711)
    os.chown(root / "dir" / "a", 12345, 4_000_000)
    os.setxattr(root / "dir" / "a", "user.note", b"\x00\xff=\n")
    os.setxattr(root / "dir", "user.plain", "grün".encode())
    os.link(root / "dir" / "b", root / "mate")
    (root / "dangling").symlink_to("/nowhere/at all")
    os.mkfifo(root / "fifo", 0o600)
    (root / "empty").mkdir(mode=0o700)
    for path in [root, *root.rglob("*")]:
        os.utime(path, ns=(0, WHEN), follow_symlinks=False)
    return root


def pack(source: Path, to: Path) -> bytes:
    tree.pack(source, to, silent, NEVER)
    return to.read_bytes()


def test_what_tar_unpacks_is_the_tree(tmp_path: Path) -> None:
    source, out = make_tree(tmp_path / "tree"), tmp_path / "out"
    pack(source, tmp_path / "tree.tar")
    out.mkdir()
    run(["tar", "-xpf", tmp_path / "tree.tar", "-C", out, "--xattrs", "--xattrs-include=*", "--numeric-owner"])
    one = run(["find", ".", "-printf", "%P %y %m %U %G %s %T@ %l %n\n"], cwd=source).stdout.splitlines()
    two = run(["find", ".", "-printf", "%P %y %m %U %G %s %T@ %l %n\n"], cwd=out).stdout.splitlines()
    # Sizes of directories are the file system's own.
    assert sorted(line for line in two if " d " not in line) == sorted(line for line in one if " d " not in line)
    assert len(one) == len(two)
    assert stat.S_IMODE((out / "empty").stat().st_mode) == 0o700
    assert (out / "dir").stat().st_mtime_ns == WHEN
    assert (out / "mate").stat().st_ino == (out / "dir/b").stat().st_ino
    assert os.getxattr(out / "dir" / "a", "user.note") == b"\x00\xff=\n"
    assert os.getxattr(out / "dir", "user.plain") == "grün".encode()
    assert (out / "dir" / ("x" * 150)).read_text() == "content of " + "x" * 150


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    one = pack(make_tree(tmp_path / "one"), tmp_path / "1.tar")
    two = pack(make_tree(tmp_path / "two", ("x" * 150, "ü", "a", "b")), tmp_path / "2.tar")
    assert one == two
    os.utime(tmp_path / "two" / "dir" / "b", ns=(0, WHEN + 1))
    assert pack(tmp_path / "two", tmp_path / "2.tar") != one


def test_names_are_sorted_and_the_root_comes_first(tmp_path: Path) -> None:
    pack(make_tree(tmp_path / "tree"), tmp_path / "tree.tar")
    with tarfile.open(tmp_path / "tree.tar") as tar:
        names = [os.fsencode(name) for name in tar.getnames()]
        assert all(member.uname == member.gname == "" for member in tar.getmembers())
    assert names[0] == b"."
    assert names == sorted(names)


@pytest.mark.system
def test_devices_are_kept(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mknod(tmp_path / "tree" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    pack(tmp_path / "tree", tmp_path / "tree.tar")
    with tarfile.open(tmp_path / "tree.tar") as tar:
        member = tar.getmember("null")
    assert (member.ischr(), member.devmajor, member.devminor) == (True, 1, 3)


def test_a_socket_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "tree" / "s"))
        with pytest.raises(RookeryError) as caught:
            pack(tmp_path / "tree", tmp_path / "tree.tar")
    assert caught.value.kind is ErrorKind.INVALID
    assert str(tmp_path / "tree" / "s") in str(caught.value)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, size: int) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "tree" / "b").write_bytes(b"x" * 2_000_000)

    def change(_: object) -> None:  # told after a is in, before b is read
        (tmp_path / "tree" / "b").write_bytes(b"x" * size)

    with pytest.raises(RookeryError, match="changed while it was read"):
        tree.pack(tmp_path / "tree", tmp_path / "tree.tar", change, NEVER)


def test_cancelling(tmp_path: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(RookeryError) as caught:
        tree.pack(make_tree(tmp_path / "tree"), tmp_path / "tree.tar", lambda _: cancel.set(), cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
