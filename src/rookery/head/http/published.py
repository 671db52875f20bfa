# SPDX-License-Identifier: Apache-2.0
"""What is published, as this head gives it: in seeder and tracker; and whose blob is which, asked for every request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.head.http.views import manifest
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.tracker import Tracker
from rookery.log import logger
from rookery.wire.manifest import Blob, Role

log = logger(__name__)

AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class _Index:
    roles: dict[str, set[Role]] = field(default_factory=dict)  # by SHA-256 of the blob
    blobs: dict[str, set[str]] = field(default_factory=dict)  # SHA-256 of blobs by version id
    hashes: dict[str, set[bytes]] = field(default_factory=dict)  # info-hashes as trackers see them, by version id
    carried: dict[str, str] = field(default_factory=dict)  # v2 info-hash (hex) by version id


class Published:
    """An index of the catalog's versions, read again when something unknown is asked for, once a second at most, so
    that what another head of the same catalog published is found too. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        store: BlobStore,
        seeder: Seeder,
        tracker: Tracker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._store, self._seeder, self._tracker, self._clock = catalog, store, seeder, tracker, clock
        self._lock = threading.Lock()
        self._giving = threading.Lock()
        self._index = _Index()
        self._read_at: float | None = None
        self._given: dict[str, _File] = {}  # by v2 info-hash: the file that the seeder was told of

    def give_all(self) -> None:
        """Give everything that is published. A blob that is not there any more is an event, no reason to stop."""
        for image in self._catalog.images():
            for version in image.versions:
                try:
                    self._give(version)
                except RookeryError as error:
                    message = f"version {version.id[:12]} is not given to nodes: {error.record.message}"
                    log.error("image %s: %s", image.name, message)
                    self._catalog.add_event(f"image:{image.name}", "trouble", message)

    def added(self, version: Version) -> None:
        """A version was published here: give it. What is given already stays as it is, but for a blob whose file was
        replaced, or whose copy the seeder had found bad: publishing again repairs, and the seeder must look again."""
        self._give(version)
        self._forget()

    def removed(self, versions: Iterable[Version]) -> None:
        """Versions were removed from the catalog: stop giving what no other version has."""
        self._forget()
        # The look and what follows from it are one: who publishes the same content meanwhile gives it afterwards.
        with self._giving:
            known = (row for image in self._catalog.images() for row in image.versions)
            left = {blob.info_hash for row in known for blob in _blobs(row)}
            for version in versions:
                for blob in _blobs(version):
                    if blob.info_hash and blob.info_hash not in left:
                        self._tracker.forget(blob.info_hash, blob.info_hash_v1)
                        self._given.pop(blob.info_hash, None)
                        self._seeder.remove(blob.info_hash)

    def require_role(self, sha256: str, role: Role) -> None:
        """Raise RookeryError `not-found` unless the blob has this role in some version."""
        if role not in self._fresh(lambda index: sha256 in index.roles).roles.get(sha256, ()):
            raise _no_blob(sha256)

    def require_blob(self, sha256: str, version: str | None) -> None:
        """Raise RookeryError `not-found` unless the blob is of this version (None: of any)."""
        index = self._fresh(lambda index: sha256 in index.roles)
        if sha256 not in (index.roles if version is None else index.blobs.get(version, ())):
            raise _no_blob(sha256)
        if self._store.is_packed(sha256):
            self._bring_back(sha256)

    def is_at_hand(self, sha256: str, version: str | None) -> bool:
        """Whether the blob is known to be of this version (None: of any) and is not packed: what `require_blob` says,
        without a look into the catalog."""
        index = self._index
        known = sha256 in (index.roles if version is None else index.blobs.get(version, ()))
        return self._read_at is not None and known and not self._store.is_packed(sha256)

    def pack(self, version: Version, idle: Collection[Version]) -> int:
        """Stop giving a version's blobs that are of no version beside the `idle` ones, and pack them; the bytes that
        this freed. Whoever asks for one by `require_blob` brings it back."""
        ids, freed = {row.id for row in idle}, 0
        rows = [row for image in self._catalog.images() for row in image.versions if row.id not in ids]
        busy = {blob.sha256 for row in rows for blob in _blobs(row)}
        for blob in _blobs(version):
            if not blob.chunks or blob.sha256 in busy or self._store.is_packed(blob.sha256):
                continue
            with self._giving:
                self._given.pop(blob.info_hash, None)
                self._seeder.remove(blob.info_hash)
            try:
                freed += self._store.pack(blob.sha256)
            finally:
                self._give(version)  # what stays as it is
        return freed

    def info_hashes(self, version: str | None) -> frozenset[bytes]:
        """The info-hashes of a version (None: of all): 20 bytes each, v1 and the first 20 of v2 (BEP 52)."""
        index = self._fresh(lambda index: version is None or version in index.hashes)
        if version is not None:
            return frozenset(index.hashes.get(version, ()))
        return frozenset(found for known in index.hashes.values() for found in known)

    def info_hashes_at_hand(self, version: str) -> frozenset[bytes] | None:
        """As `info_hashes` where that needs no look into the catalog, else None; never waits."""
        found = self._index.hashes.get(version)
        return None if self._read_at is None or found is None else frozenset(found)

    def check_own_copy(self, version: str) -> None:
        """Have the seeder digest its own copy of a version again."""
        if info_hash := self._fresh(lambda index: version in index.carried).carried.get(version):
            self._seeder.check(info_hash)

    def _bring_back(self, sha256: str) -> None:
        """Make a packed blob a file again, and give it."""
        self._store.path(sha256)
        for image in self._catalog.images():
            for version in image.versions:
                if any(blob.sha256 == sha256 for blob in _blobs(version)):
                    self._give(version)

    def _give(self, version: Version) -> None:
        for blob in _blobs(version):
            if blob.info_hash:
                with self._giving:
                    self._tracker.serve(blob.info_hash, blob.info_hash_v1)
                try:
                    torrent = self._store.torrent(blob.sha256).read_bytes()
                except FileNotFoundError:
                    raise RookeryError(
                        f"the torrent of blob {blob.sha256[:12]} is gone", kind=ErrorKind.NOT_FOUND
                    ) from None
                if not self._store.is_packed(blob.sha256):  # else when somebody asks for it
                    self._add(blob, torrent)

    def _add(self, blob: Blob, torrent: bytes) -> None:
        path = self._store.path(blob.sha256)
        with self._giving:
            file = _file(path)
            before = self._given.get(blob.info_hash)
            if before is not None and (file != before or self._is_bad(blob.info_hash)):
                log.info("the file of blob %s is another one now: it is given anew", blob.sha256[:12])
                self._seeder.remove(blob.info_hash)
            self._seeder.add(path, torrent)
            self._given[blob.info_hash] = file

    def _is_bad(self, info_hash: str) -> bool:
        return any(given.bad_pieces for given in self._seeder.stats() if given.info_hash == info_hash)

    def _forget(self) -> None:
        with self._lock:
            self._read_at = None

    def _fresh(self, knows: Callable[[_Index], bool]) -> _Index:
        with self._lock:
            now = self._clock()
            if self._read_at is None or (now - self._read_at >= AGAIN_SECONDS and not knows(self._index)):
                self._index = self._read()
                self._read_at = now
            return self._index

    def _read(self) -> _Index:
        index = _Index()
        for image in self._catalog.images():
            for version in image.versions:
                for blob in _blobs(version):
                    index.roles.setdefault(blob.sha256, set()).add(blob.role)
                    index.blobs.setdefault(version.id, set()).add(blob.sha256)
                    hashes = index.hashes.setdefault(version.id, set())
                    hashes.update(bytes.fromhex(text)[:20] for text in (blob.info_hash, blob.info_hash_v1) if text)
                    if blob.info_hash:
                        index.carried[version.id] = blob.info_hash
        return index


# What tells a file from another one that took its name: device, inode, time of its last change in nanoseconds. None:
# there is no file.
_File = tuple[int, int, int] | None


def _file(path: Path) -> _File:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _blobs(version: Version) -> tuple[Blob, ...]:
    return manifest(version).blobs


def _no_blob(sha256: str) -> RookeryError:
    return RookeryError(f"no blob {sha256[:64]!r}", kind=ErrorKind.NOT_FOUND)
