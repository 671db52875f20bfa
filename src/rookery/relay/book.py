# SPDX-License-Identifier: Apache-2.0
"""Which pieces of a blob are there, in the order in which they came, for many readers."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

NEVER = -1e9


@dataclass(frozen=True)
class Growth:
    """A piece of which the first `ready` bytes are there and right. leaves: the digests of all its blocks (BEP 52).
    before: of these bytes, those that were there already (the opening)."""

    piece: int
    leaves: bytes
    ready: int = 0
    before: int = 0


class Book:
    """The pieces of one blob that are whole and right. Thread-safe.

    Every giver reads the log with a cursor of its own. `beat` is when (monotonic seconds) the way up to somebody who
    has everything was last known to stand; with every piece there, that is always now.
    """

    def __init__(self, pieces: int, complete: bool = False) -> None:
        self.pieces = pieces
        self._there = bytearray(b"\1" * pieces if complete else pieces)
        self._log = array("I", range(pieces) if complete else ())
        self._growing: dict[int, Growth] = {}
        self._news = threading.Condition()
        self._count = 0  # of what there was to tell
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
            self._growing.pop(piece, None)
            self._tell()
            return True

    def extend(self, pieces: Iterable[int]) -> None:
        """Several are there."""
        for piece in pieces:
            self.add(piece)

    def grow(self, growth: Growth) -> None:
        """More of a piece is there; it is called with each piece's growth from one thread at a time."""
        with self._news:
            if not self._there[growth.piece]:
                self._growing[growth.piece] = growth
                self._tell()

    def abandon(self, piece: int) -> None:
        """Nothing more comes of a piece that grew: it has to come again."""
        with self._news:
            self._growing.pop(piece, None)

    def growing(self) -> tuple[Growth, ...]:
        """The pieces that are there in part."""
        if not self._growing:
            return ()
        with self._news:
            return tuple(self._growing.values())

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
            self._tell()

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
            self._tell()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def news(self) -> int:
        """How often there was something to tell: a piece, growth, a beat, the end."""
        return self._count

    def wait(self, news: int, seconds: float) -> None:
        """Return when there was something to tell after `news`, or after so many seconds."""
        with self._news:
            if self._count == news:
                self._news.wait(seconds)

    def _tell(self) -> None:
        self._count += 1
        self._news.notify_all()

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
