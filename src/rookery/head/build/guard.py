# SPDX-License-Identifier: Apache-2.0
"""Looks through tar archives before anything is unpacked: what would leave the tree, or fill the disk, is refused.

Only headers are looked at here, by rules of our own that are stricter than those of any unpacker; the unpacking itself
is GNU tar's and umoci's. Formats: POSIX.1-2001 (pax), GNU tar's long names and sparse files; of layers: the OCI image
specification, layer.md.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.recipe import Limits
from rookery.run import PIPE, spawn

BLOCK = 512
_PIECE = 1 << 20
MOST_HEADER = 1 << 20  # bytes of one extended header: names and attributes
REGULAR, HARD, SYMBOLIC, DIRECTORY, FIFO = b"0", b"1", b"2", b"5", b"6"
DEVICES = (b"3", b"4")
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_KINDS = {REGULAR, b"\0", b"7", b"S", HARD, SYMBOLIC, DIRECTORY, FIFO, *DEVICES}
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)


@dataclass(frozen=True)
class Entry:
    """One entry of an archive. kind: its type byte. link: where a link leads. size: bytes of its content, as they will
    be on a file system that knows no holes. acl: it has access lists in the form of star and GNU tar (SCHILY.acl.*)."""

    name: str
    kind: bytes
    link: str
    size: int
    acl: bool = False


def compressor(path: Path) -> str:
    """The program that decompresses a file (`-dc`), by its first bytes; empty for none."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for magic, name in _MAGIC if start.startswith(magic)), "")


def scan(
    path: Path,
    on_bytes: Callable[[int], None],
    cancel: threading.Event,
    streamed: Callable[[int], None] = lambda _count: None,
) -> Iterator[Entry]:
    """The entries of a tar archive, compressed or not, which is read to its very end: what follows the mark of an
    archive's end comes out of a decompressor as well. on_bytes: gets how much of the file was read so far. streamed:
    gets the length of every piece of the decompressed archive (see Guard.stream).

    Raises RookeryError `corrupt` for what is no archive, or a cut one, and `cancelled`.
    """
    program = compressor(path)
    with path.open("rb") as file:
        if not program:
            yield from _entries(_Stream(file, path.name, lambda: on_bytes(file.tell()), cancel, streamed))
            return
        with spawn([program, "-dc"], stdin=file, stdout=PIPE) as child:
            assert child.stdout is not None
            # The child reads from the same open file, so its place there is ours.
            place = lambda: on_bytes(os.lseek(file.fileno(), 0, os.SEEK_CUR))  # noqa: E731
            stream = _Stream(child.stdout, path.name, place, cancel, streamed)
            yield from _entries(stream)
            if stream.ended and child.wait() != 0:
                raise stream.broken(f"{program} cannot unpack it")


class _Stream:
    """Reads whole pieces, and passes over others."""

    def __init__(
        self,
        file: IO[bytes],
        name: str,
        told: Callable[[], None],
        cancel: threading.Event,
        streamed: Callable[[int], None],
    ) -> None:
        self._file, self._name, self._told, self._cancel, self._streamed = file, name, told, cancel, streamed
        self.ended = False  # without the mark of an archive's end

    def take(self, size: int, *, ends: bool = False) -> bytes:
        if size > MOST_HEADER:
            raise self.broken(f"a header of {size} bytes")
        data = self._read(size)
        self.ended = ends and not data
        if len(data) < size and not self.ended:
            raise self.broken("it ends too early")
        return data

    def skip(self, size: int) -> None:
        left = size
        while left > 0:
            piece = self._read(min(left, _PIECE))
            if not piece:
                raise self.broken("it ends too early")
            left -= len(piece)
        self._told()

    def drain(self) -> None:
        """Read what is left."""
        while self._read(_PIECE):
            self._told()

    def _read(self, size: int) -> bytes:
        if self._cancel.is_set():
            raise RookeryError("looking through the archive was cancelled", kind=ErrorKind.CANCELLED)
        data = self._file.read(size)
        self._streamed(len(data))
        return data

    def broken(self, what: str) -> RookeryError:
        return RookeryError(
            f"{self._name} is not a whole tar archive: {what}",
            kind=ErrorKind.CORRUPT,
            hint="make it again with 'tar', or fetch it again",
        )


def _entries(stream: _Stream) -> Iterator[Entry]:
    try:
        yield from _parsed(stream)
        stream.drain()
    except ValueError as error:
        raise stream.broken(f"a header that nobody can read ({error})") from error


