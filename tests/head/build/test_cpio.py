# SPDX-License-Identifier: Apache-2.0
"""Packing: what is in the archive, and that the same tree gives the same bytes."""

import os
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.cpio import MTIME, pack_tree
from rookery.run import PIPE, run, spawn


def make_tree(root: Path, names: tuple[str, ...]) -> Path:
    root.mkdir()
    (root / "bin").mkdir(mode=0o750)
    for name in names:
        (root / "bin" / name).write_text(f"content of {name}")
    os.chmod(root / "bin" / "b", 0o4755)
    (root / "bin" / "link").symlink_to("b")
    os.link(root / "bin" / "a", root / "same as a")
    return root


@pytest.mark.parametrize(("compression", "decompress"), [("zstd", "zstd"), ("gzip", "gzip"), ("none", "cat")])
def test_an_archive_holds_the_tree(tmp_path: Path, compression: str, decompress: str) -> None:
    tree, archive = make_tree(tmp_path / "tree", ("a", "b")), tmp_path / "out.cpio"
    pack_tree(tree, archive, compression)
    plain, unpacked = tmp_path / "plain", tmp_path / "unpacked"
    if decompress == "cat":
        plain.write_bytes(archive.read_bytes())
    else:
        source = tmp_path / f"in.{ {'zstd': 'zst', 'gzip': 'gz'}[decompress] }"
        source.write_bytes(archive.read_bytes())
        run([decompress, "-d", "-q", source])
        source.with_suffix("").rename(plain)
    unpacked.mkdir()
    run(["cpio", "-idm", "--quiet", "-F", plain], cwd=unpacked)
    assert sorted(str(path.relative_to(unpacked)) for path in unpacked.rglob("*")) == [
        "bin", "bin/a", "bin/b", "bin/link", "same as a",
    ]  # fmt: skip
    assert (unpacked / "bin" / "b").stat().st_mode & 0o7777 == 0o4755
    assert (unpacked / "bin").stat().st_mode & 0o7777 == 0o750
    assert os.readlink(unpacked / "bin" / "link") == "b"
    assert (unpacked / "same as a").stat().st_ino == (unpacked / "bin" / "a").stat().st_ino
    assert (unpacked / "bin" / "a").stat().st_mtime == MTIME
    names = run(["cpio", "-t", "--quiet", "-F", plain]).stdout.splitlines()
    assert names.index("bin") == 0  # a directory before what is in it: a kernel makes no parents


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_the_same_tree_gives_the_same_bytes(tmp_path: Path, compression: str) -> None:
    one = make_tree(tmp_path / "one", ("a", "b", "c"))
    two = make_tree(tmp_path / "two", ("c", "b", "a"))  # other order, other inodes, other times
    os.utime(two / "bin" / "c", (5, 5))
    pack_tree(one, tmp_path / "1", compression)
    pack_tree(two, tmp_path / "2", compression)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    (two / "bin" / "c").write_text("other")
    pack_tree(two, tmp_path / "2", compression)
    assert (tmp_path / "1").read_bytes() != (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    ("compression", "again"), [("zstd", ("zstd", "-q", "-1", "-c")), ("gzip", ("gzip", "-1", "-c"))]
)
def test_an_earlier_archive_of_the_same_is_taken_when_it_is_whole(
    tmp_path: Path, compression: str, again: tuple[str, ...]
) -> None:
    tree, out = make_tree(tmp_path / "tree", ("a", "b")), tmp_path / "out"
    (tree / "bin" / "noise").write_bytes(os.urandom(200_000))
    pack_tree(tree, tmp_path / "plain", "none")
    pack_tree(tree, tmp_path / "fresh", compression)
    fresh = (tmp_path / "fresh").read_bytes()

    def packed_with(earlier: Path) -> bytes:
        pack_tree(tree, out, compression, earlier=earlier)
        return out.read_bytes()

    # As no pack_tree compresses it: so it is this very file that comes out.
    earlier = tmp_path / "earlier"
    with spawn([*again, tmp_path / "plain"], stdout=PIPE) as child:
        assert child.stdout is not None
        good = child.stdout.read()
    earlier.write_bytes(good)
    assert good != fresh
    assert packed_with(earlier) == good
    assert earlier.read_bytes() == good
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for what in (bytes(flipped), good[:-1], good + good, b"", b"no archive at all"):
        earlier.write_bytes(what)
        assert packed_with(earlier) == fresh
    assert packed_with(tmp_path / "not there") == fresh
    earlier.write_bytes(good)
    (tree / "bin" / "a").write_text("other")
    assert packed_with(earlier) not in (good, fresh)
    assert sorted(os.listdir(tmp_path)) == ["earlier", "fresh", "out", "plain", "tree"]


def test_an_unknown_compression_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", ("a", "b"))
    with pytest.raises(RookeryError, match="lzma") as caught:
        pack_tree(tree, tmp_path / "out", "lzma")
    assert caught.value.kind is ErrorKind.INVALID
    assert not (tmp_path / "out").exists()
