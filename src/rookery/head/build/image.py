# SPDX-License-Identifier: Apache-2.0
"""From a recipe to the three files of an image: root, kernel and drivers."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder, drivers, identity, kernel, squashfs
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress, Progress, silent
from rookery.log import logger
from rookery.run import which

log = logger(__name__)

ROOT, KERNEL, DRIVERS = "root.squashfs", "kernel", "drivers.cpio"
FAILED = "failed-build"
SPACE = 1 << 30  # bytes that a small image takes while it is built
_PROGRAMS = {
    "mksquashfs": "squashfs-tools",
    "cpio": "cpio",
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
) -> BuiltImage:
    """Build an image; the same recipe and the same packages give the same bytes.

    work: scratch space, which must allow device files and programs (1 GB and more). Every stage looks at `cancel`.
    network_namespace: path of the one in which package archives are reached; empty: this process's own.
    A build that fails leaves its root tree, for a look, where the error says (only the last one is kept); a cancelled
    one leaves nothing. Raises RookeryError.
    """
    cancel = cancel or threading.Event()
    chosen = builder.find(recipe.distribution)
    chosen.check(recipe)
    for program, package in _PROGRAMS.items():
        if which(program) is None:
            raise RookeryError(
                f"building an image needs {program}, which is not installed",
                kind=ErrorKind.MISSING,
                hint=f"apt install {package}",
            )
    if network_namespace:
        _require_namespace(network_namespace)
    work.mkdir(parents=True, exist_ok=True)
    files.require_space(work, SPACE, "building an image")
    place = Path(tempfile.mkdtemp(dir=work, prefix="build-"))
    # Archives are fetched, and the image's own users work, as others than root.
    place.chmod(0o755)
    try:
        with _kept_when_failed(place / "tree", work / FAILED):
            return _build(recipe, chosen, place, on_progress, cancel, network_namespace)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _require_namespace(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise RookeryError(
            f"cannot build through the network namespace {path}: {error.strerror}",
            kind=ErrorKind.INVALID,
            hint="correct 'network_namespace' in the head's configuration, table [build]",
        ) from error


def _build(
    recipe: Recipe,
    chosen: builder.Builder,
    place: Path,
    on_progress: OnProgress,
    cancel: threading.Event,
    network_namespace: str,
) -> BuiltImage:
    tree, scratch = place / "tree", place / "scratch"
    scratch.mkdir()
    started = time.time()
    built = chosen.build(recipe, tree, scratch, on_progress, cancel, network_namespace)
    _look(cancel)
    on_progress(Progress("taking its identity away"))
    identity.neutralise(tree)
    epoch = identity.settle_times(tree, started)
    _look(cancel)
    found = kernel.find(tree)
    shutil.copyfile(found.image, place / KERNEL)
    on_progress(Progress("packing the drivers", line=found.release))
    packed = drivers.pack(tree, found, place / DRIVERS, scratch, epoch, cancel)
    squashfs.pack(tree, place / ROOT, epoch, on_progress, cancel)
    on_progress(Progress("tidying up"))
    shutil.rmtree(tree)
    shutil.rmtree(scratch)
    _look(cancel)
    notes = built.notes
    if packed.left_out:
        notes += (
            f"{len(packed.left_out)} firmware files did not fit into the drivers ({drivers.FIRMWARE_MOST >> 20} MiB): "
            + ", ".join(packed.left_out[:10]),
        )
    return BuiltImage(
        place / ROOT, place / KERNEL, place / DRIVERS, found.release, recipe.architecture, built.packages, notes
    )


def _look(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise RookeryError("the build was cancelled", kind=ErrorKind.CANCELLED)


@contextlib.contextmanager
def _kept_when_failed(tree: Path, kept: Path) -> Iterator[None]:
    """Move `tree` to `kept` when the block fails, and say so in the error; not when it was cancelled."""
    try:
        yield
    except (RookeryError, OSError) as error:
        if isinstance(error, RookeryError) and error.kind is ErrorKind.CANCELLED:
            raise
        if not tree.is_dir():
            raise
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(tree, kept)
        log.warning("the build failed; its root is kept in %s until the next one fails", kept)
        if not isinstance(error, RookeryError):
            raise
        record = error.record
        raise RookeryError(
            record.message,
            kind=record.kind,
            details="\n".join(filter(None, [record.details, f"the unfinished root is in {kept}"])),
            hint=record.hint,
        ) from error
