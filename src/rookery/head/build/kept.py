# SPDX-License-Identifier: Apache-2.0
"""The roots of builds that failed, kept for a look: one for each image, the newest few of all."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path

MOST = 3
_TRIES = 10
_KEEPING = threading.Lock()


def keep(tree: Path, kept: Path, kin: str) -> None:
    """Move the root `tree` to `kept`, in the place of what is there. Of the directories beside it whose names begin
    with `kin`, which are such roots, the newest MOST stay, this one among them.

    What has to go is moved to the directory of `tree`, on the same file system, which the caller removes soon. Other
    threads and processes may do the same at the same time. Raises OSError.
    """
    # It may hold anybody's programs with the set-user-ID bit, and devices. And the time of the change tells its age.
    tree.chmod(0o700)
    with _KEEPING:
        for left in reversed(range(_TRIES)):
            _away(kept, tree.parent)
            try:
                os.rename(tree, kept)
                break
            except OSError:  # another process was faster: what it kept is as good as ours was
                if not left or not tree.is_dir():
                    raise
        others = [(_age(path), path) for path in kept.parent.glob(f"{kin}*") if path != kept]
        for _, path in sorted(others)[: max(0, len(others) - MOST + 1)]:
            with contextlib.suppress(OSError):  # such as one in which somebody mounted something
                _away(path, tree.parent)


def _away(path: Path, trash: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, Path(tempfile.mkdtemp(dir=trash, prefix="old-")) / path.name)


def _age(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_ctime_ns
    return 0
