# SPDX-License-Identifier: Apache-2.0
"""Packing: what is in the archive, and that the same tree gives the same bytes."""

import os
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.cpio import pack_tree
from rookery.run import run

MTIME = 1_700_000_000


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
    pack_tree(tree, archive, compression, MTIME)
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
    pack_tree(one, tmp_path / "1", compression, MTIME)
    pack_tree(two, tmp_path / "2", compression, MTIME)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    (two / "bin" / "c").write_text("other")
    pack_tree(two, tmp_path / "2", compression, MTIME)
    assert (tmp_path / "1").read_bytes() != (tmp_path / "2").read_bytes()


def test_an_unknown_compression_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", ("a", "b"))
    with pytest.raises(RookeryError, match="lzma") as caught:
        pack_tree(tree, tmp_path / "out", "lzma", MTIME)
    assert caught.value.kind is ErrorKind.INVALID
    assert not (tmp_path / "out").exists()
