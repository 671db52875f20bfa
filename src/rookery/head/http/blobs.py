# SPDX-License-Identifier: Apache-2.0
"""Files over HTTP with Range, ETag and If-Range (RFC 9110), one range at a time.

The ETag is the file's SHA-256, so it is strong and the same on every head that has the blob. A request for several
ranges gets the whole file, as RFC 9110 14.2 allows.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rookery.errors import ErrorKind, RookeryError

CHUNK = 512 << 10
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


class Sent:
    """Counts the bytes of blobs that went out. Adding is for the event loop alone."""

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, count: int) -> None:
        """Count what has just gone out."""
        self.bytes += count


@dataclass(frozen=True)
class Span:
    """Bytes `first` up to and without `end` of a file. partial: answered with 206 and Content-Range."""

    first: int
    end: int
    partial: bool


def span_of(header: str | None, if_range: str | None, etag: str, size: int) -> Span | None:
    """The bytes that a Range header asks for, or None when none of them exist (416).

    A header that is malformed, of several ranges or of another unit is ignored; so is one whose If-Range is not `etag`.
    """
    whole = Span(0, size, partial=False)
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or (if_range is not None and if_range.strip() != etag):
        return whole
    first, last = found.groups()
    if not first and not last:
        return whole
    if not first:  # the last so many bytes
        count = min(int(last), size)
        return Span(size - count, size, partial=True) if count else None
    if last and int(last) < int(first):
        return whole
    end = min(int(last) + 1, size) if last else size
    return Span(int(first), end, partial=True) if int(first) < size else None


async def send_file(
    request: Request,
    path: Path,
    sha256: str,
    *,
    media_type: str = "application/octet-stream",
    on_sent: Callable[[int], None] | None = None,
    more: Mapping[str, str] | None = None,
) -> Response:
    """The response with a file whose SHA-256 is `sha256`; `on_sent` gets the count of each part that went out. more:
    further headers.

    Raises RookeryError `not-found` when the file is not there.
    """
    try:
        size = (await run_in_threadpool(path.stat)).st_size
    except FileNotFoundError:
        raise RookeryError(f"no blob {sha256[:64]}", kind=ErrorKind.NOT_FOUND) from None
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, max-age=31536000, immutable"}
    headers |= more or {}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    span = span_of(request.headers.get("range"), request.headers.get("if-range"), etag, size)
    if span is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(span.end - span.first)
    if span.partial:
        headers["Content-Range"] = f"bytes {span.first}-{span.end - 1}/{size}"
    status = 206 if span.partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_parts(path, span, on_sent), status, headers, media_type)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether a caller has it already, by its If-None-Match."""
    if if_none_match is None:
        return False
    return any(item.strip().removeprefix("W/") in {etag, "*"} for item in if_none_match.split(","))


async def _parts(path: Path, span: Span, on_sent: Callable[[int], None] | None) -> AsyncIterator[bytes]:
    handle = await run_in_threadpool(os.open, path, os.O_RDONLY)
    try:
        position = span.first
        while position < span.end:
            part = await run_in_threadpool(os.pread, handle, min(CHUNK, span.end - position), position)
            if not part:
                raise RookeryError(f"{path.name} became shorter while it was sent", kind=ErrorKind.CORRUPT)
            yield part
            position += len(part)
            if on_sent:
                on_sent(len(part))
    finally:
        os.close(handle)
