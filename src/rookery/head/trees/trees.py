# SPDX-License-Identifier: Apache-2.0
"""The working trees of a head: opening, listing, publishing, removing.

A tree is the directory `NAME/root` below the head's directory of trees, with `NAME/state.json` and `NAME/lock` beside
it. It is there when its state is: that is written last, and removed first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rookery import acls, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import identity, image, installed
from rookery.head.build.apart import require_root
from rookery.head.build.builder import BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish.changes import WORKING_TREE
from rookery.head.publish.publish import Publisher
from rookery.head.publish.store import BlobStore
from rookery.head.trees import lock, resolver, rules
from rookery.head.trees import state as states
from rookery.head.trees.lock import Holder
from rookery.head.trees.state import ROOT, STATE, TreeState
from rookery.log import logger
from rookery.run import RunError, run, which
from rookery.wire.manifest import Role, VersionKind, parse_payload, require_name, require_sha256

log = logger(__name__)

_FULL = 1 << 20  # bytes left: a file system with less is full
_UNPACKING = "unpacking the root"


@dataclass(frozen=True)
class Tree:
    """A working tree as it is listed. changed: whether its root is another than when it was last opened or published.
    holder: who works in it now."""

    name: str
    place: Path
    state: TreeState
    changed: bool
    holder: Holder | None

    @property
    def root(self) -> Path:
        """The root itself."""
        return self.place / ROOT


class Trees:
    """The trees below `directory`; `work` is scratch on the same file system."""

    def __init__(self, directory: Path, work: Path, catalog: Catalog, store: BlobStore, publisher: Publisher) -> None:
        self.directory = directory
        self._work, self._catalog, self._store, self._publisher = work, catalog, store, publisher

    def all(self) -> tuple[Tree, ...]:
        """Every tree there is, by name."""
        if not self.directory.is_dir():
            return ()
        names = sorted(path.name for path in self.directory.iterdir() if (path / STATE).is_file())
        found = []
        for name in names:
            with contextlib.suppress(RookeryError):  # removed meanwhile
                found.append(self.tree(name))
        return tuple(found)

    def tree(self, name: str) -> Tree:
        """One tree. Raises RookeryError `not-found`."""
        place = self.place(name)
        state = states.load(place)
        return Tree(name, place, state, _is_changed(place, state), lock.holder(place))

    def place(self, name: str) -> Path:
        """The directory of an image's tree, or where it would be."""
        return self.directory / require_name(name, "image name")

    def free(self, name: str) -> None:
        """Raise `conflict` when somebody works in the tree: for an answer before a job is begun."""
        if present := lock.holder(self.place(name)):
            raise RookeryError(
                f"the working tree of {name} is in use: {present.shown}",
                kind=ErrorKind.CONFLICT,
                hint=lock.WAIT,
            )

    def open(self, reference: str, on_progress: OnProgress, cancel: threading.Event) -> TreeState:
        """Make the tree of the image that `reference` means; the one that is there, when it is of that version.

        Raises RookeryError: `conflict` when there is a tree of another version; `invalid` for what is no image,
        `missing`, `no-space`, `cancelled`: there is no tree then.
        """
        version = self._catalog.resolve(reference)
        place = self.place(version.image)
        if version.kind is not VersionKind.IMAGE:
            raise RookeryError(f"{reference} is a {version.kind}, not an image", kind=ErrorKind.INVALID)
        with self.held(version.image, "open"):
            if (place / STATE).exists():
                there = states.load(place)
                if there.version == version.id:
                    return there
                raise RookeryError(
                    f"there is a working tree of {version.image} already: {there.origin}",
                    kind=ErrorKind.CONFLICT,
                    hint=f"publish it, or 'rookery image close {version.image}' gives it up",
                )
            self._unpack(self._squashfs(version), place, on_progress, cancel)
            origin = f"{version.image}@{version.id[:12]}"
            now = time.time()
            state = TreeState(
                id=secrets.token_hex(8),
                origin=origin,
                opened_at=now,
                started=now,
                version=version.id,
                architecture=parse_payload(version.manifest.signed_bytes).architecture,
                recipe=version.recipe,
                fingerprint=states.fingerprint(place / ROOT),
            )
            states.save(place, state)
        return state

    def publish(self, name: str, tag: str, on_progress: OnProgress, cancel: threading.Event) -> Version:
        """Make the tree a version, which `tag` means then; the tree stays.

        What must not travel is taken out of the tree itself, so that it is what was published. Raises RookeryError:
        `conflict` when somebody works in it, or a capture was cut off; as finishing and publishing do.
        """
        require_name(tag, "tag")
        states.load(self.place(name))
        with self.held(name, "publish"):
            return self.publish_held(name, tag, on_progress, cancel)

    def publish_held(self, name: str, tag: str, on_progress: OnProgress, cancel: threading.Event) -> Version:
        """As `publish`, by whoever holds the tree."""
        place = self.place(name)
        state, root = states.load(place), place / ROOT
        if not state.complete:
            raise RookeryError(
                f"the working tree of {name} is not complete: a capture of {state.origin} was cut off",
                kind=ErrorKind.CONFLICT,
                hint="capture again: it goes on where it was",
            )
        image.require_programs()
        identity_rules = rules.of(state.recipe)
        identity.remove(root, rules.CACHES, [pattern.strip("/") for pattern in identity_rules.keep])
        recipe = Recipe(architecture=state.architecture, identity=identity_rules)
        with image.site(self._work) as site:
            found = BuiltTree(installed.packages(root), architecture=state.architecture)
            earlier = self._publisher.drivers(state.version) if state.version else None
            built = image.finish(root, site, recipe, found, state.started, on_progress, cancel, earlier)
        try:
            version = self._publisher.image(name, built, _recipe_text(state), tag, on_progress, cancel)
        finally:
            built.discard()
        for note in built.notes:
            self._catalog.add_event(f"image:{name}", "note", note)
        states.save(place, replace(state, version=version.id, fingerprint=states.fingerprint(root)))
        return version

    def close(self, name: str) -> None:
        """Remove a tree. Raises RookeryError: `not-found`, `conflict` when somebody works in it."""
        place = self.place(name)
        states.load(place)
        with self.held(name, "close"):
            (place / STATE).unlink()
            going = Path(tempfile.mkdtemp(dir=self.directory, prefix=".closed-"))
            os.rename(place, going / name)
        shutil.rmtree(going)

    def known(self, version_id: str) -> Version | None:
        """The version of an image of which only the id is said, when this head has it."""
        try:
            version = self._catalog.resolve(require_sha256(version_id, "version"))
        except (RookeryError, ValueError):
            return None
        return version if version.kind is VersionKind.IMAGE else None

    def unpack(self, version: Version, place: Path, on_progress: OnProgress, cancel: threading.Event) -> None:
        """Put the root of a version into a tree that is held, to begin with."""
        self._unpack(self._squashfs(version), place, on_progress, cancel)

    @contextlib.contextmanager
    def held(self, name: str, what: str) -> Iterator[int]:
        """Hold a tree, which need not be there yet, and tidy up what a killed holder left. See lock.hold."""
        place = self.place(name)
        place.mkdir(parents=True, exist_ok=True)
        try:
            with lock.hold(place, what) as handle:
                resolver.give_back(place, place / ROOT)
                yield handle
        finally:
            _drop_if_none(place)

    def _squashfs(self, version: Version) -> Path:
        return self._store.path(parse_payload(version.manifest.signed_bytes).blob(Role.ROOT).sha256)

    def _unpack(self, squashfs: Path, place: Path, on_progress: OnProgress, cancel: threading.Event) -> None:
        if which("unsquashfs") is None:
            raise RookeryError(
                "opening an image needs unsquashfs, which is not installed",
                kind=ErrorKind.MISSING,
                hint="apt install squashfs-tools",
            )
        require_root("opening an image")
        root = place / ROOT
        shutil.rmtree(root, ignore_errors=True)
        total, size = _contents(squashfs)
        files.require_space(place, size, f"the working tree of {place.name}")
        done = 0

        def line(_text: str) -> None:
            nonlocal done
            done += 1
            if done % 100 == 0:
                on_progress(Progress(_UNPACKING, min(done, total), total))

        on_progress(Progress(_UNPACKING, 0, total))
        try:
            with squashfs.open("rb") as held:  # so that it is there to the end, also when nobody else needs the version
                path = f"/proc/{os.getpid()}/fd/{held.fileno()}"
                run(["unsquashfs", "-info", "-no-progress", "-dest", root, path], on_line=line, cancel=cancel)
            acls.restore(root)
        except BaseException as error:
            full = shutil.disk_usage(place).free < _FULL  # unsquashfs does not say why it could not write
            shutil.rmtree(root, ignore_errors=True)
            if isinstance(error, RunError) and full:
                raise RookeryError(
                    f"no space left for the working tree of {place.name} in {place.parent}",
                    kind=ErrorKind.NO_SPACE,
                    hint="free some space there; 'rookery image trees' lists the trees there are",
                ) from error
            raise


