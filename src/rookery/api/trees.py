# SPDX-License-Identifier: Apache-2.0
"""Working trees and captures, as operator and head say them to each other; see types.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rookery.api.types import HeadPath, Name, Short
from rookery.codec import Length, Range

MOST_RULES = 10_000


@dataclass(frozen=True)
class OpenTree:
    """An image to open: `name[:tag]`, `name@id` or an id."""

    image: Short


@dataclass(frozen=True)
class PublishTree:
    """A working tree to publish, and the tag for the version that it becomes."""

    name: Short
    tag: Short = "latest"


@dataclass(frozen=True)
class Capture:
    """A machine to copy into the working tree of the image `name`.

    host, user, port (0: ssh's own), ssh_options (`Key=value`, as for `ssh -o`): how it is reached from the head.
    accept_new: take the key of a host that was never seen. sudo: read it as root by sudo. root: the directory there.
    mounts: further file systems to bring along, as paths below root. excludes: lines as of rsync's --exclude-from. tag:
    of the version that is published at the end; empty: nothing is. force: also over changes made by hand in the tree.
    keep, remove: patterns as in a recipe's [identity], beside those of the version that the machine runs; an empty list
    is that of the last capture.
    """

    host: Name
    name: Short
    tag: Short = "latest"
    user: Short = ""
    port: Annotated[int, Range(0, 65535)] = 0
    root: HeadPath = "/"
    mounts: Annotated[tuple[HeadPath, ...], Length(100)] = ()
    excludes: Annotated[tuple[HeadPath, ...], Length(MOST_RULES)] = ()
    keep: Annotated[tuple[HeadPath, ...], Length(MOST_RULES)] = ()
    remove: Annotated[tuple[HeadPath, ...], Length(MOST_RULES)] = ()
    ssh_options: Annotated[tuple[HeadPath, ...], Length(100)] = ()
    accept_new: bool = False
    sudo: bool = False
    force: bool = False


@dataclass(frozen=True)
class Captured:
    """The last capture of a tree. source: `host:/`. at: when it ended. moved: bytes that went over the wire. total: of
    all files. left_out: mount points that were not brought along."""

    source: str
    at: float
    moved: int
    total: int
    seconds: float
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A working tree. id: its own, told from a later one of the same name. place: its directory on the head; root: the
    tree itself. origin: what it was made from. version: what it was when last opened or published, may be empty.
    changed: whether it is something else now. complete: false after a capture that was cut off. in_use: by whom, or
    empty. network_namespace: path of the one in which commands inside reach package archives, or empty."""

    name: str
    id: str
    place: str
    root: str
    origin: str
    version: str
    opened_at: float
    changed: bool
    complete: bool = True
    in_use: str = ""
    network_namespace: str = ""
    captured: Captured | None = None


@dataclass(frozen=True)
class Trees:
    """Working trees by name. host: the name of the head's machine, where they lie."""

    trees: tuple[Tree, ...]
    host: str = ""
