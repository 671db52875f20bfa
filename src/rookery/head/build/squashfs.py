# SPDX-License-Identifier: Apache-2.0
"""Packs a root tree into one squashfs, which a node mounts as it came.

zstd level 15 in blocks of 256 KiB. Measured with mksquashfs 4.5.1 on a bookworm root of 321 MB with 2 cores:
128K at 19: 38 s, 99.0 MB; 256K at 15: 19 s, 96.8 MB; 256K at 19: 36 s, 96.0 MB; 1M at 15: 11 s, 98.9 MB; 1M at 22:
42 s, 91.3 MB. So higher levels buy 1 % for twice the time, and larger blocks 5 % for twice the time at that level,
while each page that a node reads from one costs it the unpacking of a whole mebibyte.

Files below a block share blocks ("fragments"), in the order of their names: one file more, and the content of every
such block behind it moves and is compressed to other bytes. So the parts of the tree are dealt out to groups by their
names, and each group has fragments of its own: a change stays in the groups of the parts that it touches. An update of
four packages is a fifth smaller for it, the image no larger (docs/benchmarks/differences.md). A head with less than 1.5
GB of memory packs without groups, since mksquashfs holds a block of each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import select
import tempfile
import termios
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import OnProgress, Progress
from rookery.run import BOUND, Completed, RunError, spawn

LEVEL = 15
BLOCK = "256K"
GROUPS = 509
DEPTH = 3  # of the parts of a tree that are in one group
# mksquashfs holds one block of each group, out of a quarter of this; with more groups than blocks it waits for ever.
MEMORY = "1G"
LEAST_MEMORY = 1500 << 20  # bytes of the machine's memory: mksquashfs refuses to take more than three quarters
MOST_LINE = 16000  # characters that mksquashfs reads as one action
# A path that has nothing else, nothing that an action's pattern would take for something.
_PLAIN = re.compile(rb"[A-Za-z0-9._+@:,=~%/ -]+")
STAGE = "packing the root"
_PERCENT = re.compile(rb"(\d+)/(\d+)\s+\d+%")
_KEPT = 1 << 14


def pack(tree: Path, destination: Path, epoch: int, on_progress: OnProgress, cancel: threading.Event) -> None:
    """Write `tree` to `destination` as squashfs 4.0; owners, modes, links, devices and extended attributes are kept.

    epoch: seconds since 1970, the file system's own time; file times after it become it. The same tree gives the same
    bytes: mksquashfs sorts, and its number of threads does not show. Reports blocks as `steps`.
    Raises RookeryError; `cancelled`, `no-space`, or `failed` with what mksquashfs said. Nothing is left then.
    """
    said = b""
    on_progress(Progress(STAGE))
    try:
        # Beside what is packed: what a killed head leaves there the next one takes away.
        with (
            tempfile.NamedTemporaryFile(prefix=".groups-", dir=destination.parent) as groups,
            _terminal() as (ours, theirs),
        ):
            groups.write(fragment_groups(tree))
            groups.flush()
            grouping = ("-mem", MEMORY, "-action-file", groups.name) if memory() >= LEAST_MEMORY else ()
            argv = (
                *BOUND,
                *("mksquashfs", str(tree), str(destination), "-noappend", "-no-recovery", "-xattrs", "-progress"),
                *("-comp", "zstd", "-Xcompression-level", str(LEVEL), "-b", BLOCK, *grouping),
            )
            with spawn(argv, stdout=theirs, stderr=theirs, env={"SOURCE_DATE_EPOCH": str(epoch)}) as child:
                theirs.close()
                while not cancel.is_set():
                    piece = _read(ours)
                    if piece is None:
                        break
                    said = (said + piece)[-_KEPT:]
                    if meters := _PERCENT.findall(piece):
                        done, total = meters[-1]
                        on_progress(Progress(STAGE, int(done), int(total)))
                if cancel.is_set():
                    raise RookeryError("packing the root was cancelled", kind=ErrorKind.CANCELLED)
                code = child.wait()
            if code != 0:
                raise _explained(Completed(argv, code, "", _plain(said)), destination)
    except BaseException:
        destination.unlink(missing_ok=True)
        raise


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fragment_groups(tree: Path, groups: int = GROUPS, depth: int = DEPTH) -> bytes:
    """The actions (mksquashfs, `-action-file`) that put the small files of a part of the tree into fragments of their
    own. A part is a directory and all below at `depth` (3: that of `usr/share/zoneinfo`), and each one above it by
    itself.

    Which group that is depends on the path alone. The few parts with strange names, or that do not fit into a line,
    stay in the common fragments.
    """
    top = os.fsencode(tree)
    found: dict[int, set[bytes]] = {}
    for place, _, names in os.walk(top):
        path = os.path.relpath(place, top)
        part = b"/".join(path.split(b"/")[:depth])
        if names and path != b"." and _PLAIN.fullmatch(part):
            test = b'subpathname("%s")' if part.count(b"/") == depth - 1 else b'pathname("%s/*")'
            found.setdefault(zlib.crc32(part) % groups, set()).add(test % part)
    lines = []
    for group, tests in sorted(found.items()):
        line = b""
        for test in sorted(tests):
            if len(line) + len(test) < MOST_LINE:
                line += (b" || " if line else b"fragment(g%d)@" % group) + test
        lines.append(line + b"\n")
    return b"".join(lines)


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[int, IO[bytes]]]:
    """A terminal: our end, and theirs, which is to be closed once they have it.

    Into anything else mksquashfs writes its progress only when the count of blocks happens to be a multiple of 100.
    """
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (24, 80))
        with os.fdopen(theirs, "wb") as file:
            yield ours, file
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes | None:
    """What was written within a fifth of a second; None when nobody will write any more."""
    ready, _, _ = select.select([terminal], [], [], 0.2)
    if not ready:
        return b""
    try:
        return os.read(terminal, 1 << 16) or None
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux says that the last writer has closed its end
            return None
        raise


def _plain(said: bytes) -> str:
    """What mksquashfs said, without the states of its progress bar."""
    lines = said.decode(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join(line for line in lines if line.strip() and not re.match(r"\s*\[[=\-|/\\ ]*", line))


def _explained(completed: Completed, destination: Path) -> RookeryError:
    if "No space left" in completed.stderr:
        return RookeryError(
            f"no space left to pack the root in {destination.parent}",
            kind=ErrorKind.NO_SPACE,
            hint="free some space there, or move the head's directory to a larger file system",
        )
    return RunError(f"mksquashfs failed with exit code {completed.code}", completed)
