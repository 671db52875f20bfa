# SPDX-License-Identifier: Apache-2.0
"""Fills a file with what is there of it: from a fetch that broke off, and from older versions by their chunk indexes.

Nothing is believed here. A piece that is whole is held against its signed digest, and of pieces that are there in part
only chunks whose digest is right are written; so an older file that has rotted costs what it lost, and no more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from rookery.log import logger
from rookery.node.fetch.metainfo import Metainfo
from rookery.relay.parts import Parts
from rookery.wire.chunks import ChunkIndex, digest_of
from rookery.wire.engine import BLOCK

log = logger(__name__)

OnBytes = Callable[[int], None]
STEP = 8 << 20  # bytes between two calls of on_bytes
NOWHERE = -1
_NO_CHUNK = 0xFFFFFFFF


@dataclass(frozen=True)
class Old:
    """A file that may have chunks of the new one. index: of what it is said to be."""

    path: Path
    index: ChunkIndex


@dataclass
class Start:
    """What is there before anything is fetched. pieces: one byte for each, 1 for those that are whole and right. parts:
    the blocks of others. had: bytes of pieces that an earlier fetch left; filled: of those from older versions."""

    pieces: bytearray
    parts: Parts
    had: int = 0
    filled: int = 0

    @classmethod
    def empty(cls, metainfo: Metainfo) -> Start:
        """Nothing is there."""
        blocks = bytearray(metainfo.pieces * (metainfo.piece_size // BLOCK))
        return cls(bytearray(metainfo.pieces), Parts(blocks, metainfo.piece_size, metainfo.length))

    def have(self) -> list[bool]:
        """By piece, whether it is there."""
        return [bool(there) for there in self.pieces]


def look_through(handle: int, metainfo: Metainfo, start: Start, on_bytes: OnBytes, stop: threading.Event) -> None:
    """See which pieces are in the file `handle` from an earlier fetch; its holes are not read."""
    size, place, told, step = os.fstat(handle).st_size, 0, 0, metainfo.piece_size
    while place < size and not stop.is_set():
        try:
            piece = os.lseek(handle, place, os.SEEK_DATA) // step
        except OSError:
            break  # nothing but a hole up to the end
        if piece >= metainfo.pieces:
            break
        data = os.pread(handle, metainfo.length(piece), piece * step)
        if metainfo.is_right(piece, data):
            start.pieces[piece] = 1
            start.had += len(data)
        place = (piece + 1) * step
        if place - told >= STEP:
            told = place
            on_bytes(start.had)


def fill(
    handle: int,
    metainfo: Metainfo,
    index: ChunkIndex,
    olds: Iterable[Old],
    start: Start,
    on_bytes: OnBytes,
    stop: threading.Event,
) -> None:
    """Write into the file `handle` what the files `olds` have of it, and note it in `start`.

    index: of the new file, which has the size of the torrent. Of `olds` no more are taken than are needed, one after
    the other, so that no two of their indexes are in memory. on_bytes gets the bytes filled so far. Returns early when
    `stop` is set. Raises OSError when writing fails; a file of `olds` that cannot be read is left out.
    """
    with contextlib.ExitStack() as stack:
        _Filler(handle, metainfo, index, Sources(index, olds, stack), start).run(on_bytes, stop)


class _Filler:
    def __init__(self, handle: int, metainfo: Metainfo, index: ChunkIndex, sources: Sources, start: Start) -> None:
        self._handle, self._metainfo, self._index, self._start = handle, metainfo, index, start
        self._room = memoryview(bytearray(metainfo.piece_size))
        self._starts = array("Q", accumulate(index.lengths, initial=0))
        self._where, self._from = sources.handles, sources.offsets
        self._checked: tuple[int, bytes] = (-1, b"")  # the last chunk that was looked at alone, and its bytes if right

    def run(self, on_bytes: OnBytes, stop: threading.Event) -> None:
        step, chunk, told = self._metainfo.piece_size, 0, 0
        for piece in range(self._metainfo.pieces):
            first = piece * step
            last = first + self._metainfo.length(piece)
            while self._starts[chunk + 1] <= first:
                chunk += 1
            if not self._start.pieces[piece]:
                self._piece(piece, first, last, chunk)
            if last - told >= STEP or piece + 1 == self._metainfo.pieces:
                told = last
                on_bytes(self._start.filled)
                if stop.is_set():
                    return

    def _piece(self, piece: int, first: int, last: int, chunk: int) -> None:
        if self._read_whole(first, last, chunk):
            data = self._room[: last - first]
            if self._metainfo.is_right(piece, data):
                os.pwrite(self._handle, data, first)
                self._start.pieces[piece] = 1
                self._start.filled += last - first
                return
        covered = self._write_right_chunks(first, last, chunk)
        per_piece = self._metainfo.piece_size // BLOCK
        for begin, end in covered:
            block = (begin - first + BLOCK - 1) // BLOCK
            while min(first + (block + 1) * BLOCK, last) <= end and first + block * BLOCK < last:
                self._start.parts.blocks[piece * per_piece + block] = 1
                block += 1

    def _read_whole(self, first: int, last: int, chunk: int) -> bool:
        """Read a piece out of the old files; False when they have not all of it."""
        spans: list[tuple[int, int, int, int]] = []  # place in the room, length, file, offset in it
        at = first
        while at < last:
            where, begin, end = self._where[chunk], self._starts[chunk], min(self._starts[chunk + 1], last)
            if where == NOWHERE:
                return False
            offset = self._from[chunk] + at - begin
            if spans and spans[-1][2] == where and spans[-1][3] + spans[-1][1] == offset:
                place, length, _, begun = spans.pop()
                spans.append((place, length + end - at, where, begun))
            else:
                spans.append((at - first, end - at, where, offset))
            at, chunk = end, chunk + 1
        return all(
            self._read(where, offset, self._room[place : place + length]) for place, length, where, offset in spans
        )

    def _write_right_chunks(self, first: int, last: int, chunk: int) -> list[tuple[int, int]]:
        """Write each chunk of a piece that is right by itself, as far as it is in the piece; what is written,
        merged."""
        covered: list[tuple[int, int]] = []
        while chunk < len(self._index) and (begin := self._starts[chunk]) < last:
            data = self._chunk(chunk)
            if data:
                low, high = max(begin, first), min(begin + len(data), last)
                os.pwrite(self._handle, data[low - begin : high - begin], low)
                if covered and covered[-1][1] == low:
                    low = covered.pop()[0]
                covered.append((low, high))
            chunk += 1
        return covered

    def _chunk(self, chunk: int) -> bytes:
        """A chunk out of an old file when its digest is right; else nothing."""
        if self._checked[0] == chunk:
            return self._checked[1]
        data = b""
        if self._where[chunk] != NOWHERE:
            length = self._starts[chunk + 1] - self._starts[chunk]
            with contextlib.suppress(OSError):
                data = os.pread(self._where[chunk], length, self._from[chunk])
            if digest_of(data) != self._index.digest(chunk):
                data = b""
        self._checked = chunk, data
        return data

    def _read(self, handle: int, offset: int, room: memoryview) -> bool:
        try:
            return os.preadv(handle, [room], offset) == len(room)
        except OSError:
            return False  # a bad sector: the chunks around it may be read all the same


class _Wanted:
    """The chunks of an index by their digests: a hash table with open addressing in flat arrays. At most 15 bytes a
    chunk, where a dict of lists takes 250; a blob of 16 GiB has a million of them."""

    def __init__(self, index: ChunkIndex) -> None:
        self._index = index
        self._mask = (1 << (len(index) * 4 // 3).bit_length()) - 1
        self._slots = array("I", [_NO_CHUNK]) * (self._mask + 1)
        self._others = array("I", [_NO_CHUNK]) * len(index)  # by chunk: another one with the same digest
        for chunk in range(len(index)):
            slot = self._slot(index.digest(chunk))
            self._others[chunk], self._slots[slot] = self._slots[slot], chunk

    def first(self, digest: bytes) -> int:
        """A chunk with this digest, or _NO_CHUNK."""
        return self._slots[self._slot(digest)]

    def all_from(self, chunk: int) -> Iterator[int]:
        """A chunk that `first` gave, and all others with its digest."""
        while chunk != _NO_CHUNK:
            yield chunk
            chunk = self._others[chunk]

    def _slot(self, digest: bytes) -> int:
        slot = hash(digest) & self._mask
        while (chunk := self._slots[slot]) != _NO_CHUNK and self._index.digest(chunk) != digest:
            slot = (slot + 1) & self._mask
        return slot


class Sources:
    """Where the chunks of `index` are to be had. handles: by chunk, that of the old file which has it, or NOWHERE.
    offsets: by chunk, where in that file. Each file of `olds` is opened on `stack` when its turn comes; no more are
    asked for when every chunk is found."""

    def __init__(self, index: ChunkIndex, olds: Iterable[Old], stack: contextlib.ExitStack) -> None:
        self.handles, self.offsets = array("i", [NOWHERE]) * len(index), array("Q", [0]) * len(index)
        self._index, self._lacking = index, len(index)
        wanted = _Wanted(index)
        for old in olds:
            try:
                handle = os.open(old.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                log.warning("%s is not used to fill the new version: %s", old.path, error.strerror)
                continue
            stack.callback(os.close, handle)
            self._look(old.index, handle, wanted)
            if not self._lacking:
                break

    def _look(self, old: ChunkIndex, handle: int, wanted: _Wanted) -> None:
        for offset, length, digest in old.chunks():
            first = wanted.first(digest)
            # The lengths differ when the old file's index lies.
            if first == _NO_CHUNK or self.handles[first] != NOWHERE or self._index.lengths[first] != length:
                continue
            for chunk in wanted.all_from(first):
                self.handles[chunk], self.offsets[chunk] = handle, offset
                self._lacking -= 1
