# SPDX-License-Identifier: Apache-2.0
"""Packs a staged directory into the archive that a kernel unpacks as its first root: cpio, format `newc`.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.run import BOUND, PIPE, run, spawn

MTIME = 315532800  # of everything in an archive: 1980-01-01, the oldest that every archive format can write

# A kernel reads these only if it was built with CONFIG_RD_ZSTD or CONFIG_RD_GZIP. zstd: its number of workers does not
# show in the bytes. Drivers of a generic Debian kernel (67 MB) at level 17: 15.6 MB, 22 s of one processor; at 19:
# 15.2 MB, 33 s; at 15: 16.7 MB, 12 s. gzip -n: no name, no time.
COMPRESSORS: dict[str, tuple[str, ...]] = {
    "zstd": ("zstd", "-q", "-17", "-T0", "--no-progress", "--rm", "-f", "-o"),
    "gzip": ("gzip", "-9", "-n", "-f"),
    "none": (),
}
_PLAIN: dict[str, tuple[str, ...]] = {"zstd": ("zstd", "-dcq"), "gzip": ("gzip", "-dcq"), "none": ("cat",)}


def pack_tree(
    tree: Path,
    destination: Path,
    compression: str,
    cancel: threading.Event | None = None,
    earlier: Path | None = None,
) -> None:
    """Write `tree` as a `newc` archive to `destination`, whole or not at all; the same tree gives the same bytes.

    compression: `zstd`, `gzip` or `none`. earlier: an archive that this wrote before: when it holds the very same it is
    copied, for compressing takes nearly all of the time. Everything in `tree` gets the time MTIME (it is a staged tree,
    made for this), and belongs to root in the archive; modes, symlinks, hard links and device nodes are kept. Paths are
    relative to `tree`, sorted by their bytes (the mates of a hard link stand together at its last name); a directory
    comes before what is in it.
    Raises RookeryError (`invalid`: unknown compression; `missing`: no cpio or zstd) and OSError.
    """
    if compression not in COMPRESSORS:
        raise RookeryError(
            f"unknown compression {compression!r}",
            kind=ErrorKind.INVALID,
            hint=f"one of {', '.join(COMPRESSORS)}",
        )
    paths = _entries(tree)
    for path in paths:
        os.utime(os.path.join(os.fsencode(tree), path), (MTIME, MTIME), follow_symlinks=False)
    with files.scratch_directory(destination.parent, f".{destination.name}.") as scratch:
        archive = scratch / "archive"
        run(
            ["cpio", "--quiet", "-o", "-0", "-H", "newc", "--reproducible", "-R", "0:0", "-O", archive.absolute()],
            stdin=b"".join(path + b"\0" for path in paths),
            cwd=tree,
            cancel=cancel,
        )
        copied = scratch / "earlier"
        if earlier and _copied(earlier, copied) and _holds(copied, compression, archive):
            os.replace(copied, destination)
        else:
            os.replace(_compress(archive, compression, cancel), destination)


def _entries(tree: Path) -> list[bytes]:
    found: list[bytes] = []
    root = os.fsencode(tree)
    for directory, names, others in os.walk(root):
        found += (os.path.relpath(os.path.join(directory, name), root) for name in [*names, *others])
    return sorted(found)


def _copied(source: Path, target: Path) -> bool:
    """Copy a file; whether it could be read."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        return False
    return True


def _holds(packed: Path, compression: str, archive: Path) -> bool:
    """Whether `packed` is whole and holds the bytes of `archive`. It may hold anything: no more of it is unpacked than
    is the same."""
    with (
        archive.open("rb", buffering=0) as file,
        spawn([*_PLAIN[compression], packed], stdout=PIPE) as child,
    ):
        assert child.stdout is not None
        while wanted := file.read(files.BLOCK):
            if child.stdout.read(len(wanted)) != wanted:
                return False
        return not child.stdout.read(1) and child.wait() == 0


def _compress(archive: Path, compression: str, cancel: threading.Event | None) -> Path:
    match compression:
        case "zstd":
            packed = archive.with_suffix(".zst")
            run([*BOUND, *COMPRESSORS["zstd"], packed, archive], cancel=cancel)
        case "gzip":
            packed = archive.with_suffix(".gz")
            run([*BOUND, *COMPRESSORS["gzip"], archive], cancel=cancel)
        case _:
            packed = archive
    return packed
