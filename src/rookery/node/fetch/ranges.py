# SPDX-License-Identifier: Apache-2.0
"""Byte ranges from the head by HTTP (RFC 9110, section 14): the swarm's fallback, and the way of small files."""

from __future__ import annotations

import http.client
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from rookery.errors import ErrorKind, RookeryError
from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.policy import retry_delay
from rookery.node.talk import problem

TIMEOUT = 20.0  # s without a byte
BLOCK = 1 << 18
MOST_REFUSAL = 1 << 16  # bytes read of an answer that says no
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")


class Connection:
    """One connection to the head that is kept open between requests. Not thread-safe; `close` may come from outside."""

    def __init__(self, url: str, credential: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RookeryError(f"{url[:200]!r} is not an HTTP address", kind=ErrorKind.INVALID)
        self._url = url
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "rookery"}
        if credential:
            self._headers["Authorization"] = f"Bearer {credential}"
        self._made: http.client.HTTPConnection | None = None

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """The bytes from `first` to `last` (included; None: to the end), as they come.

        Raises RookeryError `unavailable` when the head cannot be reached or breaks off, what its problem+json says when
        it refuses, and `failed` for an answer that is not what was asked for.
        """
        headers = dict(self._headers)
        ranged = first > 0 or last is not None
        if ranged:
            headers["Range"] = f"bytes={first}-{'' if last is None else last}"
        whole = False
        try:
            made = self._connect()
            made.request("GET", self._path, headers=headers)
            answer = made.getresponse()
            if answer.status not in (200, 206):
                raise _refused(self._url, answer)
            if ranged:
                _require_range(self._url, answer, first, last)
            expected = answer.length
            while block := answer.read(BLOCK):
                yield block
                expected = None if expected is None else expected - len(block)
            if expected:
                raise http.client.IncompleteRead(b"", expected)
            whole = True
        except (OSError, http.client.HTTPException) as error:
            raise RookeryError(
                f"the head at {self._host} does not answer: {error or type(error).__name__}",
                kind=ErrorKind.UNAVAILABLE,
                hint="is the head up, and is its HTTP port reachable from here?",
            ) from error
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        """Hang up. The next request connects again."""
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._made is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._made = kind(self._host, self._port, timeout=TIMEOUT)
        return self._made


@dataclass(frozen=True)
class Delivery:
    """What the worker tells: a piece that came whole (`data`), one whose digest was wrong (data None), or an error."""

    piece: int = -1
    data: bytes | None = None
    error: RookeryError | None = None


class RangeWorker:
    """A thread that fetches runs of pieces, for as long as it is given any.

    next_run() names the pieces to fetch now (empty: none). deliver(Delivery) is called from the worker's thread; a
    piece is checked against its digest before it is delivered. After an error it waits, longer each time, with jitter.
    """

    def __init__(
        self,
        url: str,
        credential: str,
        metainfo: Metainfo,
        next_run: Callable[[], range],
        deliver: Callable[[Delivery], None],
    ) -> None:
        self._connection = Connection(url, credential)
        self._metainfo, self._next_run, self._deliver = metainfo, next_run, deliver
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fetch-http", daemon=True)
        self._dice = random.Random()  # noqa: S311 - jitter

    def start(self) -> None:
        """Begin to ask for work."""
        self._thread.start()

    def stop(self) -> None:
        """End after the block at hand; returns when the thread has ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            run = self._next_run()
            if not run:
                self._stopping.wait(0.05)
                continue
            try:
                self._fetch(run)
                failures = 0
            except RookeryError as error:
                failures += 1
                self._deliver(Delivery(error=error))
                self._stopping.wait(retry_delay(failures, self._dice.random()))

    def _fetch(self, run: range) -> None:
        size = self._metainfo.piece_size
        first, last = run.start * size, min(run.stop * size, self._metainfo.size) - 1
        held, piece = bytearray(), run.start
        for block in self._connection.blocks(first, last):
            if self._stopping.is_set():
                return
            held += block
            while piece < run.stop and len(held) >= (length := self._metainfo.length(piece)):
                data = bytes(held[:length])
                del held[:length]
                self._deliver(Delivery(piece, data if self._metainfo.is_right(piece, data) else None))
                piece += 1
        if piece < run.stop:
            raise RookeryError("the head broke off in the middle of a range", kind=ErrorKind.UNAVAILABLE)


def get(url: str, credential: str = "", most: int = 1 << 24) -> bytes:
    """A whole small answer. Raises as `Connection.blocks`, and `too-large` beyond `most` bytes."""
    connection, held = Connection(url, credential), bytearray()
    try:
        for block in connection.blocks():
            held += block
            if len(held) > most:
                raise RookeryError(f"what {url} answers is larger than {most} bytes", kind=ErrorKind.TOO_LARGE)
    finally:
        connection.close()
    return bytes(held)


def _require_range(url: str, answer: http.client.HTTPResponse, first: int, last: int | None) -> None:
    matched = _CONTENT_RANGE.fullmatch(answer.getheader("Content-Range") or "")
    right = matched and int(matched[1]) == first and (last is None or int(matched[2]) == last)
    if answer.status != 206 or not right:
        raise RookeryError(f"{url} does not answer with the byte range that was asked for", kind=ErrorKind.FAILED)


def _refused(url: str, answer: http.client.HTTPResponse) -> RookeryError:
    return RookeryError.from_record(problem(answer.status, answer.read(MOST_REFUSAL), f"GET {urlsplit(url).path}"))