def sweep(directory: Path) -> None:
    """Remove what is left in a directory of trees of those whose making or removal was cut off."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name.startswith("."):
            shutil.rmtree(path, ignore_errors=True)
        else:
            _drop_if_none(path)


def _drop_if_none(place: Path) -> None:
    """Remove the directory when it holds no tree and nobody is at work there."""
    with contextlib.suppress(RookeryError, FileNotFoundError):
        if place.is_dir() and not (place / STATE).exists():
            with lock.hold(place, "tidy up"):
                if not (place / STATE).exists():
                    shutil.rmtree(place, ignore_errors=True)


def _is_changed(place: Path, state: TreeState) -> bool:
    try:
        return states.fingerprint(place / ROOT) != state.fingerprint
    except FileNotFoundError:  # something was removed while we looked
        return True


def _contents(squashfs: Path) -> tuple[int, int]:
    """How many entries a squashfs has, and at least how many bytes they take: those of its own file."""
    said = run(["unsquashfs", "-stat", squashfs]).stdout
    inodes = next((line.split()[-1] for line in said.splitlines() if line.startswith("Number of inodes")), "0")
    return int(inodes), squashfs.stat().st_size


def _recipe_text(state: TreeState) -> str:
    """The recipe as the version remembers it: where the tree came from, and what that was made of."""
    lines = [line for line in state.recipe.splitlines(keepends=True) if not line.startswith(WORKING_TREE)]
    return f"{WORKING_TREE}{state.origin}\n{''.join(lines)}"
