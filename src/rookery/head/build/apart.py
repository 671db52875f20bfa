# SPDX-License-Identifier: Apache-2.0
"""Words to put before a command that must leave nothing behind."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.run import BOUND, RunError, which

_NOTHING = 1 << 20  # bytes: less is a full disk
PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}


def apart(network: str = "", mounts: str = "") -> list[str]:
    """Run the command that follows with mounts and processes of its own: whatever it mounts or leaves running is gone
    when it ends or is killed, also when the head that started it is killed. Needs root.

    network: path of the network namespace that it works in; mounts: path of the mount namespace whose mounts it sees;
    empty: that of this process. To be started from a thread that waits for its end (`BOUND`).
    """
    entered = ["nsenter", f"--net={network}"] if network else []
    if mounts:  # the other one first: its path is one of this process's mounts
        entered += ["nsenter", f"--mount={mounts}"]
    return [
        *BOUND,
        *entered,
        *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"),
    ]


def full_disk(error: RunError, what: str, place: Path) -> RookeryError | None:
    """The error to raise instead when a command failed because the disk that the directory `place` is on was full: no
    space left to `what`. Nothing that was written may be removed before. Go's copying calls that a short write; umoci
    often dies of a fault in its decompressor then, and says nothing of the disk."""
    said = re.search("no space left|disk quota exceeded|short write", error.record.details, re.IGNORECASE)
    if not said and shutil.disk_usage(place).free >= _NOTHING:
        return None
    return RookeryError(
        f"no space left to {what} in {place}",
        kind=ErrorKind.NO_SPACE,
        details=error.record.details,
        hint="free some space there, or move the directory to a larger file system",
    )


def require(programs: dict[str, str], what: str) -> None:
    """Check that programs (name -> Debian package) are installed, `what` for. Raises RookeryError `missing`."""
    for program, package in programs.items():
        if which(program) is None:
            raise RookeryError(
                f"{what} needs {program}, which is not installed",
                kind=ErrorKind.MISSING,
                hint=f"apt install {package}",
            )


def require_root(what: str) -> None:
    """Raises RookeryError `forbidden` for those who are not root, and `what` needs it."""
    if os.geteuid() != 0:
        raise RookeryError(
            f"{what} needs root (files of an image belong to its own users)",
            kind=ErrorKind.FORBIDDEN,
            hint="run the head as root",
        )
