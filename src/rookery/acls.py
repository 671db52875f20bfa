# SPDX-License-Identifier: Apache-2.0
"""POSIX access control lists of an image's root. A squashfs has no place for them (the kernel reads user., trusted. and
security. attributes from it and no others), so they lie in a file of the root and are given back where it is used."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError

FILE = "usr/share/rookery/acls.json"
MOST = 32 << 20
_NAMES = ("system.posix_acl_access", "system.posix_acl_default")
_NONE = (61, 95)  # ENODATA, EOPNOTSUPP


@dataclass(frozen=True)
class Entry:
    """What one entry of the root has. path: relative, what is not plain ASCII as in a URL. access, default: the value
    of the attribute in base64, or empty."""

    path: str
    access: str = ""
    default: str = ""


@dataclass(frozen=True)
class Lists:
    """All of a root."""

    entries: tuple[Entry, ...]


def record(root: Path) -> int:
    """Write the lists of everything below `root` into its file, or remove that when there are none; how many entries
    have one. Raises RookeryError `too-large`."""
    found = tuple(_found(os.fsencode(root)))
    path = root / FILE
    if not found:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            path.parent.rmdir()
        return 0
    data = codec.dumps(Lists(found), indent=0).encode() + b"\n"
    if len(data) > MOST:
        raise RookeryError(f"too many entries ({len(found)}) have access control lists", kind=ErrorKind.TOO_LARGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, data)
    return len(found)


def restore(root: Path) -> int:
    """Give entries below `root` the lists that its file says; how many that were, 0 without such a file.

    What is not there any more is passed over. Raises RookeryError `invalid` for a path that leads outside, and OSError
    where the file system takes no lists.
    """
    path = root / FILE
    if not path.is_file() or path.is_symlink():
        return 0
    lists = codec.loads(Lists, path.read_bytes(), most=MOST, what=FILE)
    top, count = os.fsencode(root), 0
    for entry in lists.entries:
        place = _place(top, entry.path)
        if place is None:
            continue
        # In an overlay a list can be set only on what lies in the upper layer: setting the mode that it has lifts it.
        os.chmod(place, stat.S_IMODE(os.lstat(place).st_mode))
        for name, value in zip(_NAMES, (entry.access, entry.default), strict=True):
            if value:
                os.setxattr(place, name, base64.b64decode(value), follow_symlinks=False)
        count += 1
    return count


def _found(top: bytes) -> Iterator[Entry]:
    for parent, names, others in os.walk(top):
        names.sort()
        for name in (*([b"."] if parent == top else []), *sorted([*names, *others])):
            path = os.path.normpath(os.path.join(parent, name))
            if stat.S_ISLNK(os.lstat(path).st_mode):
                continue
            access, default = (_value(path, attribute) for attribute in _NAMES)
            if access or default:
                yield Entry(urllib.parse.quote_from_bytes(os.path.relpath(path, top)), access, default)


def _value(path: bytes, name: str) -> str:
    try:
        return base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
    except OSError as error:
        if error.errno in _NONE:
            return ""
        raise


def _place(top: bytes, text: str) -> bytes | None:
    """Where an entry is, when it and all directories above it are there and none of them is a symbolic link."""
    parts = urllib.parse.unquote_to_bytes(text).split(b"/")
    if b".." in parts or b"" in parts or b"\0" in b"".join(parts):
        raise RookeryError(f"{FILE} names {text[:80]!r}, which leads outside", kind=ErrorKind.INVALID)
    place = top
    for part in parts:
        place = os.path.join(place, part)
        try:
            if stat.S_ISLNK(os.lstat(place).st_mode):
                return None
        except (FileNotFoundError, NotADirectoryError):
            return None
    return place
