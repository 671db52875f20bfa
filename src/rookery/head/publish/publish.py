# SPDX-License-Identifier: Apache-2.0
"""Publishing: something becomes a signed, immutable version.

The order is the guarantee: blobs, then their torrents, then (last, in one transaction) the catalog's row. What is cut
off before that, by a full disk or by a kill, is no version; blobs that belong to none are removed by `sweep`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Origin, Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish import tree
from rookery.head.publish.pieces import Digester, PieceDigests
from rookery.head.publish.site import SiteKey, is_signed
from rookery.head.publish.store import BlobStore
from rookery.head.publish.verify import info_hash_of
from rookery.log import logger
from rookery.wire.chunks import dump
from rookery.wire.manifest import Blob, Manifest, Role, VersionKind, parse_payload, require_name, version_id

log = logger(__name__)

INDEX_SECONDS = 366 * 86400.0  # for which the chunk index of a removed blob is kept
# Kernel and drivers are asked for by firmware, which knows only HTTP.
SWARMED = (Role.ROOT, Role.DATA)


@dataclass(frozen=True)
class MadeTorrent:
    """A torrent file's bytes, its v2 info-hash (64 hex digits) and its v1 info-hash (40 hex digits)."""

    torrent: bytes
    info_hash: str
    info_hash_v1: str


# (file, the name it has for people, progress, cancel, digests) -> torrent. Made by head/swarm/torrent.py.
TorrentMaker = Callable[[Path, str, OnProgress, threading.Event, PieceDigests | None], MadeTorrent]


@dataclass(frozen=True)
class _Part:
    """A file that becomes a blob. ours: it was made for this, and may be moved."""

    role: Role
    name: str
    path: Path
    ours: bool


@dataclass(frozen=True)
class Imported:
    """What a capsule tells of its version besides the manifest. origin: None for one that this site exported itself."""

    recipe: str
    packages: dict[str, str]
    origin: Origin | None


