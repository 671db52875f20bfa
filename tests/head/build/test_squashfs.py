# SPDX-License-Identifier: Apache-2.0
"""squashfs: what is kept, the same bytes for the same tree, cancelling, progress."""

import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import squashfs
from rookery.head.progress import Progress, silent
from rookery.head.publish.chunker import Chunker
from rookery.run import run, spawn

EPOCH = 1_700_000_000
READ = "user.rookery"


def make_tree(root: Path, size: int = 5_000_000) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "su").write_bytes(b"program")
    os.chmod(root / "bin" / "su", 0o4755)
    (root / "bin" / "link").symlink_to("su")
    os.link(root / "bin" / "su", root / "hard")
    (root / "noise").write_bytes(os.urandom(1 << 16) * (size >> 16))
    os.setxattr(root / "noise", READ, b"\x00\xff")
    for path in [root, *root.rglob("*")]:
        os.utime(path, (EPOCH - 10, EPOCH - 10), follow_symlinks=False)
    return root


def test_a_squashfs_holds_the_tree(tmp_path: Path) -> None:
    tree, packed, out = make_tree(tmp_path / "tree"), tmp_path / "root.squashfs", tmp_path / "out"
    told: list[Progress] = []
    squashfs.pack(tree, packed, EPOCH, told.append, threading.Event())
    run(["unsquashfs", "-quiet", "-no-progress", "-d", out, packed])
    assert (out / "noise").read_bytes() == (tree / "noise").read_bytes()
    assert (out / "bin" / "su").stat().st_mode & 0o7777 == 0o4755
    assert (out / "hard").stat().st_ino == (out / "bin" / "su").stat().st_ino
    assert os.readlink(out / "bin" / "link") == "su"
    assert os.getxattr(out / "noise", READ) == b"\x00\xff"
    assert (out / "bin" / "su").stat().st_mtime == EPOCH - 10
    assert told
    assert told[-1].done == told[-1].total > 0


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    one = make_tree(tmp_path / "one")
    run(["cp", "-a", one, tmp_path / "two"])  # other inodes
    os.utime(tmp_path / "two" / "noise", (EPOCH + 5, EPOCH + 5))  # after the epoch: clamped
    os.utime(one / "noise", (EPOCH + 7, EPOCH + 7))
    squashfs.pack(one, tmp_path / "1", EPOCH, silent, threading.Event())
    squashfs.pack(tmp_path / "two", tmp_path / "2", EPOCH, silent, threading.Event())
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def make_directories(root: Path) -> Path:
    """Many small files, as a root file system has them, of text that compresses like text."""
    dice = random.Random(1)
    letters = [dice.randbytes(40).hex() for _ in range(2000)]
    for directory in range(120):
        where = root / f"d{directory % 7}" / f"sub {directory}"
        where.mkdir(parents=True)
        for number in range(12):
            (where / f"f{number}").write_text("\n".join(dice.choices(letters, k=dice.randrange(200))))
    for path in [root, *root.rglob("*")]:
        os.utime(path, (EPOCH - 10, EPOCH - 10))
    return root


def chunks_of(data: bytes) -> dict[bytes, int]:
    cutter = Chunker(len(data))
    cutter.add(data)
    return {digest: length for _, length, digest in cutter.index("0" * 64).chunks()}


def test_a_new_file_leaves_what_other_directories_have_as_it_was(tmp_path: Path) -> None:
    tree, packed = make_directories(tmp_path / "tree"), []
    for _ in range(2):
        squashfs.pack(tree, tmp_path / "out", EPOCH, silent, threading.Event())
        packed.append((tmp_path / "out").read_bytes())
        (tree / "d0" / "sub 0" / "a new one").write_bytes(os.urandom(2000))
    old, new = (chunks_of(data) for data in packed)
    lacking = sum(length for digest, length in new.items() if digest not in old)
    assert 2000 < lacking < len(packed[1]) / 4


