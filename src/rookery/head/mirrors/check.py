# SPDX-License-Identifier: Apache-2.0
"""Looks at one file on a mirror as a client would: is it there, of the right size, in ranges, and with the right bytes?

What is wrong with a file is an answer; that nobody answers is an error (`unavailable`), since it says nothing of files.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import MirrorFile, MirrorState
from rookery.head.swarm.dressing import Pieces

SAMPLE = 64 << 10  # bytes of each sample of a file that no torrent has cut into pieces
SAMPLES = 4  # the first piece, the last one, and the others anywhere
SMALL = 1 << 20  # files of at most so many bytes are always read whole
CONNECT_SECONDS, READ_SECONDS = 5.0, 10.0
PATIENCE = 15.0  # s after which a mirror must have shown SLOWEST
SLOWEST = 20_000  # bytes/s
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


@dataclass(frozen=True)
class Wanted:
    """A published file. pieces: digests of its pieces; samples are pieces then. path: else the head's own copy, with
    which samples are compared."""

    name: str
    size: int
    sha256: str
    pieces: Pieces | None = None
    path: Path | None = None


class _Finding(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, state: MirrorState, reason: str) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


def client() -> httpx.Client:
    """An HTTP client for `look`. What the environment says of proxies does not count: nodes have none."""
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    headers = {"User-Agent": "rookery", "Accept-Encoding": "identity"}
    return httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout, headers=headers)


def look(
    http: httpx.Client,
    url: str,
    wanted: Wanted,
    *,
    whole: bool = False,
    cancel: threading.Event | None = None,
    dice: random.Random | None = None,
) -> MirrorFile:
    """What there is at `url`. whole: read all of it, not samples.

    Raises RookeryError: `unavailable` when the mirror does not answer, is too slow or is broken, `cancelled`, and
    `corrupt` when it turns out that the head's own copy is the wrong one.
    """
    cancel = cancel or threading.Event()
    try:
        etag = _look(http, url, wanted, whole or wanted.size <= SMALL, cancel, dice or random.SystemRandom())
    except _Finding as found:
        return MirrorFile(wanted.sha256, url, found.state, found.reason, False, time.time())
    except httpx.TimeoutException as error:
        raise _unavailable(url, "does not answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unavailable(url, f"does not answer: {str(error) or type(error).__name__}") from error
    return MirrorFile(wanted.sha256, url, MirrorState.GOOD, "", etag, time.time())


def _look(
    http: httpx.Client, url: str, wanted: Wanted, whole: bool, cancel: threading.Event, dice: random.Random
) -> bool:
    """Whether the mirror names the content by a strong ETag; raises what is wrong."""
    if wanted.size == 0:
        return _look_at_nothing(http, url)
    etag = ""
    if whole:
        digest = hashlib.sha256()
        etag = _read(http, url, (0, wanted.size), wanted.size, digest.update, cancel)
        if digest.hexdigest() != wanted.sha256:
            raise _Finding(MirrorState.BAD, f"its SHA-256 is {digest.hexdigest()}, not what was published")
    else:
        for first, end in spans(wanted.size, dice, wanted.pieces.length if wanted.pieces else SAMPLE):
            part = bytearray()
            etag = _read(http, url, (first, end), wanted.size, part.extend, cancel)
            if not _is_right(wanted, first, end, bytes(part)):
                raise _Finding(MirrorState.BAD, f"bytes {first} to {end - 1} are not those that were published")
    if not etag:
        return False
    again = http.get(url, headers={"If-None-Match": etag, "Range": "bytes=0-0"})
    return again.status_code == 304


def spans(size: int, dice: random.Random, piece: int = SAMPLE) -> tuple[tuple[int, int], ...]:
    """Which bytes are sampled: (first, end) of pieces of `piece` bytes: the first, the last, and others anywhere."""
    count = -(-size // piece)
    within = range(1, count - 1)
    chosen = [0, *sorted(dice.sample(within, min(SAMPLES - 2, len(within)))), count - 1]
    return tuple((number * piece, min((number + 1) * piece, size)) for number in dict.fromkeys(chosen))


def _look_at_nothing(http: httpx.Client, url: str) -> bool:
    with http.stream("GET", url) as said:
        _require_file(said)
        if any(part for part in said.iter_raw()):
            raise _Finding(MirrorState.BAD, "it is not empty")
        return _strong(said)


def _read(
    http: httpx.Client,
    url: str,
    span: tuple[int, int],
    size: int,
    on_part: Callable[[bytes], object],
    cancel: threading.Event,
) -> str:
    """Read a range and return the strong ETag that came with it, or nothing."""
    first, end = span
    with http.stream("GET", url, headers={"Range": f"bytes={first}-{end - 1}"}) as said:
        _require_file(said)
        if said.status_code == 200:
            told = said.headers.get("content-length", "")
            if told.isdigit() and int(told) != size:
                raise _Finding(MirrorState.BAD, f"it has {int(told)} bytes, not {size}{_html(said)}")
            raise _Finding(MirrorState.BAD, f"it does not give ranges (RFC 9110){_html(said)}")
        found = _RANGE.fullmatch(said.headers.get("content-range", "").strip())
        if found is None:
            raise _Finding(MirrorState.BAD, "its Content-Range cannot be read")
        if int(found[3]) != size:
            raise _Finding(MirrorState.BAD, f"it has {int(found[3])} bytes, not {size}")
        if (int(found[1]), int(found[2]) + 1) != span:
            raise _Finding(MirrorState.BAD, "it gives another range than it was asked for")
        count = 0
        for part in _parts(said, url, cancel):
            count += len(part)
            if count > end - first:
                break
            on_part(part)
        if count != end - first:
            raise _Finding(MirrorState.BAD, "it gives more or less bytes than it says")
        return str(said.headers["etag"]) if _strong(said) else ""


def _require_file(said: httpx.Response) -> None:
    """Raise unless the answer is one with a file's bytes."""
    status = said.status_code
    if status in (404, 410):
        raise _Finding(MirrorState.MISSING, "")
    if status in (401, 403, 407):
        raise _Finding(MirrorState.BAD, f"it refuses ({status}): clients have no login there")
    if 300 <= status < 400:
        to = said.headers.get("location", "nowhere")[:200]
        raise _Finding(MirrorState.BAD, f"it redirects to {to}: register the place where the files are")
    if status == 416:
        raise _Finding(MirrorState.BAD, "it is shorter than what was published")
    if status == 429 or status >= 500:
        raise httpx.HTTPError(f"HTTP status {status}")
    if status not in (200, 206):
        raise _Finding(MirrorState.BAD, f"it answers with HTTP status {status}")
    coding = said.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise _Finding(MirrorState.BAD, f"it gives the file encoded ({coding[:40]}), also who does not take that")


