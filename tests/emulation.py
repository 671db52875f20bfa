# SPDX-License-Identifier: Apache-2.0
"""Programs of another architecture than this machine's, run by the kernel through qemu-user while a test needs it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

from rookery import files
from rookery.head.build.deb import ARCHITECTURES
from rookery.run import run

OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"
OTHER_DEB = ARCHITECTURES[OTHER]


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """The kernel gives programs of OTHER to qemu-user: as this machine is set up, or for the time of the block."""
    if run(["arch-test", OTHER_DEB], check=False).code == 0:
        yield
        return
    word = f"qemu-{OTHER}"
    line = Path(f"/usr/lib/binfmt.d/{word}.conf").read_text().strip()
    with files.scratch_directory(Path("/run"), "binfmt.") as place:
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", place])
        try:
            (place / "register").write_text(line.replace(f":{word}:", ":rookery-test:", 1))
            try:
                yield
            finally:
                (place / "rookery-test").write_text("-1")
        finally:
            run(["umount", place])