def _parsed(stream: _Stream) -> Iterator[Entry]:
    every: dict[str, str] = {}
    extra: dict[str, str] = {}
    while True:
        header = stream.take(BLOCK, ends=True)
        if header.strip(b"\0") == b"":  # the end's mark, or the end itself
            return
        if not _is_header(header):
            raise stream.broken("a block that should be a header is none")
        kind, size = header[156:157], _number(header[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            data = stream.take(size + -size % BLOCK)[:size]
            match kind:
                case b"x":
                    extra |= _records(data)
                case b"g":
                    every |= _records(data)
                case _:
                    extra["path" if kind == b"L" else "linkpath"] = _text(data)
            continue
        if kind == b"S":  # GNU sparse: its map may go on in further blocks
            more = header[482:483]
            while more not in (b"\0", b"0", b""):
                more = stream.take(BLOCK)[504:505]
        entry = _entry(header, kind, size, {**every, **extra})
        stored = int(extra.get("size", size))
        if stored < 0:
            raise stream.broken(f"a size of {stored}")
        if stored and kind in (HARD, SYMBOLIC, DIRECTORY, FIFO, *DEVICES):
            # Unpackers differ in whether content follows then, and so in what they take for the next header.
            raise stream.broken(f"the entry {entry.name[:200]!r} has content, which its type cannot have")
        extra = {}
        yield entry
        stream.skip(stored + -stored % BLOCK)


def _entry(header: bytes, kind: bytes, size: int, said: dict[str, str]) -> Entry:
    name, prefix = _text(header[:100]), _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    if prefix:
        name = f"{prefix}/{name}"
    name = said.get("GNU.sparse.name") or said.get("path") or name
    real = said.get("GNU.sparse.realsize") or said.get("GNU.sparse.size") or said.get("size")
    if kind == b"S":
        real = str(_number(header[483:495]))
    kind = DIRECTORY if kind in (b"\0", REGULAR) and name.endswith("/") else kind
    acl = any(key.startswith("SCHILY.acl.") for key in said)
    return Entry(name, kind, said.get("linkpath") or _text(header[157:257]), max(size, int(real or 0)), acl)


def _is_header(block: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return _number(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * 32
    return False


def _number(field: bytes) -> int:
    """Octal text, or base 256 when the first bit is set (GNU); negative ones are no sizes."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    return int(field.rstrip(b"\0 ").lstrip() or b"0", 8)


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header: `LENGTH KEY=VALUE\\n`, the length being that of the whole record."""
    found = {}
    while data.strip(b"\0"):
        length = int(data.split(b" ", 1)[0])
        if length < 5:
            break
        key, _, value = data[:length].split(b" ", 1)[1].partition(b"=")
        found[key.decode("utf-8", "replace")] = os.fsdecode(value[:-1])
        data = data[length:]
    return found


def _text(field: bytes) -> str:
    return os.fsdecode(field.split(b"\0", 1)[0])


class Guard:
    """Holds the rules over all archives that are unpacked into one tree, in their order.

    layers: they are layers of a container: whiteouts have a meaning, and devices belong in /dev.
    """

    def __init__(self, what: str, limits: Limits, *, layers: bool) -> None:
        self._what, self._limits, self._layers = what, limits, layers
        self._links: dict[str, str] = {}
        self._parent = ""
        self.entries = self.size = self.streamed = 0

    def look(self, entry: Entry) -> None:
        """Take one more entry into account. Raises RookeryError `invalid`, or `too-large` beyond the limits."""
        if entry.kind not in _KINDS:
            raise self._refused(entry, f"has the unknown type {entry.kind!r}")
        self.count(1, entry.size if entry.kind in (REGULAR, b"\0", b"7", b"S") else 0)
        name = self._inside(entry, entry.name, "name")
        if self._layers and self._is_whiteout(entry, name):
            return
        self._check_parents(entry, name)
        if entry.kind == HARD:
            self._check_parents(entry, self._inside(entry, entry.link, "hard link"))
        if entry.kind in DEVICES and self._layers and not name.startswith("dev/"):
            raise self._refused(entry, "is a device outside of /dev")
        if entry.kind == SYMBOLIC:
            self._links[name], self._parent = entry.link, ""
        elif self._links.pop(name, None) is not None:
            self._parent = ""

    def count(self, entries: int, size: int) -> None:
        """Add to the entries and bytes. Raises `too-large` beyond the limits."""
        self.entries += entries
        self.size += size
        self._hold()

    def stream(self, size: int) -> None:
        """Add to the bytes of the decompressed archives: their headers, and what follows their ends, fill a disk, too.
        Raises as `count`."""
        self.streamed += size
        self._hold()

    def _hold(self) -> None:
        for count, most, key, unit in (
            (self.entries, self._limits.entries, "entries", "files"),
            (max(self.size, self.streamed), self._limits.bytes, "bytes", "bytes"),
        ):
            if count > most:
                raise RookeryError(
                    f"{self._what} holds more than {most} {unit}",
                    kind=ErrorKind.TOO_LARGE,
                    hint=f"if that is right, raise '{key}' in the recipe's table [limits]",
                )

    def _inside(self, entry: Entry, name: str, which: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._refused(entry, f"has a {which} that leaves the tree: {name!r}")
        return "/".join(parts)

    def _is_whiteout(self, entry: Entry, name: str) -> bool:
        directory, _, last = name.rpartition("/")
        if not last.startswith(WHITEOUT):
            return False
        if last != OPAQUE and last.removeprefix(WHITEOUT) in ("", ".", ".."):
            raise self._refused(entry, "takes away what is not in the tree")
        self._check_parents(entry, f"{directory}/x")
        return True

    def _check_parents(self, entry: Entry, name: str) -> None:
        """Refuse what is reached through a link, unless that stays in the tree by itself."""
        parent = name.rpartition("/")[0]
        if not self._links or parent == self._parent:
            return
        left, reached, followed = parent.split("/")[::-1], list[str](), 0
        while left:
            part = left.pop()
            if part == ".." and not reached:
                raise self._refused(entry, "is reached through a link that leaves the tree")
            if part in ("", ".", ".."):
                reached = reached[:-1] if part == ".." else reached
                continue
            target = self._links.get("/".join([*reached, part]))
            if target is None:
                reached.append(part)
                continue
            followed += 1
            if target.startswith("/") or followed > 40:
                raise self._refused(
                    entry,
                    f"is reached through the link {'/'.join([*reached, part])} -> {target}, which leaves the tree",
                )
            left += target.split("/")[::-1]
        self._parent = parent

    def _refused(self, entry: Entry, why: str) -> RookeryError:
        return RookeryError(
            f"{self._what} is refused: its entry {entry.name[:200]!r} {why}",
            kind=ErrorKind.INVALID,
            hint="nothing of it was unpacked; whoever made it should tell why it is so",
        )
