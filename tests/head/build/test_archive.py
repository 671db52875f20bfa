# SPDX-License-Identifier: Apache-2.0
"""Trees and tarballs become roots: copied exactly, or refused."""

import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder, image
from rookery.head.build.archive import COPYING, UNPACKING, ArchiveBuilder
from rookery.head.build.recipe import Limits, Recipe
from rookery.head.progress import Progress, silent
from rookery.head.publish import tree as trees
from rookery.run import run

pytestmark = pytest.mark.system
LABEL = b"system_u:object_r:etc_t:s0\0"
MOMENT = 1_600_000_000_123_456_789


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with everything that is to be kept."""
    root = tmp_path / "tree [1]"
    for name in ("dev", "etc", "usr/bin", "var/empty"):
        (root / name).mkdir(parents=True)
    (root / "usr/bin/tool").write_text("#!/bin/sh\n")
    os.chown(root / "usr/bin/tool", 12, 345)
    (root / "usr/bin/tool").chmod(0o6755)
    run(["setcap", "cap_net_raw+ep", root / "usr/bin/tool"])
    os.link(root / "usr/bin/tool", root / "usr/bin/also")
    (root / "etc/shared").write_text("x")
    run(["setfacl", "-m", "u:1234:rw,g:77:r", root / "etc/shared"])
    run(["setfacl", "-d", "-m", "u:1234:rwx", root / "var/empty"])
    (root / "etc/labelled").write_text("x")
    os.setxattr(root / "etc/labelled", "security.selinux", LABEL)
    os.setxattr(root / "etc/labelled", "user.bytes", b"\0\xff\n")
    os.setxattr(root / "etc/labelled", "trusted.note", b"x")
    with (root / "var/holes").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    (root / "etc/absolute").symlink_to("/usr/bin/tool")
    (root / "etc/up").symlink_to("../../../etc/passwd")
    (root / "etc" / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    os.mknod(root / "dev/disk", 0o660 | stat.S_IFBLK, os.makedev(8, 1))
    os.mkfifo(root / "var/pipe")
    (root / "var/empty").chmod(0o1777)
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(MOMENT, MOMENT), follow_symlinks=False)
    return root


def listing(tree: Path) -> dict[str, tuple[object, ...]]:
    """Everything that is to be kept of a tree, entry by entry."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        state, name = path.lstat(), str(path.relative_to(tree))
        names = os.listxattr(path, follow_symlinks=False)
        found[name] = (
            (
                stat.filemode(state.st_mode),
                state.st_uid,
                state.st_gid,
                state.st_rdev,
                state.st_mtime_ns,
                state.st_nlink,
            ),
            os.readlink(path) if path.is_symlink() else first.setdefault(state.st_ino, name),
            path.read_bytes() if stat.S_ISREG(state.st_mode) else b"",
            {key: os.getxattr(path, key, follow_symlinks=False) for key in names},
        )
    return found


def built(source: Path, place: Path, told: Callable[[Progress], None] = silent, **more: Limits) -> builder.BuiltTree:
    (place / "scratch").mkdir(parents=True)
    recipe, chosen = Recipe(archive=str(source), **more), ArchiveBuilder()
    chosen.check(recipe)
    return chosen.build(recipe, builder.BuildSite(place / "tree", place / "scratch", told, threading.Event()))


def refused(source: Path, place: Path, **more: Limits) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        built(source, place, **more)
    return caught.value


def test_a_tree_is_copied_exactly(tree: Path, tmp_path: Path) -> None:
    before, told = listing(tree), list[Progress]()
    built(tree, tmp_path / "build", told.append)
    assert listing(tmp_path / "build/tree") == before
    assert (tmp_path / "build/tree/var/holes").stat().st_blocks < 1000
    assert listing(tree) == before
    assert told[0].stage == "counting files"


@pytest.mark.parametrize("pack", ["", "gzip", "xz", "zstd"])
def test_a_tarball_is_unpacked_exactly(tree: Path, tmp_path: Path, pack: str) -> None:
    packed = tmp_path / "tree.tar"
    exact = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--format=posix", "-S"]
    run(["tar", "-C", tree, *exact, *([f"--{pack}"] if pack else []), "-cf", packed, "."])
    told: list[Progress] = []
    built(packed, tmp_path / "build", told.append)
    found, wanted = listing(tmp_path / "build/tree"), listing(tree)
    assert found == wanted
    assert (tmp_path / "build/tree/var/holes").stat().st_blocks < 1000
    assert told[-1].stage in ("looking through the archive", UNPACKING)


