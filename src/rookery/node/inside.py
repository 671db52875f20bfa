# SPDX-License-Identifier: Apache-2.0
"""Paths inside another root: an image's absolute symbolic link means a place in the image, not in the first root."""

from __future__ import annotations

import os
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError

MOST_LINKS = 40  # as the kernel


def inside(root: Path, path: str) -> Path:
    """Where `path` (absolute, as a process in `root` sees it) really lies, all symbolic links followed inside `root`.

    Parts that do not exist are taken as they are. Raises RookeryError `invalid` for links that go in circles.
    """
    pending = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part in (".", ".."):
            done = done[:-1] if part == ".." else done
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > MOST_LINKS:
            raise RookeryError(f"{path} in the image is a circle of symbolic links", kind=ErrorKind.INVALID)
        target = os.readlink(here)
        if target.startswith("/"):
            done = []
        pending += [piece for piece in target.split("/") if piece][::-1]
    return root.joinpath(*done)
