# SPDX-License-Identifier: Apache-2.0
"""Looks whether a stored version is still what was published."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish.site import is_signed
from rookery.head.publish.store import BlobStore
from rookery.wire.manifest import Blob, parse_payload

STAGE = "reading blobs"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a version. subject: `manifest` or a blob's role. message: what. hint: what to do."""

    subject: str
    message: str
    hint: str


def verify(
    version: Version, store: BlobStore, public: str, on_progress: OnProgress, cancel: threading.Event
) -> tuple[Problem, ...]:
    """Check a version's signature against the site's public half, and read each of its blobs, torrents and chunk
    indexes.

    Returns what is wrong; nothing when all is well. Changes nothing. Reports bytes. Raises RookeryError `cancelled`.
    """
    if not is_signed(version.manifest, public):
        hint = "was the site key replaced? publish the image again with the key that nodes believe"
        return (Problem("manifest", "it is not signed by this site's key: nodes refuse it", hint),)
    try:
        manifest = parse_payload(version.manifest.signed_bytes)
    except RookeryError as error:
        return (Problem("manifest", str(error), "publish the image again"),)
    if manifest.version != version.id:
        return (Problem("manifest", f"it is that of version {manifest.version[:12]}", "publish the image again"),)
    total = sum(blob.size for blob in manifest.blobs)
    problems: list[Problem] = []
    done = 0
    for blob in manifest.blobs:
        problems += _blob_problems(blob, store, done, total, on_progress, cancel)
        problems += _torrent_problems(blob, store)
        problems += _index_problems(blob, store)
        done += blob.size
    return tuple(problems)


def info_hash_of(torrent: bytes) -> str:
    """The v2 info-hash of a torrent file: SHA-256 (64 hex digits) of its bencoded info dictionary (BEP 3, BEP 52).

    Raises ValueError when the bytes are not a torrent.
    """
    found = [hashlib.sha256(torrent[start:end]) for key, start, end in _entries(torrent) if key == b"info"]
    if len(found) != 1:
        raise ValueError("no info dictionary")
    return found[0].hexdigest()


def _blob_problems(
    blob: Blob, store: BlobStore, before: int, total: int, on_progress: OnProgress, cancel: threading.Event
) -> Iterator[Problem]:
    again = "publish the same content again, or copy the file from another head's store"

    def tell(done: int) -> None:
        if cancel.is_set():
            raise RookeryError("verifying was cancelled", kind=ErrorKind.CANCELLED)
        on_progress(Progress(STAGE, before + done, total, "bytes", line=blob.name))

    if store.is_packed(blob.sha256):
        yield from _packed_problems(blob, store, again)
        tell(blob.size)
        return
    path = store.path(blob.sha256)
    try:
        size = path.stat().st_size
        if size != blob.size:
            yield Problem(blob.role, f"{path} has {size} bytes instead of {blob.size}", again)
        elif files.sha256_file(path, tell) != blob.sha256:
            yield Problem(blob.role, f"{path} is damaged: its bytes have another digest", again)
    except FileNotFoundError:
        yield Problem(blob.role, f"{path} is missing", again)
    except OSError as error:
        yield Problem(blob.role, f"{path} cannot be read: {error.strerror}", "look at the disk's health")


def _packed_problems(blob: Blob, store: BlobStore, again: str) -> Iterator[Problem]:
    try:
        right = store.packed_digest(blob.sha256) == blob.sha256
    except RookeryError as error:
        yield Problem(blob.role, str(error), again)
    else:
        if not right:
            yield Problem(blob.role, "packed as it is, it would come back with another digest", again)


def _torrent_problems(blob: Blob, store: BlobStore) -> Iterator[Problem]:
    if not blob.info_hash:
        return
    path, again = store.torrent(blob.sha256), "publish the same content again"
    try:
        if info_hash_of(path.read_bytes()) != blob.info_hash:
            yield Problem(blob.role, f"{path} is not the torrent that the manifest names", again)
    except FileNotFoundError:
        yield Problem(blob.role, f"{path} is missing", again)
    except (OSError, ValueError) as error:
        yield Problem(blob.role, f"{path} is damaged: {error}", again)


def _index_problems(blob: Blob, store: BlobStore) -> Iterator[Problem]:
    if not blob.chunks:
        return
    path, again = store.chunks(blob.sha256), "publish the same content again; until then nodes fetch this version whole"
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != blob.chunks:
            yield Problem(blob.role, f"{path} is not the chunk index that the manifest names", again)
    except FileNotFoundError:
        yield Problem(blob.role, f"{path} is missing", again)
    except OSError as error:
        yield Problem(blob.role, f"{path} cannot be read: {error.strerror}", "look at the disk's health")


def _entries(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Key, and the span of its value, for each entry of a bencoded dictionary."""
    if data[:1] != b"d":
        raise ValueError("not a bencoded dictionary")
    at = 1
    while data[at : at + 1] != b"e":
        start, value = _text_at(data, at)
        end = _end_of(data, value)
        yield data[start:value], value, end
        at = end
    if at + 1 != len(data):
        raise ValueError("bytes after the end")


def _end_of(data: bytes, at: int) -> int:
    """Where the value that begins at `at` ends."""
    depth = 0
    while True:
        mark = data[at : at + 1]
        if mark in (b"d", b"l"):
            depth, at = depth + 1, at + 1
        elif mark == b"e":
            depth, at = depth - 1, at + 1
        elif mark == b"i":
            at = data.index(b"e", at) + 1
        else:
            _, at = _text_at(data, at)
        if depth <= 0:
            return at


def _text_at(data: bytes, at: int) -> tuple[int, int]:
    """The span of a bencoded text's bytes."""
    colon = data.index(b":", at, at + 20)
    start = colon + 1
    end = start + int(data[at:colon])
    if not start <= end <= len(data):
        raise ValueError("a text reaches beyond the end")
    return start, end
