# SPDX-License-Identifier: Apache-2.0
"""Finds files in a root tree as programs inside it would: a link never leads out of it, into the head's own files.

A root may come from anybody, and what is read out of it is published: a link to a secret of the head leads nowhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MOST_LINKS = 40  # as many as the kernel follows


def find(tree: Path, name: str) -> Path | None:
    """What is at the path `name` of the root `tree`: a path below `tree` without any link in it; None when there is
    nothing."""
    left, place, followed = name.split("/")[::-1], list[str](), 0
    while left:
        part = left.pop()
        if part in ("", ".", ".."):
            place = place[:-1] if part == ".." else place
            continue
        path = tree.joinpath(*place, part)
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return None
        if not stat.S_ISLNK(mode):
            place.append(part)
            continue
        followed += 1
        if followed > _MOST_LINKS:
            return None
        target = os.readlink(path)
        place = [] if target.startswith("/") else place
        left += target.split("/")[::-1]
    return tree.joinpath(*place)


def file(tree: Path, name: str) -> Path | None:
    """As `find`, for regular files only: reading another kind, such as a pipe, might never end."""
    found = find(tree, name)
    return found if found and stat.S_ISREG(os.lstat(found).st_mode) else None


def directory(tree: Path, name: str) -> Path | None:
    """As `find`, for directories only."""
    found = find(tree, name)
    return found if found and stat.S_ISDIR(os.lstat(found).st_mode) else None
