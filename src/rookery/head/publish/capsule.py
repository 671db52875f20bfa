# SPDX-License-Identifier: Apache-2.0
"""Writes and reads capsules: a version in one signed file (wire/capsule.py has the format).

Both go through the file once, from front to back, with a mebibyte in memory. What is read is believed byte for byte or
not at all: nothing is taken into the store before the last byte was what it must be.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import httpx

from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish.site import SiteKey, is_signed, verifies
from rookery.head.publish.store import BlobStore
from rookery.wire import capsule as form
from rookery.wire.capsule import Capsule, SignedCapsule
from rookery.wire.manifest import Manifest, Role, parse_payload

WRITING, READING = "writing the capsule", "reading the capsule"
MOST_REFUSAL = 1 << 16  # bytes read of an answer that says no
SECONDS = 30.0  # for a server to send more
_OTHER_MEANS = "fetch the file by other means, and import it from there"
_NO_ROOM = (27, 28, 122)  # EFBIG, ENOSPC, EDQUOT


class Stream(Protocol):
    """Where a capsule comes from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


@dataclass(frozen=True)
class Opened:
    """The head of a capsule, its signature checked. key: who signed it. size: bytes of the whole capsule."""

    key: str
    capsule: Capsule
    manifest: Manifest
    size: int


def write(
    version: Version,
    store: BlobStore,
    key: SiteKey,
    destination: Path,
    on_progress: OnProgress,
    cancel: threading.Event,
) -> None:
    """Write a version to the new file `destination`. Reports bytes.

    Raises RookeryError: `conflict` when the file is there already, `corrupt` when a blob is not what it was,
    `no-space`, `cancelled`, `forbidden`, `not-found`; nothing is left then.
    """
    if os.path.lexists(destination):
        hint = "remove it, or name another"
        raise RookeryError(f"{destination} is there already", kind=ErrorKind.CONFLICT, hint=hint)
    manifest = parse_payload(version.manifest.signed_bytes)
    signed = seal(version, key)
    head = codec.canonical(signed)
    total = form.length(len(head), manifest.blobs)
    with contextlib.ExitStack() as stack:
        # All at once: whoever has them open can go on reading, also when the version is removed meanwhile.
        blobs = [(blob, stack.enter_context(_open_blob(store.path(blob.sha256)))) for blob in manifest.blobs]
        with _new_file(destination) as target:
            files.require_space(destination.parent, total, f"the capsule {destination.name}")
            _put(target, form.header(form.HEAD, len(head)), head, bytes(form.padding(len(head))))
            for blob, source in blobs:
                target.write(form.header(form.member_name(blob), blob.size))
                digest = hashlib.sha256()
                while block := source.read(files.BLOCK):
                    _look(cancel, "exporting")
                    digest.update(block)
                    target.write(block)
                    on_progress(Progress(WRITING, min(target.tell(), total), total, "bytes", line=blob.name))
                if digest.hexdigest() != blob.sha256:
                    raise RookeryError(
                        f"the {blob.role} of {version.image}@{version.id[:12]} is damaged on this head",
                        kind=ErrorKind.CORRUPT,
                        hint=f"look at it with: rookery image verify {version.image}@{version.id[:12]}",
                    )
                target.write(bytes(form.padding(blob.size)))
            target.write(form.END)


def seal(version: Version, key: SiteKey) -> SignedCapsule:
    """The head of a capsule of this version."""
    manifest = parse_payload(version.manifest.signed_bytes)
    # A manifest of before the site key was replaced is signed anew: nobody would believe the capsule otherwise.
    believed = version.manifest if is_signed(version.manifest, key.public) else key.sign(manifest)
    payload = codec.canonical(Capsule(believed, int(time.time()), version.recipe, version.packages))
    return SignedCapsule(base64.b64encode(payload).decode(), key.public, key.sign_bytes(form.CONTEXT + payload))


