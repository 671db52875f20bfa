# SPDX-License-Identifier: Apache-2.0
"""From a recipe to the three files of an image: root, kernel and drivers."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rookery import acls, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apart, builder, drivers, identity, kept, kernel, mend, squashfs
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress, Progress, silent
from rookery.log import logger
from rookery.run import RunError

log = logger(__name__)

ROOT, KERNEL, DRIVERS = "root.squashfs", "kernel", "drivers.cpio"
FAILED = "failed-build"  # and the name of the image: the roots of failed builds in the work directory
SPACE = 1 << 30  # bytes that a small image takes while it is built
_PROGRAMS = {
    "mksquashfs": "squashfs-tools",
    "cpio": "cpio",
    "gzip": "gzip",
    "zstd": "zstd",
    "depmod": "kmod",
    "modinfo": "kmod",
}


@dataclass(frozen=True)
class BuiltImage:
    """A built image. root, kernel, drivers: its files, all in one directory below the work directory, which belongs to
    the caller now (`discard`). kernel_release: as in `uname -r`. architecture: as in `uname -m`. packages: name ->
    version. notes: what a person should know (firmware left out, for one)."""

    root: Path
    kernel: Path
    drivers: Path
    kernel_release: str
    architecture: str
    packages: dict[str, str]
    notes: tuple[str, ...] = ()

    def discard(self) -> None:
        """Remove what is left of the files: after publishing, or instead of it."""
        shutil.rmtree(self.root.parent, ignore_errors=True)


def build(
    recipe: Recipe,
    work: Path,
    on_progress: OnProgress = silent,
    cancel: threading.Event | None = None,
    network_namespace: str = "",
    base: builder.Base = builder.no_base,
    name: str = "",
    earlier: Path | None = None,
) -> BuiltImage:
    """Build an image; the same recipe and the same packages give the same bytes.

    work: scratch space, which must allow device files and programs (1 GB and more). Every stage looks at `cancel`.
    network_namespace: path of the one in which package archives are reached; empty: this process's own. base: gives
    the published image that a reference means, for recipes on top of one. name: what the image will be called. earlier:
    see `finish`.
    A build that fails leaves its root tree, for a look, where the error says: the last one of each name, and of all
    names the newest few (kept.py); a cancelled one leaves nothing. Raises RookeryError.
    """
    cancel = cancel or threading.Event()
    chosen = builder.find(recipe.builder)
    chosen.check(recipe)
    require_programs()
    if network_namespace:
        _require_namespace(network_namespace)
    work.mkdir(parents=True, exist_ok=True)
    files.require_space(work, SPACE, "building an image")
    with site(work) as place, _kept_when_failed(place / "tree", work / failed(name)):
        tree, scratch = place / "tree", place / "scratch"
        scratch.mkdir()
        started = time.time()
        built = chosen.build(recipe, builder.BuildSite(tree, scratch, on_progress, cancel, network_namespace, base))
        shutil.rmtree(scratch)
        with _opened(built, tree) as root:
            image = finish(root, place, recipe, built, started, on_progress, cancel, earlier)
        on_progress(Progress("tidying up"))
        shutil.rmtree(tree, ignore_errors=built.layer is not None)
        _look(cancel)
        return image


@contextlib.contextmanager
def _opened(built: builder.BuiltTree, tree: Path) -> Iterator[Path]:
    """Where the built root is, for the time of the block."""
    if built.layer is None:
        yield tree
        return
    with built.layer.kept_when_failed(tree):
        yield built.layer.tree
    built.layer.close()


def finish(
    tree: Path,
    place: Path,
    recipe: Recipe,
    built: builder.BuiltTree,
    started: float,
    on_progress: OnProgress = silent,
    cancel: threading.Event | None = None,
    earlier: Path | None = None,
) -> BuiltImage:
    """From a root that is there to the files of an image, which are put into the directory `place` (see `site`).

    Takes identities out of `tree` and settles its times, and leaves it there. recipe: its identity rules and its
    architecture count. started: when work on the tree began, seconds since 1970 (identity.settle_times).
    earlier: the drivers of an earlier version; when they are the same again they need not be packed. Raises
    RookeryError: `invalid` for a tree without a kernel or for another architecture, `no-space`, `cancelled`.
    """
    with _full_explained(place):
        return _finish(tree, place, recipe, built, started, on_progress, cancel or threading.Event(), earlier)


def _finish(
    tree: Path,
    place: Path,
    recipe: Recipe,
    built: builder.BuiltTree,
    started: float,
    on_progress: OnProgress,
    cancel: threading.Event,
    earlier: Path | None,
) -> BuiltImage:
    _look(cancel)
    architecture = built.architecture or recipe.architecture
    mend.require_bootable(tree, architecture)
    mend.require_architecture(tree, architecture)
    on_progress(Progress("taking its identity away"))
    identity.neutralise(tree, recipe.identity)
    # Whatever directory it was made in: a / that others may not enter is none that a system runs on.
    tree.chmod(stat.S_IMODE(tree.stat().st_mode) | 0o555)
    acls.record(tree)
    epoch = identity.settle_times(tree, started)
    _look(cancel)
    found = kernel.find(tree)
    shutil.copyfile(found.image, place / KERNEL)
    packing = Progress("packing the drivers", line=found.release)
    on_progress(packing)
    # Compressing them well uses one processor: it is done beside the root, which uses all.
    with ThreadPoolExecutor(1) as beside:
        drivers_packed = beside.submit(drivers.pack, tree, found, place / DRIVERS, place, cancel, earlier)
        squashfs.pack(tree, place / ROOT, epoch, on_progress, cancel)
        if not drivers_packed.done():
            on_progress(packing)
        packed = drivers_packed.result()
    notes = built.notes
    if packed.left_out:
        notes += (
            f"{len(packed.left_out)} firmware files did not fit into the drivers ({drivers.FIRMWARE_MOST >> 20} MiB): "
            + ", ".join(packed.left_out[:10]),
        )
    return BuiltImage(place / ROOT, place / KERNEL, place / DRIVERS, found.release, architecture, built.packages, notes)


@contextlib.contextmanager
def site(work: Path) -> Iterator[Path]:
    """A new directory below `work` for one build. It stays when the block ends well, for the files of the image are in
    it, and goes with all in it otherwise. Raises RookeryError `no-space`."""
    work.mkdir(parents=True, exist_ok=True)
    files.require_space(work, SPACE, "building an image")
    place = Path(tempfile.mkdtemp(dir=work, prefix="build-"))
    # Archives are fetched, and the image's own users work, as others than root.
    place.chmod(0o755)
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def require_programs() -> None:
    """Check for what `finish` runs. Raises RookeryError `missing`, naming the package."""
    apart.require(_PROGRAMS, "building an image")


@contextlib.contextmanager
def _full_explained(place: Path) -> Iterator[None]:
    """A full disk is told as one, whoever of this process or the programs that it runs met it."""
    try:
        yield
    except RunError as error:
        if full := apart.full_disk(error, "make the image's files", place.parent):
            raise full from error
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RookeryError(
            f"no space left to make the image's files in {place.parent}",
            kind=ErrorKind.NO_SPACE,
            hint="free some space there, or move the directory to a larger file system",
        ) from error


def _require_namespace(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise RookeryError(
            f"cannot build through the network namespace {path}: {error.strerror}",
            kind=ErrorKind.INVALID,
            hint="correct 'network_namespace' in the head's configuration, table [build]",
        ) from error


def _look(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise RookeryError("the build was cancelled", kind=ErrorKind.CANCELLED)


def failed(name: str) -> str:
    """The directory in the work directory that keeps the root of an image whose build failed."""
    return f"{FAILED}-{name}" if name else FAILED


@contextlib.contextmanager
def _kept_when_failed(tree: Path, place: Path) -> Iterator[None]:
    """Move `tree` to `place` when the block fails, and say so in its error, which stays the same even when that fails,
    too; not when it was cancelled."""
    try:
        yield
    except (RookeryError, OSError) as error:
        if isinstance(error, RookeryError) and error.kind is ErrorKind.CANCELLED:
            raise
        if not tree.is_dir():
            raise
        said = f"the unfinished root is in {place}"
        try:
            kept.keep(tree, place, FAILED)
        except OSError as fault:
            said = f"the unfinished root could not be kept in {place}: {fault.strerror}"
        log.warning("the build failed; %s", said)
        if not isinstance(error, RookeryError):
            raise
        record = error.record
        raise RookeryError(
            record.message,
            kind=record.kind,
            details="\n".join(filter(None, [record.details, said])),
            hint=record.hint,
        ) from error
