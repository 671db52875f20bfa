# SPDX-License-Identifier: Apache-2.0
"""Builders: who can turn a recipe into a root tree. A plug-in point.

A builder is a class with `check` and `build` (see `Builder`), made without arguments. Another distribution's builder is
added by an entry point in the group `rookery.builders`, whose name is the recipe's `distribution`.
"""

from __future__ import annotations

import difflib
import threading
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress

GROUP = "rookery.builders"
OURS = (EntryPoint("debian", "rookery.head.build.deb:DebBuilder", GROUP),)

# What tools are told for "now" (SOURCE_DATE_EPOCH, reproducible-builds.org), so that dates they write into files, such
# as the day of a password in /etc/shadow, are the same in every build: 2020-01-01, seconds since 1970.
SOURCE_DATE = 1_577_836_800


@dataclass(frozen=True)
class BuiltTree:
    """A root tree that is there. packages: name -> version. notes: what a person should know about it."""

    packages: dict[str, str]
    notes: tuple[str, ...] = ()


@runtime_checkable
class Builder(Protocol):
    """Makes root trees for one distribution."""

    def check(self, recipe: Recipe) -> None:
        """Refuse, before anything is done, what this builder cannot build here. Raises RookeryError."""

    def build(
        self,
        recipe: Recipe,
        tree: Path,
        scratch: Path,
        on_progress: OnProgress,
        cancel: threading.Event,
        network_namespace: str = "",
    ) -> BuiltTree:
        """Make the recipe's root in `tree`, which is not there yet; `scratch` is an empty directory for the builder.

        network_namespace: path of the network namespace to fetch packages in; empty: this process's own.

        Packages, then files, then commands. Everything that is random, of this machine or of this hour and special to
        the package system is cleaned by the builder; what any distribution has (machine-id, host keys, logs) is cleaned
        by the caller, and so are times. Leaves no mount and no process, however it ends.
        Raises RookeryError; `cancelled` when `cancel` was set.
        """


def find(distribution: str) -> Builder:
    """The builder for a recipe's `distribution`. Raises RookeryError `not-found`, listing those there are."""
    points = {point.name: point for point in (*entry_points(group=GROUP), *OURS)}
    if distribution not in points:
        close = difflib.get_close_matches(distribution, points, 1)
        raise RookeryError(
            f"no builder for the distribution {distribution!r}",
            kind=ErrorKind.NOT_FOUND,
            details=f"known distributions: {', '.join(sorted(points))}",
            hint=f"did you mean {close[0]!r}?" if close else f"others are added by entry points in {GROUP!r}",
        )
    builder = points[distribution].load()()
    if not isinstance(builder, Builder):
        raise RookeryError(
            f"{points[distribution].value} is not a builder: it has no 'check' and 'build'", kind=ErrorKind.INTERNAL
        )
    return builder