def test_what_rookery_packs_itself(tree: Path, tmp_path: Path) -> None:
    trees.pack(tree, tmp_path / "ours.tar", silent, threading.Event())
    built(tmp_path / "ours.tar", tmp_path / "build")
    assert listing(tmp_path / "build/tree") == listing(tree)


@pytest.fixture
def mounted(tree: Path) -> Iterator[Path]:
    (tree / "proc").mkdir()
    run(["mount", "-t", "proc", "proc", tree / "proc"])
    yield tree
    run(["umount", tree / "proc"])


def test_the_machines_own_file_systems_are_left_out(mounted: Path, tmp_path: Path) -> None:
    made = built(mounted, tmp_path / "build")
    assert os.listdir(tmp_path / "build/tree/proc") == []
    assert made.notes == (f"/proc of {mounted} is a file system of the machine: its content was left out",)
    assert (tmp_path / "build/tree/usr/bin/tool").is_file()


def test_a_tree_around_the_heads_own_directory(tmp_path: Path) -> None:
    assert "holds the head's own work directory" in str(refused(tmp_path, tmp_path / "build"))


def test_limits_hold_for_trees_as_well(tree: Path, tmp_path: Path) -> None:
    error = refused(tree, tmp_path / "build", limits=Limits(entries=5))
    assert (error.kind, str(error)) == (ErrorKind.TOO_LARGE, f"{tree} holds more than 5 files")
    assert not (tmp_path / "build/tree").exists()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_tarball_that_leaves_the_tree_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    up = "../" * 20
    cases = (
        [tarfile.TarInfo(f"{up}{outside}/written")],
        [link("way", str(outside)), tarfile.TarInfo("way/written")],
        [link("way", f"{up}{outside}"), tarfile.TarInfo("way/written")],
        [link("way", f"{up}{outside}/secret", tarfile.LNKTYPE)],
    )
    for number, entries in enumerate(cases):
        with tarfile.open(tmp_path / "evil.tar", "w") as tar:
            for info in entries:
                tar.addfile(info)
        error = refused(tmp_path / "evil.tar", tmp_path / f"build{number}")
        assert error.kind is ErrorKind.INVALID
        assert os.listdir(outside) == []
        assert not (tmp_path / f"build{number}/tree").exists()


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "bomb").open("wb") as file:
        file.truncate(1 << 28)
    run(["tar", "-C", tmp_path, "-czf", tmp_path / "bomb.tgz", "bomb"])
    assert (tmp_path / "bomb.tgz").stat().st_size < 1 << 20
    error = refused(tmp_path / "bomb.tgz", tmp_path / "build", limits=Limits(bytes=1 << 27))
    assert error.kind is ErrorKind.TOO_LARGE
    assert not (tmp_path / "build/tree").exists()


@pytest.mark.parametrize("form", ["tree", "tarball"])
def test_a_disk_that_fills_up_after_the_look_is_told(
    small_disk: Path, filling_disk: Callable[[], AbstractContextManager[None]], tmp_path: Path, form: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "noise").write_bytes(os.urandom(3 << 20))
    if form == "tarball":
        run(["tar", "-C", source, "-czf", tmp_path / "source.tgz", "."])
        source = tmp_path / "source.tgz"
    with filling_disk():
        error = refused(source, small_disk / "build")
    verb = "copy" if form == "tree" else "unpack"
    assert (error.kind, str(error)) == (ErrorKind.NO_SPACE, f"no space left to {verb} {source} in {small_disk}/build")


def test_what_is_no_archive(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing", tmp_path / "a").kind is ErrorKind.NOT_FOUND
    (tmp_path / "empty").touch()
    assert "is empty, or no tar archive" in str(refused(tmp_path / "empty", tmp_path / "b"))
    (tmp_path / "text").write_text("x" * 2000)
    assert refused(tmp_path / "text", tmp_path / "c").kind is ErrorKind.CORRUPT
    assert refused(Path("/dev/null"), tmp_path / "d").kind is ErrorKind.INVALID


def test_cancelling_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(RookeryError) as caught:
        image.build(Recipe(archive=str(tree)), tmp_path / "work", lambda progress: cancel.set(), cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert os.listdir(tmp_path / "work") == []


def test_progress_counts_files(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(1000):
        (tmp_path / "many" / str(number)).touch()
    told: list[Progress] = []
    built(tmp_path / "many", tmp_path / "build", told.append)
    counts = [(progress.done, progress.total) for progress in told if progress.stage == COPYING]
    assert counts[-1] == (1000, 1000)
    assert len(counts) == 10
