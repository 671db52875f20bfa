# SPDX-License-Identifier: Apache-2.0
"""Paths inside a root that is not ours: followed as they would be inside it, and never out of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError

_MOST_LINKS = 40  # as the kernel (path_resolution(7))


@dataclass(frozen=True)
class Place:
    """Where a path leads. directory: file descriptor of the directory. name: the entry's name in it, which may not be
    there, and is no symbolic link. shown: the path in the root."""

    directory: int
    name: str
    shown: str


@contextlib.contextmanager
def place(root: Path, path: str, *, follow: bool = True) -> Iterator[Place]:
    """Where `path` (from the root's top, with or without a leading slash) leads inside `root`.

    Symbolic links count as inside the root: `/usr` is the root's. With `follow` false the last part may be a link.
    Raises RookeryError: `invalid` for a path that climbs above the root's top, by itself or by a link; `not-found` for
    a directory that is not there.
    """
    if not _parts(path) or "\0" in path:
        raise RookeryError(f"{path!r} names no file", kind=ErrorKind.INVALID)
    walk = _Walk(root, path)
    try:
        yield walk.to_the_end(follow=follow)
    finally:
        walk.close()


class _Walk:
    """The way through a root: open directories, from its top to where we are, and their names."""

    def __init__(self, root: Path, path: str) -> None:
        self._path = path
        self._opened = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._names: list[str] = []

    def to_the_end(self, *, follow: bool) -> Place:
        parts, links = _parts(self._path), 0
        while parts:
            part, *rest = parts
            if part == "..":
                self._up()
                parts = rest
                continue
            target = _link(self._opened[-1], part) if rest or follow else None
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise RookeryError(f"{self._path}: too many symbolic links", kind=ErrorKind.INVALID)
                if target.startswith("/"):
                    self._to_top()
                parts = [*_parts(target), *rest]
                continue
            if not rest:
                return Place(self._opened[-1], part, "/" + "/".join([*self._names, part]))
            self._opened.append(_enter(self._opened[-1], part, self._path))
            self._names.append(part)
            parts = rest
        raise RookeryError(f"{self._path} is a directory", kind=ErrorKind.INVALID)

    def close(self) -> None:
        self._to_top()
        os.close(self._opened[0])

    def _up(self) -> None:
        if not self._names:
            raise RookeryError(
                f"{self._path} leads out of the image", kind=ErrorKind.INVALID, hint="give a path inside the image"
            )
        os.close(self._opened.pop())
        self._names.pop()

    def _to_top(self) -> None:
        while self._names:
            self._up()


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def mode(where: Place) -> int:
    """The mode of what is there, its type included; 0 for nothing."""
    try:
        return os.lstat(where.name, dir_fd=where.directory).st_mode
    except FileNotFoundError:
        return 0


def _link(directory: int, name: str) -> str | None:
    try:
        if stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
            return os.readlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    return None


def _enter(directory: int, name: str, path: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RookeryError(
            f"{path}: there is no directory {name!r} on the way in the image", kind=ErrorKind.NOT_FOUND
        ) from error
