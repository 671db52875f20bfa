# SPDX-License-Identifier: Apache-2.0
"""What is refused before anything of it is unpacked."""

import contextlib
import io
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import guard
from rookery.head.build.recipe import Limits
from rookery.run import run

ENOUGH = Limits()
LONG = "directory/" * 30 + "name"


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0, **more: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.pax_headers = kind, link, size, more
    return info


def archive(path: Path, *entries: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info in entries:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def looked(path: Path, limits: Limits = ENOUGH, *, layers: bool = True) -> guard.Guard:
    rules = guard.Guard("it", limits, layers=layers)
    for found in guard.scan(path, lambda done: None, threading.Event(), rules.stream):
        rules.look(found)
    return rules


def refused(path: Path, limits: Limits = ENOUGH, *, layers: bool = True) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        looked(path, limits, layers=layers)
    return caught.value


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("pack", ["", "gzip", "xz", "zstd", "bzip2"])
def test_all_entries_are_seen(tmp_path: Path, form: int, pack: str) -> None:
    wanted = [
        entry("./", tarfile.DIRTYPE), entry(LONG if form != tarfile.USTAR_FORMAT else "dir/" * 30 + "name", size=1025),
        entry("a", size=512), entry("b", tarfile.LNKTYPE, "a"), entry("c", tarfile.SYMTYPE, "/a"),
        entry("d", tarfile.FIFOTYPE), entry("dev/e", tarfile.CHRTYPE), entry("name with ünïcode"),
    ]  # fmt: skip
    path = archive(tmp_path / "a.tar", *wanted, form=form)
    if pack:
        run([pack, "-k", path])
        path = next(file for file in tmp_path.iterdir() if file != path)
    assert guard.compressor(path) == pack
    found = list(guard.scan(path, lambda done: None, threading.Event()))
    assert [one.name.rstrip("/") for one in found] == [info.name.rstrip("/") for info in wanted]
    assert [one.kind for one in found] == [info.type for info in wanted]
    assert [one.size for one in found] == [info.size for info in wanted]
    assert [one.link for one in found] == [info.linkname for info in wanted]
    assert looked(path).size == 1537


def test_what_gnu_tar_makes_is_read_as_it_is(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / ("x" * 200)).mkdir(parents=True)
    (tree / "deep" / ("x" * 200) / ("y" * 120)).write_text("content")
    with (tree / "holes").open("wb") as file:
        for place in range(0, 1 << 24, 1 << 20):  # more holes than the first header has room for
            file.seek(place)
            file.write(b"x" * 4096)
    for words in (["--format=gnu"], ["--format=posix"], ["--format=posix", "--sparse-version=0.1"], ["--format=gnu"]):
        run(["tar", "-C", tree, "-S", *words, "-cf", tmp_path / "t.tar", "."])
        found = {
            one.name.rstrip("/"): one.size
            for one in guard.scan(tmp_path / "t.tar", lambda done: None, threading.Event())
        }
        listed = run(["tar", "-tf", tmp_path / "t.tar"]).stdout.split("\n")
        assert sorted(found) == sorted(name.rstrip("/") for name in listed if name), words
        assert found["./holes"] == (tree / "holes").stat().st_size


ESCAPES: dict[str, tuple[list[tarfile.TarInfo], str]] = {
    "name": ([entry("../../etc/cron.d/x")], "has a name that leaves the tree"),
    "name in the middle": ([entry("a/../../x")], "has a name that leaves the tree"),
    "pax name": ([entry("fine", path="../x")], "has a name that leaves the tree"),
    "hard link": ([entry("x", tarfile.LNKTYPE, "../../etc/shadow")], "has a hard link that leaves the tree"),
    "pax hard link": ([entry("x", tarfile.LNKTYPE, "a", linkpath="/../etc/shadow")], "has a hard link that leaves"),
    "through an absolute link": (
        [entry("x", tarfile.SYMTYPE, "/etc"), entry("x/passwd")],
        "is reached through the link x -> /etc, which leaves the tree",
    ),
    "through a climbing link": (
        [entry("a/x", tarfile.SYMTYPE, "../../../etc"), entry("a/x/passwd")],
        "is reached through a link that leaves the tree",
    ),
    "through two links": (
        [entry("x", tarfile.SYMTYPE, "y/z"), entry("y/z", tarfile.SYMTYPE, "/etc"), entry("x/passwd")],
        "is reached through the link y/z -> /etc",
    ),
    "a hard link through a link": (
        [entry("x", tarfile.SYMTYPE, "/etc"), entry("y", tarfile.LNKTYPE, "x/shadow")],
        "is reached through the link x -> /etc",
    ),
    "links in a circle": (
        [entry("x", tarfile.SYMTYPE, "y"), entry("y", tarfile.SYMTYPE, "x"), entry("x/z")],
        "is reached through the link",
    ),
    "an unknown type": ([entry("x", b"Q")], "has the unknown type b'Q'"),
}
LAYERS: dict[str, tuple[list[tarfile.TarInfo], str]] = {
    "whiteout of what is above": ([entry("a/.wh...")], "takes away what is not in the tree"),
    "whiteout of itself": ([entry("a/.wh..")], "takes away what is not in the tree"),
    "whiteout of nothing": ([entry(".wh.")], "takes away what is not in the tree"),
    "whiteout through a link": (
        [entry("x", tarfile.SYMTYPE, "/etc"), entry("x/.wh.passwd")],
        "is reached through the link x -> /etc",
    ),
    "opaque through a link": (
        [entry("x", tarfile.SYMTYPE, "/etc"), entry("x/.wh..wh..opq")],
        "is reached through the link x -> /etc",
    ),
    "disk": ([entry("srv/disk", tarfile.BLKTYPE)], "is a device outside of /dev"),
}


@pytest.mark.parametrize("name", [*ESCAPES, *LAYERS])
def test_what_leaves_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    entries, why = {**ESCAPES, **LAYERS}[name]
    error = refused(archive(tmp_path / "a.tar", *entries), layers=name in LAYERS)
    assert error.kind is ErrorKind.INVALID
    assert why in str(error)
    assert str(error).startswith("it is refused: its entry")


def test_links_that_stay_are_followed(tmp_path: Path) -> None:
    entries = [
        entry("lib", tarfile.SYMTYPE, "usr/lib"), entry("lib/x"), entry("z", tarfile.LNKTYPE, "/lib/x"),
        entry("usr/lib/here", tarfile.SYMTYPE, "../lib/./deep"), entry("lib/here/y"), entry("/absolute"),
        entry("run", tarfile.SYMTYPE, "/"),
        # A link that is replaced by a directory is none any more.
        entry("etc", tarfile.SYMTYPE, "/etc"), entry("etc/", tarfile.DIRTYPE), entry("etc/passwd"),
        entry("dev/sda", tarfile.BLKTYPE), entry("a/.wh.b"), entry("a/.wh..wh..opq"),
    ]  # fmt: skip
    assert looked(archive(tmp_path / "a.tar", *entries)).entries == len(entries)


def test_whiteouts_and_devices_are_ordinary_in_a_tarball(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", entry("srv/disk", tarfile.BLKTYPE), entry(".wh.x"))
    assert looked(path, layers=False).entries == 2


def test_bombs(tmp_path: Path) -> None:
    with (tmp_path / "bomb").open("wb") as file:
        file.truncate(1 << 40)
    run(["tar", "-C", tmp_path, "-S", "-czf", tmp_path / "sparse.tar.gz", "bomb"])
    assert (tmp_path / "sparse.tar.gz").stat().st_size < 4096
    error = refused(tmp_path / "sparse.tar.gz")
    assert (error.kind, str(error)) == (ErrorKind.TOO_LARGE, f"it holds more than {64 << 30} bytes")
    assert error.record.hint == "if that is right, raise 'bytes' in the recipe's table [limits]"
    many = archive(tmp_path / "many.tar", *(entry(f"f{number}") for number in range(101)))
    assert looked(many, Limits(entries=101)).entries == 101
    assert "more than 100 files" in str(refused(many, Limits(entries=100)))
    claimed = archive(tmp_path / "claimed.tar", entry("x", size=1 << 20))
    assert "more than 1048575 bytes" in str(refused(claimed, Limits(bytes=(1 << 20) - 1)))


@pytest.mark.parametrize("what", ["headers", "after the end"])
def test_bombs_without_a_file(tmp_path: Path, what: str) -> None:
    """What GNU tar and umoci pass over fills the disk of those who decompress the whole."""
    if what == "headers":
        data = header(lambda block: block.__setitem__(slice(156, 157), b"x")) * 8192
    else:
        data = archive(tmp_path / "fine.tar", entry("x")).read_bytes() + bytes(4 << 20)
    (tmp_path / "a.tar").write_bytes(data)
    run(["zstd", "-q", tmp_path / "a.tar"])
    assert (tmp_path / "a.tar.zst").stat().st_size < 4096
    error = refused(tmp_path / "a.tar.zst", Limits(bytes=1 << 20))
    assert (error.kind, str(error)) == (ErrorKind.TOO_LARGE, f"it holds more than {1 << 20} bytes")


def header(change: Callable[[bytearray], None]) -> bytes:
    """A header block with something changed in it, and a right checksum."""
    block = bytearray(entry("x").tobuf(tarfile.USTAR_FORMAT)[:512])
    change(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def huge_header(block: bytearray) -> None:
    block[156:157], block[124:136] = b"x", b"%011o\0" % (1 << 30)


def link_with_content(block: bytearray) -> None:
    block[156:157], block[124:136] = b"2", b"%011o\0" % 512


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(huge_header), "a header of 1073741824 bytes"),
        (header(link_with_content), "has content, which its type cannot have"),
        (b"no archive at all" * 100, "a block that should be a header is none"),
        (entry("x", size=5000).tobuf()[:512] + bytes(1000), "it ends too early"),
        (b"\x1f\x8b\x08 damaged", "gzip cannot unpack it"),
    ],
)
def test_what_is_no_whole_archive(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    error = refused(tmp_path / "a.tar")
    assert why in str(error)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2048), st.integers(0, 511), st.integers(0, 255))
def test_no_bytes_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, place: int, value: int
) -> None:
    def change(block: bytearray) -> None:
        block[place] = value

    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    for data in (header(change) + tail, header(lambda block: block.__setitem__(slice(156, 157), b"x")) + tail):
        path.write_bytes(data)
        with contextlib.suppress(RookeryError):
            looked(path)