def _parts(said: httpx.Response, url: str, cancel: threading.Event) -> Iterator[bytes]:
    began, count = time.monotonic(), 0
    for part in said.iter_raw():
        if cancel.is_set():
            raise RookeryError("the check was cancelled", kind=ErrorKind.CANCELLED)
        count += len(part)
        elapsed = time.monotonic() - began
        if elapsed > PATIENCE and count < SLOWEST * elapsed:
            raise _unavailable(url, f"is too slow: {count / elapsed / 1000:.1f} kB/s")
        yield part


def _strong(said: httpx.Response) -> bool:
    etag = said.headers.get("etag", "")
    return etag.startswith('"') and len(etag) > 2


def _html(said: httpx.Response) -> str:
    kind = said.headers.get("content-type", "").partition(";")[0].strip().lower()
    return "; it is an HTML page" if kind in ("text/html", "application/xhtml+xml") else ""


def _is_right(wanted: Wanted, first: int, end: int, data: bytes) -> bool:
    if wanted.pieces is not None:
        digest = hashlib.new(wanted.pieces.kind.replace("-", ""), data).hexdigest()
        return digest == wanted.pieces.digests[first // wanted.pieces.length]
    assert wanted.path is not None, "pieces or a path"
    with wanted.path.open("rb") as file:
        right = os.pread(file.fileno(), end - first, first) == data
    if not right:
        _require_own(wanted, wanted.path)
    return right


def _require_own(wanted: Wanted, path: Path) -> None:
    """Before a mirror is blamed: is our own copy what was published?"""
    if files.sha256_file(path) != wanted.sha256:
        raise RookeryError(
            f"the head's own copy of {wanted.name} is damaged: no mirror can be compared with it",
            kind=ErrorKind.CORRUPT,
            hint="'rookery image verify' tells more; publishing the same content again repairs it",
        )


def _unavailable(url: str, what: str) -> RookeryError:
    return RookeryError(f"{url[:300]} {what}", kind=ErrorKind.UNAVAILABLE, hint="is the mirror up, and reachable here?")
