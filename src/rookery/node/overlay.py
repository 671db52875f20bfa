# SPDX-License-Identifier: Apache-2.0
"""The upper layer of the overlay that makes an image's root writable."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def make_upper(lower: Path, upper: Path) -> None:
    """Make the directory `upper` as the root of the image at `lower` is: of an overlay's own root the kernel shows the
    upper layer's mode, owner, attributes (a SELinux label, say) and time, and not the image's."""
    upper.mkdir()
    state = os.stat(lower)
    os.chown(upper, state.st_uid, state.st_gid)
    os.chmod(upper, stat.S_IMODE(state.st_mode))
    for name in _names(lower):
        # A memory file system of an older kernel takes no user. attributes; a root has none, as a rule.
        with contextlib.suppress(OSError):
            os.setxattr(upper, name, os.getxattr(lower, name))
    os.utime(upper, ns=(state.st_mtime_ns, state.st_mtime_ns))


def _names(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a squashfs in which nothing has any does not know the call
            return []
        raise
