# SPDX-License-Identifier: Apache-2.0
"""The file that grows while the chain feeds it: what comes is checked, written, put into the book and the account."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rookery.errors import RookeryError
from rookery.node.fetch.fill import Start
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.stats import Ledger
from rookery.node.fetch.swarm import disk_error
from rookery.relay.book import Book, Growth
from rookery.wire import merkle
from rookery.wire.engine import BLOCK
from rookery.wire.report import Transfer

ADVANCE = 0.2  # s of digesting in one go


@dataclass(frozen=True)
class Origin:
    """Where bytes come from. address: of the machine. is_head: whether it is the head."""

    address: str
    is_head: bool


class PartFile:
    """One blob's, from now until `close`. Links may put into it from threads of their own.

    start: what is in it already. book: gets every piece that is there and right. ledger: gets the account of what came.
    opener: who gave the first block, if that came before its piece. first_byte, last: when the first and the latest
    right bytes came (monotonic seconds; None, when it was opened). error: why nothing can be written any more. whole:
    set when every piece is there.
    """

    def __init__(self, path: Path, metainfo: Metainfo, start: Start, book: Book, ledger: Ledger) -> None:
        self._path, self._metainfo, self._start, self._book, self._ledger = path, metainfo, start, book, ledger
        self._lock = threading.Lock()
        self._done = start.had + start.filled
        self._unwritten: set[int] = set()
        self._hash, self._hashed = hashlib.sha256(), 0
        self.opener: Origin | None = None
        self.first_byte: float | None = None
        self.last = time.monotonic()
        self.error: RookeryError | None = None
        self.whole = threading.Event()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._handle, metainfo.size)

    def close(self) -> None:
        """Let go of it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def transfer(self, sent: int, peers: int, now: float) -> Transfer:
        """How it stands. sent: bytes given to others. peers: connections."""
        with self._lock:
            return self._ledger.transfer(self._done, sent, peers, now)

    def pass_on(self, piece: int) -> None:
        """A piece came by the mesh: it may be given, too, once it is in the file (the engine tells of a piece before it
        is written)."""
        self._unwritten.add(piece)
        for one in sorted(self._unwritten):
            if self._metainfo.is_right(one, self._read(one)):
                self._unwritten.discard(one)
                self._book.add(one)

    def advance(self) -> None:
        """Digest what is there without a gap; not all at once, since a file that was filled is there from the start."""
        until = time.monotonic() + ADVANCE
        while time.monotonic() < until and self._hashed < self._metainfo.pieces and self._book.has(self._hashed):
            self._hash.update(self._read(self._hashed))
            self._hashed += 1

    def digest(self) -> str:
        """SHA-256 of the whole file, as read back from it; most of it was read while it came. Empty while some of it is
        not there."""
        while self._handle >= 0 and self._book.complete and self._hashed < self._metainfo.pieces:
            self.advance()
        return self._hash.hexdigest() if self._hashed == self._metainfo.pieces else ""

    def piece(self, origin: Origin, piece: int, data: memoryview) -> bool:
        """A whole piece came; False when it is not right."""
        now = time.monotonic()
        right = self._metainfo.is_right(piece, data)
        self._account(origin, len(data), now, right=right, blame=True)
        if right and not self._book.has(piece):
            self._write(piece, 0, data)
            self._has(piece, now)
        return right

    def part(self, origin: Origin, piece: int, data: memoryview, spans: list[tuple[int, int]]) -> bool:
        """What was missing of a piece came, its `spans` (offset, length) one after the other; False when it is not
        right together with what is there. Ours or theirs: who knows. The piece is asked for whole then."""
        now = time.monotonic()
        size = self._metainfo.length(piece)
        whole = memoryview(bytearray(self._read(piece).ljust(size)))
        at = 0
        for offset, length in spans:
            whole[offset : offset + length] = data[at : at + length]
            at += length
        right = self._metainfo.is_right(piece, whole)
        self._account(origin, len(data), now, right=right, blame=False)
        if not right:
            self._start.parts.forget(piece)
            return False
        with self._lock:
            self._ledger.fill(size - len(data))
        if not self._book.has(piece):
            self._write(piece, 0, whole)
            self._has(piece, now)
        return True

    def leaves(self, origin: Origin, piece: int, leaves: bytes) -> bool:
        """The digests of a piece's blocks came; False when they are not what was signed."""
        right = self._metainfo.are_leaves(piece, leaves)
        if not right:
            self._account(origin, 0, time.monotonic(), right=False, blame=True)
        return right

    def growth(self, origin: Origin, growth: Growth, data: memoryview) -> bool:
        """Came what is behind the first `ready` bytes of a piece; False when it is not what its leaves say. It is in
        the account when the piece is whole: of one that breaks off, nothing counts."""
        now = time.monotonic()
        size, ready = self._metainfo.length(growth.piece), growth.ready + len(data)
        place, found = growth.ready // BLOCK * merkle.DIGEST, merkle.leaves(data)
        right = growth.ready % BLOCK == 0 and ready <= size and growth.leaves[place : place + len(found)] == found
        if not right or ready == size:
            self._account(origin, ready - growth.before, now, right=right, blame=True)
        if right and ready == size and self.opener is not None and growth.before:
            self._account(self.opener, growth.before, now, right=True, blame=False)
        if not right:
            return False
        if not self._book.has(growth.piece):
            self._write(growth.piece, growth.ready, data)
            self.first_byte, self.last = self.first_byte or now, now
            if ready < size:
                self._book.grow(replace(growth, ready=ready))
            else:
                self._has(growth.piece, now)
        return True

    def _account(self, origin: Origin, size: int, now: float, *, right: bool, blame: bool) -> None:
        with self._lock:
            if right:
                self.first_byte = self.first_byte or now
            self._ledger.block(origin.address, origin.is_head, size, now)
            if not right:
                self._ledger.failures += 1
                if blame:
                    self._ledger.banned.add(origin.address)

    def _read(self, piece: int) -> bytes:
        return os.pread(self._handle, self._metainfo.length(piece), piece * self._metainfo.piece_size)

    def _write(self, piece: int, offset: int, data: memoryview) -> None:
        try:
            os.pwrite(self._handle, data, piece * self._metainfo.piece_size + offset)
        except OSError as error:
            error.filename = error.filename or str(self._path)
            self.error = disk_error(error)
            raise

    def _has(self, piece: int, now: float) -> None:
        if self._book.add(piece):
            with self._lock:
                self._done += self._metainfo.length(piece)
            self.last = now
            if self._book.complete:
                self.whole.set()
