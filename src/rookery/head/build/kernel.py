# SPDX-License-Identifier: Apache-2.0
"""Finds the kernel that an image itself brings, and what it was built to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import rooted


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
    found = candidates(tree)
    if not found:
        raise RookeryError(
            "the image has no kernel with modules",
            kind=ErrorKind.INVALID,
            hint="name a kernel package in the recipe's 'kernel', as in 'linux-image-amd64'",
        )
    release, image, modules = max(found, key=lambda one: (_order(one[0]), one[1:]))
    return Kernel(release, image, modules, _config(rooted.file(tree, f"boot/config-{release}")))


def candidates(tree: Path) -> list[tuple[str, Path, Path]]:
    """The kernels in `tree` that have their modules: release, file to boot, directory of modules. No link in them."""
    names = []
    for place, form in (("boot", "vmlinuz-*"), ("usr/lib/modules", "*/vmlinuz"), ("lib/modules", "*/vmlinuz")):
        directory = rooted.directory(tree, place)
        for image in directory.glob(form) if directory else ():
            release = image.name.removeprefix("vmlinuz-") if place == "boot" else image.parent.name
            names.append((release, str(image.relative_to(tree))))
    found = []
    for release, name in names:
        modules = rooted.directory(tree, f"usr/lib/modules/{release}") or rooted.directory(
            tree, f"lib/modules/{release}"
        )
        image_file = rooted.file(tree, name)
        if image_file and modules and rooted.file(tree, f"{modules.relative_to(tree)}/modules.dep"):
            found.append((release, image_file, modules))
    return found


def _order(release: str) -> tuple[tuple[int, str], ...]:
    """Sorts `6.1.0-9` before `6.1.0-10`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", release))


def _config(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    pairs = (line.partition("=") for line in path.read_text().splitlines() if line.startswith("CONFIG_"))
    return {name: value for name, _, value in pairs}
