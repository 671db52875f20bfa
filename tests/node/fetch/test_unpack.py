# SPDX-License-Identifier: Apache-2.0
import contextlib
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import silent
from rookery.head.publish.tree import pack
from rookery.node.fetch.unpack import unpack_tree


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return path


def shape(top: Path) -> dict[str, object]:
    """What a tree is made of, as far as it is kept."""
    found: dict[str, object] = {}
    for folder, folders, names in os.walk(top):
        for name in [*folders, *names, "."]:
            path = Path(folder) / name
            state = path.lstat()
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            attributes = {}
            for key in os.listxattr(path, follow_symlinks=False):
                attributes[key] = os.getxattr(path, key, follow_symlinks=False)
            kept = (state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, state.st_nlink, content, attributes)
            found[str(path.relative_to(top))] = kept
    return found


def test_a_published_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    top = tmp_path / "source"
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "tool").write_bytes(os.urandom(100_000))
    (top / "bin" / "tool").chmod(0o4755)
    (top / "bin" / "same").hardlink_to(top / "bin" / "tool")
    (top / "away").symlink_to("/etc/passwd")
    (top / "naïve \udcff").write_text("odd name")
    os.mkfifo(top / "pipe")
    (top / "closed").mkdir()
    (top / "closed" / "inside").write_text("x")
    (top / "closed").chmod(0o555)
    os.utime(top / "bin" / "tool", ns=(1, 1_234_567_890_123_456_789))
    with contextlib.suppress(OSError):  # a file system without them: the rest is compared all the same
        os.setxattr(top / "bin" / "tool", "user.rookery", b"\xff\x00x")
    pack(top, tmp_path / "a.tar", silent, threading.Event())
    unpack_tree(tmp_path / "a.tar", tmp_path / "got")
    assert shape(tmp_path / "got") == shape(top)
    (top / "closed").chmod(0o755)
    (tmp_path / "got" / "closed").chmod(0o755)


@pytest.mark.parametrize(
    "members",
    [
        [entry("/etc/evil", b"x")],
        [entry("../evil", b"x")],
        [entry("a/../../evil", b"x")],
        [entry("way", type=tarfile.SYMTYPE, linkname="{outside}"), entry("way/evil", b"x")],
        [entry("evil", type=tarfile.SYMTYPE, linkname="{outside}/evil"), entry("evil", b"x")],
        [entry("evil", type=tarfile.LNKTYPE, linkname="{outside}/secret")],
        [entry("evil", type=tarfile.LNKTYPE, linkname="../outside/secret")],
        [entry("way", type=tarfile.SYMTYPE, linkname="{outside}"), entry("way", type=tarfile.DIRTYPE, mode=0o777)],
        [entry("twice", b"x"), entry("twice", b"y")],
        [entry("no/parent", b"x")],
    ],
)
def test_nothing_reaches_outside_of_the_directory(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "secret").write_text("secret")
    for member, _ in members:
        member.linkname = member.linkname.replace("{outside}", str(outside))
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(RookeryError) as caught:
        unpack_tree(archive(tmp_path / "a.tar", *members), inside / "got")
    assert caught.value.kind is ErrorKind.CORRUPT
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1
    assert outside.stat().st_mode & 0o777 == 0o700
    assert not list(inside.iterdir()), "nothing is left behind"


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tar", entry("new", b"x"))
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "old").touch()
    with pytest.raises(RookeryError) as caught:
        unpack_tree(packed, tmp_path / "got")
    assert caught.value.kind is ErrorKind.CONFLICT
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["old"]
    (tmp_path / "got" / "old").unlink()
    unpack_tree(packed, tmp_path / "got")
    assert (tmp_path / "got" / "new").read_bytes() == b"x"


def test_a_cancelled_one_leaves_nothing(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tar", entry("folder", type=tarfile.DIRTYPE, mode=0o500), entry("folder/x", b"x"))
    stop = threading.Event()
    stop.set()
    with pytest.raises(RookeryError) as caught:
        unpack_tree(packed, tmp_path / "got", stop)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(os.urandom(10_000))
    with pytest.raises(RookeryError) as caught:
        unpack_tree(tmp_path / "a.tar", tmp_path / "got")
    assert caught.value.kind is ErrorKind.CORRUPT
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
