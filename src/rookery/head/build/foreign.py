# SPDX-License-Identifier: Apache-2.0
"""Programs of another architecture than this machine's: run by the kernel through qemu-user, once somebody has told the
kernel so (Documentation/admin-guide/binfmt-misc.rst).

That is a setting of the whole machine, which packages make and undo; a build only looks whether it is there.
"""

from __future__ import annotations

import platform

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.apart import require
from rookery.run import run

_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
# A /proc of one's own (unshare --mount-proc) has no binfmt_misc below it, where mmdebstrap looks whether the
# interpreter must be put into the root: not when the kernel holds it open (flag F), as Debian's packages register it.
_VISIBLE = 'mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null || :; exec "$@"'


def is_foreign(architecture: str) -> bool:
    """Whether an architecture (as in `uname -m`) is not this machine's."""
    return architecture != platform.machine()


def check(architecture: str) -> None:
    """Refuse an architecture whose programs this machine cannot run. Raises RookeryError `missing`."""
    if not is_foreign(architecture):
        return
    require({"arch-test": "arch-test"}, f"building an image for {architecture}")
    if run(["arch-test", _DEBIAN[architecture]], check=False).code != 0:
        raise RookeryError(
            f"this machine cannot run programs of {architecture}, which an image for it needs while it is built",
            kind=ErrorKind.MISSING,
            hint="apt install qemu-user-static binfmt-support; in a container install it on the host",
        )


def words(architecture: str) -> list[str]:
    """What to put before a command that works on a root of an architecture, after `apart`."""
    return ["sh", "-c", _VISIBLE, "sh"] if is_foreign(architecture) else []
