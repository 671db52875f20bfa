# SPDX-License-Identifier: Apache-2.0
"""Compares two roots, entry by entry: started as a program of its own in a mount namespace of its own, so that whatever
becomes of it, no mount stays behind. Writes one JSON object a line to standard output.

`{"path", "before", "after", "what"}` for each entry that differs, in the order of a walk; `{"done": n}` now and then.
`before` and `after` look like a line of `ls -l`, and are empty where there is no such entry. Times do not count.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from rookery.files import BLOCK
from rookery.run import run

Difference = tuple[str, str, str, tuple[str, ...]]  # path, before, after, what
_SAY_EVERY = 500  # entries


def main() -> None:
    """Mount the two squashfs files that the command line names, at the two directories after them, and compare."""
    before, after, here, there = sys.argv[1:]
    for image, place in ((before, here), (after, there)):
        # `private` keeps what is mounted here from the host; the namespace ends with this process.
        run(["mount", "-t", "squashfs", "-o", "loop,ro,nosuid,nodev", image, place])
    for number, found in enumerate(compare(os.fsencode(here), os.fsencode(there))):
        if found is not None:
            path, was, becomes, what = found
            _say({"path": path, "before": was, "after": becomes, "what": what})
        if number % _SAY_EVERY == 0:
            _say({"done": number})


def compare(before: bytes, after: bytes) -> Iterator[Difference | None]:
    """What differs between the trees at two paths; None for each entry that does not."""
    seen: set[tuple[int, int]] = set()
    waiting = [b"."]
    while waiting:
        relative = waiting.pop()
        old, new = _state(before, relative), _state(after, relative)
        if relative != b".":
            yield _difference(before, after, relative, old, new, seen)
        names = _names(before, relative, old) | _names(after, relative, new)
        waiting += [os.path.normpath(os.path.join(relative, name)) for name in sorted(names, reverse=True)]


def shown(path: bytes) -> str:
    """A path as text that any terminal bears: what is not printable UTF-8 as in Python (`\\n`, `\\xff`)."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _difference(
    before: bytes,
    after: bytes,
    relative: bytes,
    old: os.stat_result | None,
    new: os.stat_result | None,
    seen: set[tuple[int, int]],
) -> Difference | None:
    one, two = os.path.join(before, relative), os.path.join(after, relative)
    name = f"/{shown(relative)}"
    if old is None or new is None:
        there = new if old is None else old
        if there is None:  # gone between listing and looking, which a squashfs does not do
            return None
        return name, _line(one, old), _line(two, new), ("added" if old is None else "removed",)
    what = []
    if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
        what.append("type")
    elif stat.S_ISREG(old.st_mode) and not _same_content(one, two, old, new, seen):
        what.append("content")
    elif stat.S_ISLNK(old.st_mode) and os.readlink(one) != os.readlink(two):
        what.append("target")
    elif old.st_rdev != new.st_rdev:
        what.append("device")
    if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
        what.append("mode")
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        what.append("owner")
    if _attributes(one) != _attributes(two):
        what.append("attributes")
    return (name, _line(one, old), _line(two, new), tuple(what)) if what else None


def _same_content(one: bytes, two: bytes, old: os.stat_result, new: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    if old.st_size != new.st_size:
        return False
    pair = (old.st_ino, new.st_ino)
    if pair in seen:  # another name of two files that were found the same
        return True
    with open(one, "rb", buffering=0) as left, open(two, "rb", buffering=0) as right:
        while True:
            mine, other = left.read(BLOCK), right.read(BLOCK)
            if mine != other:
                return False
            if not mine:
                break
    if old.st_nlink > 1:
        seen.add(pair)
    return True


def _state(top: bytes, relative: bytes) -> os.stat_result | None:
    try:
        return os.lstat(os.path.join(top, relative))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _names(top: bytes, relative: bytes, state: os.stat_result | None) -> set[bytes]:
    return set(os.listdir(os.path.join(top, relative))) if state and stat.S_ISDIR(state.st_mode) else set()


def _attributes(path: bytes) -> dict[str, bytes]:
    try:
        return {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
    except OSError:
        return {}


def _line(path: bytes, state: os.stat_result | None) -> str:
    if state is None:
        return ""
    parts = [stat.filemode(state.st_mode), f"{state.st_uid}:{state.st_gid}"]
    if stat.S_ISREG(state.st_mode):
        parts.append(str(state.st_size))
    elif stat.S_ISLNK(state.st_mode):
        parts.append(f"-> {shown(os.readlink(path))}")
    elif stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode):
        parts.append(f"{os.major(state.st_rdev)},{os.minor(state.st_rdev)}")
    return " ".join(parts)


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def program(before: Path, after: Path, here: Path, there: Path) -> list[str | Path]:
    """The words that start this program for two squashfs files, with two empty directories to mount them at."""
    own = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "rookery.head.publish.roots"]
    return [*own, before, after, here, there]


if __name__ == "__main__":
    main()
