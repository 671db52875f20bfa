# SPDX-License-Identifier: Apache-2.0
"""What is different between two published versions: packages, files, and the bytes that an update has to move."""

from __future__ import annotations

import hashlib
import json
import stat
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish import changes, roots
from rookery.head.publish.changes import PackageChanges
from rookery.head.publish.store import BlobStore
from rookery.run import PIPE, RunError, run, spawn
from rookery.wire.chunks import parse
from rookery.wire.manifest import Blob, Manifest, Role, VersionKind, parse_payload

STAGE = "comparing files"
MOST = 20_000  # entries that are kept; the counts are of all


@dataclass(frozen=True)
class FileChange:
    """An entry that differs. before, after: as `ls -l` shows it, empty where there is none. what: `added`, `removed`,
    `type`, `content`, `target`, `device`, `mode`, `owner`, `attributes`."""

    path: str
    before: str
    after: str
    what: tuple[str, ...]


@dataclass
class FileChanges:
    """The entries that differ, in order: the first `MOST`; the counts are of all of them."""

    entries: list[FileChange] = field(default_factory=list)
    added: int = 0
    removed: int = 0
    changed: int = 0

    def take(self, change: FileChange) -> None:
        """Count one more, and keep it while there is room."""
        if "added" in change.what:
            self.added += 1
        elif "removed" in change.what:
            self.removed += 1
        else:
            self.changed += 1
        if len(self.entries) < MOST:
            self.entries.append(change)


@dataclass(frozen=True)
class Difference:
    """packages: as recorded when the versions were published. transfer: bytes of the blobs of the one after that the
    one before has not. size: of all blobs of the one after. blobs: names of those that differ. notes: what was not
    compared, and why."""

    packages: PackageChanges
    files: FileChanges
    transfer: int
    size: int
    blobs: tuple[str, ...]
    notes: tuple[str, ...]


def compare(
    before: Version,
    after: Version,
    store: BlobStore,
    scratch: Path,
    on_progress: OnProgress,
    cancel: threading.Event,
    *,
    with_files: bool = True,
) -> Difference:
    """Compare two versions. scratch: a directory that exists. Raises RookeryError; `cancelled`."""
    old, new = parse_payload(before.manifest.signed_bytes), parse_payload(after.manifest.signed_bytes)
    known = {blob.sha256 for blob in old.blobs}
    found, notes = FileChanges(), []
    if with_files:
        if old.kind is not new.kind:
            notes.append(f"files were not compared: one version is of kind {old.kind}, the other of kind {new.kind}")
        elif old.kind is VersionKind.IMAGE:
            one, two = (store.path(manifest.blob(Role.ROOT).sha256) for manifest in (old, new))
            if one != two:
                found = _roots(one, two, scratch, on_progress, cancel)
        elif old.kind is VersionKind.TREE:
            one, two = (store.path(manifest.blob(Role.DATA).sha256) for manifest in (old, new))
            if one != two:
                found = _archives(one, two, on_progress, cancel)
    return Difference(
        packages=changes.packages(before.packages, after.packages),
        files=found,
        transfer=transfer(old, new, store),
        size=sum(blob.size for blob in new.blobs),
        blobs=tuple(blob.name for blob in new.blobs if blob.sha256 not in known),
        notes=tuple(notes),
    )


def transfer(before: Manifest, after: Manifest, store: BlobStore) -> int:
    """How many bytes of the blobs of `after` somebody lacks who has those of `before`: by their chunk indexes, and of a
    blob that has none all bytes."""
    known = {blob.sha256 for blob in before.blobs}
    chunks: set[tuple[int, bytes]] = set()
    for blob in before.blobs:
        chunks.update((length, digest) for length, digest in _chunks(blob, store))
    total = 0
    for blob in after.blobs:
        if blob.sha256 in known:
            continue
        index = _chunks(blob, store)
        total += sum(length for length, digest in index if (length, digest) not in chunks) if index else blob.size
    return total