def test_the_groups_of_directories_do_not_depend_on_how_many_threads_there_are(tmp_path: Path) -> None:
    tree = make_directories(tmp_path / "tree")
    squashfs.pack(tree, tmp_path / "many", EPOCH, silent, threading.Event())
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        squashfs.pack(tree, tmp_path / "one", EPOCH, silent, threading.Event())
    finally:
        os.sched_setaffinity(0, before)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_a_small_machine_packs_without_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_directories(tmp_path / "tree")
    squashfs.pack(tree, tmp_path / "grouped", EPOCH, silent, threading.Event())
    monkeypatch.setattr(squashfs, "memory", lambda: 1 << 30)
    squashfs.pack(tree, tmp_path / "common", EPOCH, silent, threading.Event())
    said = [run(["unsquashfs", "-s", tmp_path / name]).stdout for name in ("grouped", "common")]
    many, few = (int(re.findall(r"Number of fragments (\d+)", text)[0]) for text in said)
    assert many > few


def test_the_parts_of_a_tree_have_groups_and_odd_names_are_left_in_common(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ('quote"', "star*", "new\nline", "ümlaut", "back\\slash", "plain", "with space", "empty", "a/b/c/d/e"):
        (tree / name).mkdir(parents=True)
        if name != "empty":
            (tree / name / "file").write_text(name)
    actions = squashfs.fragment_groups(tree).decode()
    tests = re.findall(r'(\w+)\("([^"]*)"\)', actions)
    assert sorted(tests) == [("pathname", "plain/*"), ("pathname", "with space/*"), ("subpathname", "a/b/c")]


def test_every_line_can_be_read(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(9000):
        (tree / f"{number:0200}").mkdir(parents=True)
        (tree / f"{number:0200}" / "file").touch()
    actions = squashfs.fragment_groups(tree).decode()
    assert len(actions.splitlines()) == squashfs.GROUPS
    assert max(len(line) for line in actions.splitlines()) <= squashfs.MOST_LINE
    squashfs.pack(tree, tmp_path / "out", EPOCH, silent, threading.Event())  # mksquashfs takes them
    assert "0008999/file" in run(["unsquashfs", "-l", tmp_path / "out"]).stdout


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tree / "more").write_bytes(os.urandom(80_000_000))  # seconds of work
    cancel = threading.Event()
    told: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        told.append(progress)
        if progress.done:
            cancel.set()

    with pytest.raises(RookeryError) as caught:
        squashfs.pack(tree, tmp_path / "out", EPOCH, on_progress, cancel)
    assert told[-1].done < told[-1].total
    assert caught.value.kind is ErrorKind.CANCELLED
    assert not (tmp_path / "out").exists()


def test_a_failure_says_what_mksquashfs_said(tmp_path: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        squashfs.pack(tmp_path / "missing", tmp_path / "out", EPOCH, silent, threading.Event())
    assert "missing" in caught.value.record.details
    assert not (tmp_path / "out").exists()


@pytest.mark.system
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    tree, small = make_tree(tmp_path / "tree"), tmp_path / "small"
    (tree / "more").write_bytes(os.urandom(4_000_000))
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "rkbuild", small])
    try:
        with pytest.raises(RookeryError) as caught:
            squashfs.pack(tree, small / "out", EPOCH, silent, threading.Event())
        assert caught.value.kind is ErrorKind.NO_SPACE
        assert list(small.iterdir()) == []
    finally:
        run(["umount", small])
    shutil.rmtree(tree)


def test_it_goes_with_the_head_and_leaves_nothing_elsewhere(tmp_path: Path) -> None:
    tree, work = make_tree(tmp_path / "tree", 200_000_000), tmp_path / "work"
    work.mkdir()
    code = (
        "import sys, threading; from pathlib import Path; from rookery.head.build import squashfs;"
        "squashfs.pack(Path(sys.argv[1]), Path(sys.argv[2]), 0, lambda _: None, threading.Event())"
    )
    temporary = set(Path(tempfile.gettempdir()).glob("*groups-*"))
    with spawn([sys.executable, "-c", code, tree, work / "root.squashfs"]) as head:
        until = time.monotonic() + 60
        while not (children := Path(f"/proc/{head.pid}/task/{head.pid}/children").read_text().split()):
            assert time.monotonic() < until
        child = os.pidfd_open(int(children[0]))
        os.kill(head.pid, signal.SIGKILL)
        head.wait()
    assert select.select([child], [], [], 30)[0], "mksquashfs outlived the head"
    os.close(child)
    assert set(Path(tempfile.gettempdir()).glob("*groups-*")) == temporary