class Publisher:
    """Publishes images, files and trees. One publication at a time: others wait."""

    def __init__(self, store: BlobStore, key: SiteKey, catalog: Catalog, make_torrent: TorrentMaker) -> None:
        self._store, self._key, self._catalog, self._make_torrent = store, key, catalog, make_torrent
        self._one_at_a_time = threading.Lock()
        self._sweep_later = False

    def image(
        self,
        name: str,
        built: BuiltImage,
        recipe_text: str,
        tag: str | None,
        on_progress: OnProgress,
        cancel: threading.Event,
    ) -> Version:
        """Publish a built image under `name`; its files are moved away, and so gone from where they were built.

        `tag` then means this version, and `latest` does not follow by itself. Content that was published before is the
        same version again: the tag moves, and a manifest that another site key signed is signed anew. Raises
        RookeryError: `invalid` name, `no-space`, `cancelled`; nothing is published then.
        """
        parts = (
            _Part(Role.ROOT, built.root.name, built.root, ours=True),
            _Part(Role.KERNEL, built.kernel.name, built.kernel, ours=True),
            _Part(Role.DRIVERS, built.drivers.name, built.drivers, ours=True),
        )

        def describe(blobs: tuple[Blob, ...]) -> Manifest:
            return Manifest(
                version=version_id(VersionKind.IMAGE, blobs),
                kind=VersionKind.IMAGE,
                image=name,
                created=int(time.time()),
                blobs=blobs,
                architecture=built.architecture,
                kernel_release=built.kernel_release,
            )

        with self._alone(cancel):
            return self._publish(name, parts, describe, tag, recipe_text, built.packages, on_progress, cancel)

    def path(
        self, source: Path, name: str, tag: str | None, on_progress: OnProgress, cancel: threading.Event
    ) -> Version:
        """Publish a file as it is, or a directory as a tar archive (see tree.py). `source` itself is only read.

        Raises as `image`, and `not-found`; `invalid` for what is neither, and for what tree.py refuses.
        """
        if not source.exists():
            raise RookeryError(f"there is nothing at {source}", kind=ErrorKind.NOT_FOUND)
        require_name(name, "image name")
        kind = VersionKind.TREE if source.is_dir() else VersionKind.FILE

        def describe(blobs: tuple[Blob, ...]) -> Manifest:
            return Manifest(version_id(kind, blobs), kind, name, int(time.time()), blobs)

        with self._alone(cancel), contextlib.ExitStack() as stack:
            if kind is VersionKind.FILE:
                part = _Part(Role.DATA, require_name(source.name, "file name"), source, ours=False)
            else:
                archive = stack.enter_context(self._store.incoming())
                with _no_space_explained(self._store.directory):
                    tree.pack(source, archive, on_progress, cancel)
                part = _Part(Role.DATA, "tree.tar", archive, ours=True)
            return self._publish(name, (part,), describe, tag, "", {}, on_progress, cancel)

    def imported(
        self,
        name: str,
        manifest: Manifest,
        parts: Mapping[Role, Path],
        version: Imported,
        tag: str | None,
        on_progress: OnProgress,
        cancel: threading.Event,
    ) -> Version:
        """Publish what another site built and signed, under `name` and signed by this site's key; the files of `parts`
        are moved away. Its id is what it was there, and so is the time when it was built. Raises as `image`."""

        def describe(blobs: tuple[Blob, ...]) -> Manifest:
            return dataclasses.replace(manifest, image=name, blobs=blobs)

        moved = tuple(_Part(blob.role, blob.name, parts[blob.role], ours=True) for blob in manifest.blobs)
        with self._alone(cancel):
            return self._publish(
                name, moved, describe, tag, version.recipe, version.packages, on_progress, cancel, version.origin
            )

    def drivers(self, reference: str) -> Path | None:
        """The drivers of the image that `reference` means, which may go at any time; None when it has none that are
        whole."""
        with contextlib.suppress(RookeryError, OSError):
            version = self._catalog.resolve(reference)
            digest = parse_payload(version.manifest.signed_bytes).blob(Role.DRIVERS).sha256
            path = self._store.path(digest)
            return path if files.sha256_file(path) == digest else None
        return None

    def sweep(self, *, wait: bool = True) -> tuple[str, ...]:
        """Remove blobs that belong to no version, as a killed publication or a removed image leaves them.

        Their chunk indexes, a thousandth of them, stay for a year: nodes that still hold such a blob are updated by
        them. Returns the digests. Waits for a publication that is under way; or, without `wait`, leaves it to that
        one's end and returns nothing.
        """
        self._sweep_later = True
        if not self._one_at_a_time.acquire(blocking=wait):
            return ()
        try:
            self._sweep_later = False
            used = {blob.sha256 for blob in self._blobs()}
            orphans = tuple(digest for digest in self._store.digests() if digest not in used)
            for digest in orphans:
                self._store.remove(digest, keep_index=True)
            self._store.forget_indexes(time.time() - INDEX_SECONDS)
        finally:
            self._one_at_a_time.release()
        if orphans:
            log.info("removed %d blobs that belong to no version", len(orphans))
        # Somebody found this sweep in the way, when it had looked already.
        return orphans + (self.sweep(wait=False) if self._sweep_later else ())

    def _publish(
        self,
        name: str,
        parts: tuple[_Part, ...],
        describe: Callable[[tuple[Blob, ...]], Manifest],
        tag: str | None,
        recipe: str,
        packages: dict[str, str],
        on_progress: OnProgress,
        cancel: threading.Event,
        origin: Origin | None = None,
    ) -> Version:
        require_name(name, "image name")
        if tag is not None:
            require_name(tag, "tag")
        before = set(self._store.digests())
        brought: list[str] = []
        try:
            blobs = tuple(self._bring(part, brought, on_progress, cancel) for part in parts)
            manifest = describe(blobs)
            if cancel.is_set():
                raise RookeryError("publishing was cancelled", kind=ErrorKind.CANCELLED)
            on_progress(Progress("publishing", 1, 1))
            signed = self._key.sign(manifest)
            version = Version(
                id=manifest.version,
                image=name,
                kind=manifest.kind,
                published_at=time.time(),
                size=sum(blob.size for blob in blobs),
                manifest=signed,
                recipe=recipe,
                packages=packages,
                origin=origin,
            )
            self._catalog.add_version(version, tag)
        except BaseException:
            for digest in set(brought) - before:
                self._store.remove(digest)
            raise
        self._sign_anew(manifest)
        # The catalog keeps the first publication of a version: that one is the truth.
        return next(known for known in self._catalog.image(name).versions if known.id == manifest.version)

    def _sign_anew(self, manifest: Manifest) -> None:
        """Replace stored manifests of this version that the site's key of today did not sign, under whatever name: a
        node may be given any of them, and it believes that key alone. What they say is of the content just read."""
        for image in self._catalog.images():
            for known in image.versions:
                if known.id == manifest.version and not is_signed(known.manifest, self._key.public):
                    signed = self._key.sign(dataclasses.replace(manifest, image=image.name))
                    self._catalog.replace_manifest(image.name, known.id, signed)
                    log.info("the manifest of %s@%s is signed anew", image.name, known.id[:12])

    def _bring(self, part: _Part, brought: list[str], on_progress: OnProgress, cancel: threading.Event) -> Blob:
        swarmed = part.role in SWARMED
        digester = Digester(_size(part.path)) if swarmed else None
        digest, size = self._store.put(
            part.path, on_progress, cancel, move=part.ours, also=digester.add if digester else None
        )
        brought.append(digest)
        if digester is None or size == 0:  # a torrent cannot carry nothing
            return Blob(part.role, part.name, size, digest)
        if not digester.right:
            raise RookeryError(
                f"{part.path} changed while it was read",
                kind=ErrorKind.INVALID,
                hint="publish it again when nothing writes to it any more",
            )
        published = [known for known in self._blobs() if known.sha256 == digest and known.info_hash]
        pieces = digester.pieces()
        torrent = self._torrent(part, digest, published, pieces, on_progress, cancel)
        index = self._index(digest, published, digester)
        return Blob(part.role, part.name, size, digest, *torrent, index, pieces.root.hex())

    def _torrent(
        self,
        part: _Part,
        digest: str,
        published: list[Blob],
        digests: PieceDigests,
        on_progress: OnProgress,
        cancel: threading.Event,
    ) -> tuple[str, str]:
        """See that the blob's torrent is stored; its info-hashes, v2 and v1."""
        for known in published:
            # The same bytes in another version, or this one again.
            if self._has_torrent(known):
                return known.info_hash, known.info_hash_v1
        # A torrent that is gone must come back as manifests name it, and a name in it is of whichever was published
        # first: it may be another one than this part's.
        for name in dict.fromkeys([*(known.name for known in reversed(published)), part.name]):
            made = self._make_torrent(self._store.path(digest), name, on_progress, cancel, digests)
            if made.info_hash in {known.info_hash for known in published}:
                break
        self._store.put_torrent(digest, made.torrent)
        return made.info_hash, made.info_hash_v1

    def _index(self, digest: str, published: list[Blob], digester: Digester) -> str:
        """See that the blob's chunk index is stored; its SHA-256."""
        for known in published:
            if known.chunks and self._has_index(known):
                return known.chunks
        index = dump(digester.index(digest))
        self._store.put_chunks(digest, index)
        return hashlib.sha256(index).hexdigest()

    def _has_torrent(self, blob: Blob) -> bool:
        try:
            return info_hash_of(self._store.torrent(blob.sha256).read_bytes()) == blob.info_hash
        except (OSError, ValueError):
            return False

    def _has_index(self, blob: Blob) -> bool:
        try:
            return hashlib.sha256(self._store.chunks(blob.sha256).read_bytes()).hexdigest() == blob.chunks
        except OSError:
            return False

    def _blobs(self) -> Iterator[Blob]:
        for image in self._catalog.images():
            for version in image.versions:
                yield from parse_payload(version.manifest.signed_bytes).blobs

    @contextlib.contextmanager
    def _alone(self, cancel: threading.Event) -> Iterator[None]:
        while not self._one_at_a_time.acquire(timeout=0.2):
            if cancel.is_set():
                raise RookeryError("publishing was cancelled", kind=ErrorKind.CANCELLED)
        try:
            yield
        finally:
            self._one_at_a_time.release()
            if self._sweep_later:
                self.sweep(wait=False)


def _size(path: Path) -> int:
    """Bytes of a file; 0 when there is none: the store says what is wrong with it."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _no_space_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise RookeryError(
            f"cannot write an archive in {directory}: {error.strerror}",
            kind=ErrorKind.NO_SPACE if error.errno in (27, 28, 122) else ErrorKind.FAILED,  # EFBIG, ENOSPC, EDQUOT
            hint="free some space there; nothing was published",
        ) from error