def _chunks(blob: Blob, store: BlobStore) -> list[tuple[int, bytes]]:
    """Length and digest of each chunk of a blob; nothing where there is no index, or not the one that was signed."""
    if not blob.chunks:
        return []
    try:
        data = store.chunks(blob.sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != blob.chunks:
            return []
        return [(length, digest) for _, length, digest in parse(data).chunks()]
    except (OSError, RookeryError):
        return []


def _roots(before: Path, after: Path, scratch: Path, on_progress: OnProgress, cancel: threading.Event) -> FileChanges:
    total = sum(_entries(path) for path in (before, after)) // 2
    found, lines = FileChanges(), []
    on_progress(Progress(STAGE, 0, total))
    with files.scratch_directory(scratch, "compare-") as place:
        here, there = place / "before", place / "after"
        here.mkdir()
        there.mkdir()
        argv = roots.program(before, after, here, there)
        # The very modules that run here, wherever they lie.
        env = {"PYTHONPATH": str(Path(roots.__file__).parents[3])}
        with (place / "said").open("w+b") as said, spawn(argv, stdout=PIPE, stderr=said, env=env) as child:
            stopper = _ending_when(cancel, child.terminate)
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    told = json.loads(line)
                    if "done" in told:
                        on_progress(Progress(STAGE, min(told["done"], total), total))
                    else:
                        what = tuple(told["what"])
                        found.take(FileChange(told["path"], told["before"], told["after"], what))
                code = child.wait()
            finally:
                stopper()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
    if cancel.is_set():
        raise RookeryError("comparing was cancelled", kind=ErrorKind.CANCELLED)
    if code != 0:
        raise RookeryError(
            "the roots cannot be compared: they could not be mounted and read",
            details="\n".join(lines[-5:]),
            hint="the head must run as root, on a kernel with squashfs and loop devices; --packages needs neither",
        )
    return found


def _ending_when(cancel: threading.Event, end: Callable[[], None]) -> Callable[[], None]:
    """Call `end` once `cancel` is set, until what is returned was called."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.1):
            if cancel.is_set():
                end()
                return

    thread = threading.Thread(target=watch, name="compare-watch", daemon=True)
    thread.start()

    def stop() -> None:
        finished.set()
        thread.join()

    return stop


def _entries(squashfs: Path) -> int:
    """About how many entries a squashfs has; 0 when nobody says so."""
    try:
        said = run(["unsquashfs", "-stat", squashfs], check=False).stdout
    except (RunError, RookeryError):
        return 0
    count = next((line.split()[-1] for line in said.splitlines() if line.startswith("Number of inodes")), "0")
    return int(count) if count.isdecimal() else 0


_Entry = tuple[str, str, str]  # a line as of `ls -l`, the digest of its content, its extended attributes


def _archives(before: Path, after: Path, on_progress: OnProgress, cancel: threading.Event) -> FileChanges:
    total = before.stat().st_size + after.stat().st_size
    old = _read(before, 0, total, on_progress, cancel)
    new = _read(after, before.stat().st_size, total, on_progress, cancel)
    found = FileChanges()
    for path in sorted(old.keys() | new.keys()):
        was, becomes = old.get(path), new.get(path)
        if was == becomes:
            continue
        if was is None or becomes is None:
            what: tuple[str, ...] = ("added" if was is None else "removed",)
        else:
            what = _what(was, becomes)
        found.take(FileChange(path, was[0] if was else "", becomes[0] if becomes else "", what))
    return found


def _what(was: _Entry, becomes: _Entry) -> tuple[str, ...]:
    (mode, owner, *_), (new_mode, new_owner, *_) = was[0].split(" ", 2), becomes[0].split(" ", 2)
    found = []
    if mode[0] != new_mode[0]:
        found.append("type")
    elif was[1] != becomes[1]:
        found.append("target" if mode[0] == "l" else "device" if mode[0] in "cb" else "content")
    if mode[1:] != new_mode[1:]:
        found.append("mode")
    if owner != new_owner:
        found.append("owner")
    if was[2] != becomes[2]:
        found.append("attributes")
    return tuple(found)


def _read(
    archive: Path, before: int, total: int, on_progress: OnProgress, cancel: threading.Event
) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    with tarfile.open(archive, "r:", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            if cancel.is_set():
                raise RookeryError("comparing was cancelled", kind=ErrorKind.CANCELLED)
            on_progress(Progress(STAGE, min(before + tar.offset, total), total, "bytes"))
            path = f"/{roots.shown(member.name.encode('utf-8', 'surrogateescape'))}".replace("/./", "/")
            if path == "/.":
                continue
            found[path] = _entry(tar, member, found)
    return found


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, known: dict[str, _Entry]) -> _Entry:
    if member.islnk():
        link = f"/{roots.shown(member.linkname.encode('utf-8', 'surrogateescape'))}"
        if link in known:
            return known[link]
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.FIFOTYPE: stat.S_IFIFO}
    kinds |= {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}
    parts = [stat.filemode(kinds.get(member.type, stat.S_IFREG) | member.mode), f"{member.uid}:{member.gid}"]
    content = ""
    if member.issym():
        content = f"-> {roots.shown(member.linkname.encode('utf-8', 'surrogateescape'))}"
        parts.append(content)
    elif member.ischr() or member.isblk():
        content = f"{member.devmajor},{member.devminor}"
        parts.append(content)
    elif member.isfile() and (source := tar.extractfile(member)) is not None:
        digest = hashlib.sha256()
        while block := source.read(files.BLOCK):
            digest.update(block)
        content = digest.hexdigest()
        parts.append(str(member.size))
    marks = [
        f"{name}={value}" for name, value in sorted(member.pax_headers.items()) if name.startswith("SCHILY.xattr.")
    ]
    return " ".join(parts), content, "\n".join(marks)
