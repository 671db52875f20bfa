# SPDX-License-Identifier: Apache-2.0
"""Users and groups that rpm packages declare, and the files that belong to them.

From rpm 4.19 on, packages only declare them (sysusers.d(5)) and rpm makes them before it unpacks. An older rpm, as this
machine's may be, makes none, gives such files to root, and says so. Here it is made good, by the root's own
systemd-sysusers and by what rpm's database says of each file.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from rookery.head.build import inside
from rookery.head.build.builder import SOURCE_DATE
from rookery.run import run

_PROGRAM = "systemd-sysusers"
_MISSING = re.compile(r"warning: (?:user|group) (\S+) does not exist - using root")
_SET_ID = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = "security.capability"


def missing(line: str) -> str:
    """The name that rpm misses by a line that it says; empty for any other line."""
    found = _MISSING.match(line)
    return found[1] if found else ""


def settle(tree: Path, place: str, names: Iterable[str], cancel: threading.Event) -> tuple[str, ...]:
    """Make the users and groups that packages declare in the root, and give them the files that are theirs.

    place: where rpm's database is, relative to the root. names: those that were missing while packages were unpacked.
    Returns those that still are. Modes and capabilities stay as they are. Raises RookeryError.
    """
    if inside.has_program(tree, _PROGRAM):
        use = inside.Surroundings(variables={"SOURCE_DATE_EPOCH": str(SOURCE_DATE)})
        inside.execute(tree, [_PROGRAM], use, cancel)
    wanted = set(names)
    if not wanted:
        return ()
    users, groups = _numbers(tree / "etc/passwd"), _numbers(tree / "etc/group")
    form = "[%{FILENAMES}\t%{FILEUSERNAME}\t%{FILEGROUPNAME}\t%{FILEMODES}\n]"
    listed = run(["rpm", f"--dbpath={tree / place}", "--query", "--all", "--queryformat", form]).stdout
    left = set()
    for line in listed.splitlines():
        name, user, group, mode = line.rsplit("\t", 3)
        if not wanted & {user, group}:
            continue
        left |= {each for each, known in ((user, users), (group, groups)) if each not in known}
        path = tree / name.lstrip("/")
        if path.parent.resolve().is_relative_to(tree.resolve()):
            known = user in users and group in groups
            _give(path, users.get(user, 0), groups.get(group, 0), int(mode) & _SET_ID if known else 0)
    return tuple(sorted(left))


def _give(path: Path, user: int, group: int, bits: int) -> None:
    """Change the owner, add the set-ID `bits` that rpm left out, and nothing else: the kernel would take capabilities
    away with it."""
    try:
        state = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # left out, or removed by a script
    held = _CAPABILITY in os.listxattr(path, follow_symlinks=False)
    capability = os.getxattr(path, _CAPABILITY, follow_symlinks=False) if held else None
    os.chown(path, user, group, follow_symlinks=False)
    if not stat.S_ISLNK(state.st_mode):
        os.chmod(path, stat.S_IMODE(state.st_mode) | bits)
    if capability is not None:
        os.setxattr(path, _CAPABILITY, capability, follow_symlinks=False)


def _numbers(path: Path) -> dict[str, int]:
    """Name -> number, of passwd(5) or group(5)."""
    if path.is_symlink() or not path.is_file():
        return {}
    fields = (line.split(":") for line in path.read_text(errors="replace").splitlines())
    return {words[0]: int(words[2]) for words in fields if len(words) > 2 and words[2].isdigit()}
