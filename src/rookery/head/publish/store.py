# SPDX-License-Identifier: Apache-2.0
"""Published blobs: files that lie under their SHA-256 and never change.

A file comes in under a name that nobody looks for (`.incoming-*`) and gets its own by a rename, so a blob that is there
is whole. What a killed head left under such a name is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import OnProgress, Progress, silent
from rookery.head.publish.packs import PACKED, Packs

STAGE = "storing"
_INCOMING = ".incoming-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
OnBytes = Callable[[bytes], None]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BlobStore:
    """A directory of blobs `{sha256}`, their torrents `{sha256}.torrent` and their chunk indexes `{sha256}.chunks`;
    some blobs may be packed (packs.py). Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()  # over what packed blobs are made of
        self._packs = Packs(directory, _INCOMING)
        self._remove_leftovers()

    def path(self, sha256: str) -> Path:
        """Where the blob is, or would be; one that is packed is made a file again, which takes a second for 200 MB.

        Raises RookeryError `invalid` for what is no digest; `corrupt`, `no-space` for a packed one.
        """
        if self.is_packed(sha256):
            with self._lock, self._explained(self._place(sha256)):
                if self.is_packed(sha256):
                    self._packs.bring_back(sha256)
        return self._place(sha256)

    def torrent(self, sha256: str) -> Path:
        """Where the blob's torrent is, or would be."""
        return self._place(sha256).with_suffix(".torrent")

    def chunks(self, sha256: str) -> Path:
        """Where the blob's chunk index is, or would be."""
        return self._place(sha256).with_suffix(".chunks")

    def __contains__(self, sha256: str) -> bool:
        return self._place(sha256).is_file() or self.is_packed(sha256)

    def digests(self) -> tuple[str, ...]:
        """Every blob that is there, packed ones too, sorted."""
        whole = {path.name for path in self.directory.iterdir() if _DIGEST.fullmatch(path.name)}
        return tuple(sorted(whole | set(self._packs.packed())))

    def is_packed(self, sha256: str) -> bool:
        """Whether the blob is here, but has no file of its own until somebody asks for its `path`."""
        self._place(sha256)
        return self._packs.is_packed(sha256)

    def pack(self, sha256: str) -> int:
        """Keep of a blob that nobody needs just now only the chunks that no other blob here has. Returns the bytes that
        were freed; 0, and the blob stays as it is, when it has no index or too little in common with the others.

        Whoever gives the blob's file to others must stop first. Raises RookeryError `no-space`.
        """
        with self._lock, self._explained(self._place(sha256)):
            return self._packs.pack(sha256)

    def packed_digest(self, sha256: str) -> str:
        """SHA-256 of a packed blob, which stays packed. Raises RookeryError `corrupt` when it would not come out."""
        with self._lock:
            return self._packs.digest(sha256)

    def disk(self, sha256: str) -> int:
        """Bytes of the files that are a blob's own."""
        place = self._place(sha256)
        paths = (place, *(place.with_suffix(suffix) for suffix in (".torrent", ".chunks", PACKED)))
        return sum(path.stat().st_size for path in paths if path.is_file())

    def put(
        self,
        path: Path,
        on_progress: OnProgress = silent,
        cancel: threading.Event | None = None,
        *,
        move: bool = False,
        also: OnBytes | None = None,
    ) -> tuple[str, int]:
        """Take a file in; returns its SHA-256 (64 hex digits) and its size in bytes.

        The bytes are copied, since whoever has the file may go on changing it; with `move` the file is the store's from
        now on, and on the same file system it is only renamed. A blob that is there already, and good, stays as it is;
        one that is not good any more is replaced. also: is given all bytes in order, so that the file need not be read
        again. Reports bytes.
        Raises RookeryError: `not-found`, `invalid` (no file), `no-space`, `cancelled`; the store is then as before.
        """
        cancel = cancel or threading.Event()
        with self._explained(path):
            if not path.is_file():
                kind = ErrorKind.INVALID if path.exists() else ErrorKind.NOT_FOUND
                raise RookeryError(f"{path} is not a file", kind=kind)
            if move and path.stat().st_dev == self.directory.stat().st_dev:
                return self._rename(path, on_progress, cancel, also)
            size = path.stat().st_size
            files.require_space(self.directory, size, f"the blob of {path.name}")
            with self.incoming() as temporary:
                with path.open("rb") as source, temporary.open("r+b") as target:
                    digest, size = _copy(source, target, size, on_progress, cancel, also)
                    target.flush()
                    os.fsync(target.fileno())
                self._settle(temporary, digest)
            if move:
                path.unlink()
            return digest, size

    def put_torrent(self, sha256: str, torrent: bytes) -> None:
        """Store a blob's torrent, replacing one that is there. Raises RookeryError `no-space`."""
        with self._explained(self.torrent(sha256)):
            files.write_atomic(self.torrent(sha256), torrent)

    def put_chunks(self, sha256: str, index: bytes) -> None:
        """Store a blob's chunk index, replacing one that is there. Raises RookeryError `no-space`."""
        with self._explained(self.chunks(sha256)):
            files.write_atomic(self.chunks(sha256), index)

    def remove(self, sha256: str, *, keep_index: bool = False) -> None:
        """Remove a blob, its torrent and its chunk index, if they are there. Whoever has the file open can go on
        reading it. keep_index: nodes may hold the blob for long, and their next version is filled by its index."""
        with self._lock, self._explained(self._place(sha256)):
            self._packs.part_with(sha256)  # others may be packed in terms of it
            self._place(sha256).unlink(missing_ok=True)
            self.torrent(sha256).unlink(missing_ok=True)
            if not keep_index:
                self.chunks(sha256).unlink(missing_ok=True)

    def forget_indexes(self, before: float) -> None:
        """Remove chunk indexes of blobs that are not here, last changed before that time (seconds since 1970)."""
        for path in self.directory.glob("*.chunks"):
            if _DIGEST.fullmatch(path.stem) and path.stem not in self and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """An empty file inside the store's file system for something that is made for it; gone when the block is left,
        unless it was moved in."""
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=_INCOMING)
        try:
            # While the lock is held the file is somebody's work; without it, it is a leftover.
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            os.close(handle)

    def _rename(
        self, path: Path, on_progress: OnProgress, cancel: threading.Event, also: OnBytes | None
    ) -> tuple[str, int]:
        with path.open("rb") as source:
            digest, size = _copy(source, None, path.stat().st_size, on_progress, cancel, also)
            os.fsync(source.fileno())
        self._settle(path, digest)
        path.unlink(missing_ok=True)
        return digest, size

    def _settle(self, temporary: Path, digest: str) -> None:
        """Give a whole file its name, unless a good blob has it."""
        there = self._place(digest)
        if there.is_file() and files.sha256_file(there) == digest:
            return
        temporary.chmod(0o444)
        os.replace(temporary, there)
        files.sync_directory(self.directory)

    def _place(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise RookeryError(f"{sha256[:80]!r} is not a blob's digest", kind=ErrorKind.INVALID)
        return self.directory / sha256

    def _remove_leftovers(self) -> None:
        # `.HEX.torrent.XXXX` is what an atomic write of a torrent leaves; it holds no lock, but lasts milliseconds.
        patterns = (f"{_INCOMING}*", ".*.torrent.*", ".*.chunks.*")
        for path in [found for pattern in patterns for found in self.directory.glob(pattern)]:
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise RookeryError(
                    f"no space left in {self.directory} for {path.name}",
                    kind=ErrorKind.NO_SPACE,
                    hint="free some space there, for one with 'rookery image rm'; nothing was published",
                ) from error
            if isinstance(error, PermissionError):
                raise RookeryError(f"not allowed to read {path}", kind=ErrorKind.FORBIDDEN) from error
            raise


def _copy(
    source: BinaryIO,
    target: BinaryIO | None,
    size: int,
    on_progress: OnProgress,
    cancel: threading.Event,
    also: OnBytes | None,
) -> tuple[str, int]:
    """Read `source` to its end, into `target` if there is one; returns (SHA-256, bytes)."""
    digest, done = hashlib.sha256(), 0
    while block := source.read(files.BLOCK):
        if cancel.is_set():
            raise RookeryError("publishing was cancelled", kind=ErrorKind.CANCELLED)
        digest.update(block)
        if also is not None:
            also(block)
        if target is not None:
            target.write(block)
        done += len(block)
        on_progress(Progress(STAGE, done, max(size, done), "bytes"))
    return digest.hexdigest(), done