@contextlib.contextmanager
def open_source(source: str) -> Iterator[Stream]:
    """A capsule at an absolute path or an http(s) URL. Raises RookeryError."""
    if source.startswith(("http://", "https://")):
        with _open_url(source) as stream:
            yield stream
        return
    path = Path(source)
    if not path.is_absolute():
        raise RookeryError(f"{source[:200]!r} is neither a URL nor an absolute path", kind=ErrorKind.INVALID)
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise RookeryError(f"there is no {path} on the head", kind=ErrorKind.NOT_FOUND) from None
    except PermissionError:
        raise RookeryError(f"the head may not read {path}", kind=ErrorKind.FORBIDDEN) from None
    except IsADirectoryError:
        raise RookeryError(f"{path} is a directory, not a capsule", kind=ErrorKind.INVALID) from None


def look(source: Stream) -> Opened:
    """Read a capsule's head and check its signature by the key that it names. Whether that key is one to believe is for
    the caller to say. Raises RookeryError: `invalid` for what is no capsule, `corrupt`, `too-large`."""
    size = form.head_size(_exactly(source, form.BLOCK, "its head"))
    data = _exactly(source, size, "its head")
    _zeros(source, form.padding(size), "after its head")
    try:
        signed = codec.loads(SignedCapsule, data, most=form.MAX_HEAD, what="the capsule's head")
    except RookeryError as error:
        raise _damaged("its head cannot be read", error.record.message) from error
    if codec.canonical(signed) != data:
        raise _damaged("its head is not what was signed")
    return open_head(signed)


def open_head(signed: SignedCapsule) -> Opened:
    """Check the signatures of a capsule's head by the key that it names. Raises RookeryError `invalid`, `corrupt`."""
    try:
        payload = signed.signed_bytes
    except RookeryError as error:
        raise _damaged("its head cannot be read", error.record.message) from error
    if not verifies(signed.key, signed.signature, form.CONTEXT + payload):
        raise _damaged("its head is not what was signed")
    capsule = form.parse_payload(payload)
    if not is_signed(capsule.manifest, signed.key):
        raise _damaged("its manifest is not signed by the same key")
    manifest = parse_payload(capsule.manifest.signed_bytes)
    return Opened(signed.key, capsule, manifest, form.length(len(codec.canonical(signed)), manifest.blobs))


def unpack(
    source: Stream,
    opened: Opened,
    store: BlobStore,
    stack: contextlib.ExitStack,
    on_progress: OnProgress,
    cancel: threading.Event,
) -> dict[Role, Path]:
    """Read the rest of a capsule into new files of the store, which are gone when `stack` is left unless they were
    moved in. Reports bytes. Raises RookeryError: `corrupt`, `no-space`, `cancelled`."""
    blobs = opened.manifest.blobs
    files.require_space(store.directory, sum(blob.size for blob in blobs), f"the image {opened.manifest.image}")
    before = opened.size - sum(form.BLOCK + blob.size + form.padding(blob.size) for blob in blobs) - len(form.END)
    done, found = before, {}
    for blob in blobs:
        if _exactly(source, form.BLOCK, blob.name) != form.header(form.member_name(blob), blob.size):
            raise _damaged(f"where {blob.name} should begin there is something else")
        path = stack.enter_context(store.incoming())
        digest, left = hashlib.sha256(), blob.size
        try:
            with path.open("r+b") as target:
                while left:
                    _look(cancel, "importing")
                    block = source.read(min(files.BLOCK, left))
                    if not block:
                        raise _truncated(blob.name, left)
                    digest.update(block)
                    target.write(block)
                    left -= len(block)
                    done += len(block)
                    on_progress(Progress(READING, done, opened.size, "bytes", line=blob.name))
        except OSError as error:
            raise _unwritable(error, store.directory) from error
        if digest.hexdigest() != blob.sha256:
            raise _damaged(f"the bytes of {blob.name} have another digest than was signed")
        _zeros(source, form.padding(blob.size), f"after {blob.name}")
        done += form.BLOCK + form.padding(blob.size)
        found[blob.role] = path
    _zeros(source, len(form.END), "at its end")
    if source.read(1):
        raise _damaged("there are bytes after its end")
    return found


