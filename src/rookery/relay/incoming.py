# SPDX-License-Identifier: Apache-2.0
"""Bytes of a torrent, chunk index or opening while they come, for many readers: passed on before the rest has come."""

from __future__ import annotations

import threading


class Incoming:
    """Bytes that come in order. total: how many they will be, 0 while that is not known. payload: of these, bytes of
    the blob itself (an opening has some); given: of such, how many went out to others. Thread-safe.

    They are nobody's word until all are there and were compared with what was signed.
    """

    def __init__(self, whole: bytes = b"", payload: int = 0) -> None:
        self.payload, self.given = payload, 0
        self._held = bytearray(whole)
        self._total = len(whole)
        self._news = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def total(self) -> int:
        """How many bytes there will be; 0 while that is not known."""
        return self._total

    @property
    def whole(self) -> bool:
        """Whether all are there."""
        return 0 < self._total == len(self._held)

    @property
    def closed(self) -> bool:
        """Whether nothing more comes."""
        return self._closed

    def content(self) -> bytes:
        """What is there."""
        with self._news:
            return bytes(self._held)

    def add(self, place: int, part: bytes | memoryview, total: int) -> None:
        """Bytes from `place` on came, of `total`; those that are there already are left alone."""
        with self._news:
            new = part[len(self._held) - place :] if place <= len(self._held) else b""
            self._total = self._total or total
            self._held += new[: self._total - len(self._held)]
            self._news.notify_all()

    def close(self) -> None:
        """Nothing more comes."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def read(self, place: int, most: int, seconds: float) -> bytes:
        """Up to `most` bytes from `place` on; waits up to `seconds` for the first of them."""
        with self._news:
            self._news.wait_for(lambda: len(self._held) > place or self._closed, seconds)
            return bytes(self._held[place : place + most])
