# SPDX-License-Identifier: Apache-2.0
"""Finds the kernel that an image itself brings, and what it was built to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError


@dataclass(frozen=True)
class Kernel:
    """An installed kernel. image: the file to boot. modules: its directory of modules. release: as in `uname -r`.
    config: its build options that are set, `CONFIG_X` -> `y`, `m` or a value; empty when the image has no config file.
    """

    release: str
    image: Path
    modules: Path
    config: dict[str, str]

    @property
    def compression(self) -> str:
        """The best compression of an initramfs that this kernel can unpack, as `cpio.pack_tree` takes it."""
        # Without a config file we take what every kernel of the last ten years has.
        return "zstd" if self.config.get("CONFIG_RD_ZSTD") == "y" else "gzip"


def find(tree: Path) -> Kernel:
    """The kernel in the root `tree`: with several, the newest. Raises RookeryError `invalid` when there is none that
    has its modules."""
    found = []
    for pattern, start in (("boot/vmlinuz-*", "vmlinuz-"), ("usr/lib/modules/*/vmlinuz", "")):
        for image in tree.glob(pattern):
            release = image.name.removeprefix(start) if start else image.parent.name
            modules = tree / "usr/lib/modules" / release
            if not modules.is_dir():
                modules = tree / "lib/modules" / release
            if image.is_file() and (modules / "modules.dep").is_file():
                found.append((_order(release), release, image, modules))
    if not found:
        raise RookeryError(
            "the image has no kernel with modules",
            kind=ErrorKind.INVALID,
            hint="name a kernel package in the recipe's 'kernel', as in 'linux-image-amd64'",
        )
    _, release, image, modules = max(found)
    return Kernel(release, image, modules, _config(tree / f"boot/config-{release}"))


def _order(release: str) -> tuple[tuple[int, str], ...]:
    """Sorts `6.1.0-9` before `6.1.0-10`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", release))


def _config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    pairs = (line.partition("=") for line in path.read_text().splitlines() if line.startswith("CONFIG_"))
    return {name: value for name, _, value in pairs}
