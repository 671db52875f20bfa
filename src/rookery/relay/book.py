# SPDX-License-Identifier: Apache-2.0
"""Which pieces of a blob are there, in the order in which they came, for many readers."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterable

NEVER = -1e9


class Book:
    """The pieces of one blob that are whole and right. Thread-safe.

    Every giver reads the log with a cursor of its own. `beat` is when (monotonic seconds) the way up to somebody who
    has everything was last known to stand; with every piece there, that is always now.
    """

    def __init__(self, pieces: int, complete: bool = False) -> None:
        self.pieces = pieces
        self._there = bytearray(b"\1" * pieces if complete else pieces)
        self._log = array("I", range(pieces) if complete else ())
        self._news = threading.Condition()
        self._beat = NEVER
        self._beats = 0
        self._closed = False

    def add(self, piece: int) -> bool:
        """A piece is there; False when it was before."""
        with self._news:
            if self._there[piece]:
                return False
            self._there[piece] = 1
            self._log.append(piece)
            self._news.notify_all()
            return True

    def extend(self, pieces: Iterable[int]) -> None:
        """Several are there."""
        for piece in pieces:
            self.add(piece)

    def has(self, piece: int) -> bool:
        """Whether a piece is there."""
        return bool(self._there[piece])

    def __len__(self) -> int:
        return len(self._log)

    @property
    def complete(self) -> bool:
        """Whether all are there."""
        return len(self._log) == self.pieces

    def missing(self) -> list[int]:
        """The pieces that are not there."""
        return [piece for piece, there in enumerate(self._there) if not there]

    def have(self) -> list[bool]:
        """By piece, whether it is there."""
        return [bool(there) for there in self._there]

    def bitmap(self) -> bytes:
        """The same as bits (BEP 3's order)."""
        return to_bitmap(self._there)

    def beat(self) -> None:
        """The way up stands: whoever waits for news is told, and passes it on."""
        with self._news:
            self._beat = time.monotonic()
            self._beats += 1
            self._news.notify_all()

    @property
    def beats(self) -> int:
        """How many beats there were."""
        return self._beats

    def since_beat(self) -> float:
        """Seconds since the last one."""
        return 0.0 if self.complete else time.monotonic() - self._beat

    def close(self) -> None:
        """Let all readers go."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def wait(self, cursor: int, beats: int, seconds: float) -> None:
        """Return when the log is longer than `cursor`, there was a beat after `beats`, the book was closed, or after
        so many seconds."""
        with self._news:
            if len(self._log) <= cursor and self._beats == beats and not self._closed:
                self._news.wait(seconds)

    def at(self, cursor: int) -> int:
        """The piece at a place of the log."""
        return self._log[cursor]


_DIGITS = bytes(48 + bool(value) for value in range(256))


def to_bitmap(there: bytes | bytearray) -> bytes:
    """Bits in BEP 3's order of what has one byte each, 0 or not."""
    bits = int(there.translate(_DIGITS).decode() or "0", 2)
    length = (len(there) + 7) // 8
    return (bits << (length * 8 - len(there))).to_bytes(length, "big")


def from_bitmap(bitmap: bytes, pieces: int) -> bytearray:
    """One byte for each piece, 1 for those in the bitmap. Bits that are not there count as 0."""
    whole = bitmap[: (pieces + 7) // 8].ljust((pieces + 7) // 8, b"\0")
    text = bin(int.from_bytes(b"\1" + whole, "big"))[3 : 3 + pieces]
    return bytearray(text.encode().translate(bytes((value - 48) & 1 for value in range(256))))
