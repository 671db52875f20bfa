# SPDX-License-Identifier: Apache-2.0
"""Builders: who can turn a recipe into a root tree. A plug-in point.

A builder is a class with `check` and `build` (see `Builder`), made without arguments. Another distribution's builder is
added by an entry point in the group `rookery.builders`, whose name is the recipe's `distribution`. Sources that are no
package list have builders too: `container`, `archive`, `from`.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress

GROUP = "rookery.builders"
OURS = tuple(
    EntryPoint(name, f"rookery.head.build.{place}", GROUP)
    for place, names in (
        ("deb:DebBuilder", ("debian", "ubuntu")),
        ("rpm:RpmBuilder", ("rocky", "almalinux", "centos", "rhel", "fedora", "opensuse")),
        ("container:ContainerBuilder", ("container",)),
        ("archive:ArchiveBuilder", ("archive",)),
        ("layer:LayerBuilder", ("from",)),
    )
    for name in names
)

# What tools are told for "now" (SOURCE_DATE_EPOCH, reproducible-builds.org), so that dates they write into files, such
# as the day of a password in /etc/shadow, are the same in every build: 2020-01-01, seconds since 1970.
SOURCE_DATE = 1_577_836_800


class OpenTree(Protocol):
    """A root tree that is there only for as long as something is held open, such as a mount."""

    @property
    def tree(self) -> Path:
        """Where it is."""

    def kept_when_failed(self, destination: Path) -> contextlib.AbstractContextManager[None]:
        """Close it when the block fails, and leave a copy in the directory `destination` unless it was cancelled."""

    def close(self) -> None:
        """Let go of it. May be called again."""


@dataclass(frozen=True)
class BuiltTree:
    """A root tree that is there. packages: name -> version. notes: what a person should know about it. architecture: as
    in `uname -m`, where the source has one of its own; empty: the recipe's. layer: where the tree is, when it is not in
    `site.tree`; whoever gets it closes it."""

    packages: dict[str, str]
    notes: tuple[str, ...] = ()
    architecture: str = ""
    layer: OpenTree | None = None


@dataclass(frozen=True)
class BasePart:
    """The root of a published image, to build upon. path: its squashfs, which is only read. packages: name -> version.
    version: its id. architecture: as in `uname -m`."""

    path: Path
    packages: dict[str, str]
    version: str
    architecture: str


Base = Callable[[str], BasePart]


def no_base(reference: str) -> BasePart:
    """The `base` of those who have no catalog."""
    raise RookeryError(f"there are no images to find {reference!r} in", kind=ErrorKind.NOT_FOUND)


@dataclass(frozen=True)
class BuildSite:
    """Where and with what a builder works.

    tree: where the root is to be, not there yet. scratch: an empty directory for the builder, removed after it.
    on_progress, cancel: as everywhere. network_namespace: path of the network namespace to fetch in; empty: this
    process's own. base: gives the published image that a reference means, or raises RookeryError `not-found`.
    """

    tree: Path
    scratch: Path
    on_progress: OnProgress
    cancel: threading.Event
    network_namespace: str = ""
    base: Base = no_base


@runtime_checkable
class Builder(Protocol):
    """Makes root trees of one distribution, or from one kind of source."""

    def check(self, recipe: Recipe) -> None:
        """Refuse, before anything is done, what this builder cannot build here. Raises RookeryError."""

    def build(self, recipe: Recipe, site: BuildSite) -> BuiltTree:
        """Make the recipe's root in `site.tree`.

        The source, then packages, then files, then commands. Everything that is random, of this machine or of this hour
        and special to the package system is cleaned by the builder; what any distribution has (machine-id, host keys,
        logs) is cleaned by the caller, and so are times. Leaves no mount and no process, however it ends.
        Raises RookeryError; `cancelled` when `site.cancel` was set.
        """


def find(name: str) -> Builder:
    """The builder of a name (`Recipe.builder`). Raises RookeryError `invalid`, listing those there are."""
    points = {point.name: point for point in (*entry_points(group=GROUP), *OURS)}
    if name not in points:
        close = difflib.get_close_matches(name, points, 1)
        raise RookeryError(
            f"no builder for {name!r}",
            kind=ErrorKind.INVALID,
            details=f"there are builders for {', '.join(sorted(points))}",
            hint=f"did you mean {close[0]!r}?" if close else f"others are added by entry points in {GROUP!r}",
        )
    builder = points[name].load()()
    if not isinstance(builder, Builder):
        raise RookeryError(
            f"{points[name].value} is not a builder: it has no 'check' and 'build'", kind=ErrorKind.INTERNAL
        )
    return builder
