# SPDX-License-Identifier: Apache-2.0
"""Builds roots on top of published images: the base is mounted and never changed; a layer above it takes what is new.

The mounts (squashfs below, overlay above) belong to one process that this module holds by a pipe. When it is told to,
or when the head is killed, that process ends and its mounts with it; the head's own mounts are never touched. From
outside the merged tree is reached as /proc/PID/root/…, by the head itself, by mksquashfs and by inside.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from rookery import acls
from rookery.errors import ErrorKind, RookeryError, record_of
from rookery.head.build import apply, installed
from rookery.head.build.apart import PROGRAMS, apart, require, require_root
from rookery.head.build.builder import BuildSite, BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.progress import Progress
from rookery.log import logger
from rookery.run import BOUND, PIPE, Child, run, spawn

log = logger(__name__)

_READY = b"mounted\n"
# Relative names: an option of overlay has its own meaning for ':' and ','. index: hard links of the base stay together.
# redirect_dir: a directory of the base can be renamed. metacopy: a new time or owner copies no content.
_HOLD = """
set -eu
cd "$2"
mount -t squashfs -o ro,loop "$1" lower
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,index=on,redirect_dir=on,metacopy=on overlay merged
echo mounted
read -r _ || :
umount merged
umount lower
"""


class Layer:
    """A published root with a writable layer above it. tree: the two as one, for as long as the layer is open."""

    def __init__(self, base: Path, place: Path) -> None:
        """Mount `base` (a squashfs) below the directory `place`, which is not there yet and belongs to the layer.

        Raises RookeryError where this machine cannot mount it.
        """
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        self._place = place
        self._stack = contextlib.ExitStack()
        words: list[str | Path] = [
            *BOUND,
            *("unshare", "--mount", "--"),
            *("/bin/sh", "-c", _HOLD, "sh", base.absolute(), place.absolute()),
        ]
        self._child: Child = self._stack.enter_context(spawn(words, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        if self._child.stdout.readline() != _READY:
            said = self._child.stderr.read().decode(errors="replace").strip()
            self._stack.close()
            shutil.rmtree(place, ignore_errors=True)
            raise RookeryError(f"cannot mount {base} with a layer above it", details=said)
        seen = Path(f"/proc/{self._child.pid}/root{place.absolute()}")
        self.tree = seen / "merged"
        try:
            _copy_attributes(seen / "lower", self.tree)
        except OSError:
            self.close()
            raise

    @contextlib.contextmanager
    def kept_when_failed(self, destination: Path) -> Iterator[None]:
        """Close the layer when the block fails; and write the tree as it was to the directory `destination`, for a
        look at it, unless the block was cancelled."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, OSError | RookeryError) and record_of(error).kind is not ErrorKind.CANCELLED:
                run(["cp", "--archive", "--", self.tree, destination], check=False)
            self.close()
            raise

    def close(self) -> None:
        """Take the mounts down and remove the layer. May be called again."""
        with contextlib.suppress(OSError):
            assert self._child.stdin is not None
            self._child.stdin.close()
        with contextlib.suppress(Exception):
            self._child.wait(10)
        self._stack.close()
        shutil.rmtree(self._place, ignore_errors=True)


def _copy_attributes(source: Path, target: Path) -> None:
    """An overlay's own directory is the upper one: let it be as the one below."""
    state = os.stat(source)
    os.chown(target, state.st_uid, state.st_gid)
    os.chmod(target, stat.S_IMODE(state.st_mode))
    with contextlib.suppress(OSError):  # a squashfs without any attributes does not know the call
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))


class LayerBuilder:
    """Another image becomes a root, with the recipe's packages, files and commands added inside it."""

    def check(self, recipe: Recipe) -> None:  # noqa: ARG002 - which image it is does not matter yet
        """See Builder.check."""
        require_root("building an image")
        require({"unsquashfs": "squashfs-tools", **PROGRAMS}, "building on top of another image")

    def build(self, recipe: Recipe, site: BuildSite) -> BuiltTree:
        """See Builder.build."""
        site.tree.parent.chmod(0o700)
        base = site.base(recipe.from_image)
        site.on_progress(Progress("opening the image below", line=recipe.from_image))
        try:
            layer = Layer(base.path, site.tree.parent / "layer")
        except RookeryError as error:
            log.info("%s: %s; unpacking it instead", error, error.record.details)
            site.on_progress(Progress("unpacking the image below", line=recipe.from_image))
            run([*apart(), "unsquashfs", "-no-progress", "-d", site.tree, base.path], cancel=site.cancel)
            _apply(site.tree, recipe, site)
            return BuiltTree(installed.packages(site.tree, cancel=site.cancel), (), base.architecture)
        with layer.kept_when_failed(site.tree):
            _apply(layer.tree, recipe, site)
            return BuiltTree(installed.packages(layer.tree, cancel=site.cancel), (), base.architecture, layer)


def _apply(root: Path, recipe: Recipe, site: BuildSite) -> None:
    acls.restore(root)
    apply.apply(root, recipe, site.scratch, site.on_progress, site.cancel, site.network_namespace)