@contextlib.contextmanager
def _open_blob(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise RookeryError(f"the blob {path.name[:12]} is missing on this head", kind=ErrorKind.NOT_FOUND) from None
    with file:
        yield file


@contextlib.contextmanager
def _new_file(destination: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when the block ends well, and is gone otherwise."""
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _name(temporary, destination)
        files.sync_directory(destination.parent)
    except FileNotFoundError:
        raise RookeryError(f"there is no directory {destination.parent}", kind=ErrorKind.NOT_FOUND) from None
    except OSError as error:
        raise _unwritable(error, destination.parent) from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be removed either
            temporary.unlink()


def _name(temporary: Path, destination: Path) -> None:
    try:
        os.link(temporary, destination)  # unlike a rename, refuses to replace
    except FileExistsError:
        raise RookeryError(f"{destination} is there now", kind=ErrorKind.CONFLICT) from None
    except PermissionError:  # a file system without links, as on many a stick
        os.replace(temporary, destination)


@contextlib.contextmanager
def _open_url(url: str) -> Iterator[Stream]:
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=SECONDS) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.is_error:
                body = next(answer.iter_bytes(MOST_REFUSAL), b"")
                raise refusal(answer.status_code, body, url.partition("?")[0], _OTHER_MEANS)
            yield _Pieces(answer.iter_raw(files.BLOCK))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = "does not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be read"
        raise RookeryError(
            f"{url} {what}",
            kind=ErrorKind.UNAVAILABLE,
            details=str(error),
            hint=_OTHER_MEANS,
        ) from error


def refusal(status: int, body: bytes, who: str, hint: str) -> RookeryError:
    """An answer other than 2xx: what a head says in its problem+json (RFC 9457), else its status and `hint`."""
    kinds = {401: ErrorKind.UNAUTHORIZED, 403: ErrorKind.FORBIDDEN, 404: ErrorKind.NOT_FOUND, 410: ErrorKind.NOT_FOUND}
    try:
        told = json.loads(body)
        said, hint = f": {str(told['title'])[:1000]}", str(told.get("hint") or "")[:1000]
    except (ValueError, TypeError, KeyError, AttributeError):
        said = f" with HTTP status {status}"
    return RookeryError(f"{who} answers{said}", kind=kinds.get(status, ErrorKind.UNAVAILABLE), hint=hint)


class _Pieces:
    """Reads from pieces of any length as from a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = next((piece for piece in self._pieces if piece), b"")
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def _put(target: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        target.write(part)


def _exactly(source: Stream, size: int, what: str) -> bytes:
    parts, left = [], size
    while left:
        part = source.read(min(left, files.BLOCK))
        if not part:
            raise _truncated(what, left)
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _zeros(source: Stream, size: int, where: str) -> None:
    if any(_exactly(source, size, where)):
        raise _damaged(f"the bytes {where} are not zero")


def _look(cancel: threading.Event, doing: str) -> None:
    if cancel.is_set():
        raise RookeryError(f"{doing} was cancelled", kind=ErrorKind.CANCELLED)


def _damaged(what: str, details: str = "") -> RookeryError:
    return RookeryError(
        f"the capsule is damaged: {what}; nothing was imported",
        kind=ErrorKind.CORRUPT,
        details=details,
        hint="copy it again from where it came",
    )


def _truncated(what: str, missing: int) -> RookeryError:
    return _damaged(f"it ends in the middle of {what}, {missing} bytes too early")


def _unwritable(error: OSError, directory: Path) -> RookeryError:
    full = error.errno in _NO_ROOM
    forbidden = isinstance(error, PermissionError) or error.errno == errno.EROFS
    return RookeryError(
        f"no space left in {directory}" if full else f"cannot write in {directory}: {error.strerror}",
        kind=ErrorKind.NO_SPACE if full else ErrorKind.FORBIDDEN if forbidden else ErrorKind.FAILED,
        hint="free some space there, for one with 'rookery image gc'" if full else "choose another directory",
    )
