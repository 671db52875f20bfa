# SPDX-License-Identifier: Apache-2.0
"""Tells what a root lacks to be booted, and which packages of its distribution would mend that; and whether it is for
the architecture that it should be for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import kernel, rooted
from rookery.head.build.installed import os_release

INITS = ("sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd")  # as node/settle.py looks for them


_MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine of a program's header, elf(5)


@dataclass(frozen=True)
class Cure:
    """Package names of one family of distributions. kernel: by architecture as in `uname -m`."""

    kernel: dict[str, str]
    init: tuple[str, ...]


_RED_HAT = Cure({"x86_64": "kernel", "aarch64": "kernel"}, ("systemd",))
# By the ID of os-release(5), or one of its ID_LIKE.
CURES = {
    "debian": Cure({"x86_64": "linux-image-amd64", "aarch64": "linux-image-arm64"}, ("systemd-sysv", "udev")),
    "ubuntu": Cure({"x86_64": "linux-image-generic", "aarch64": "linux-image-generic"}, ("systemd-sysv", "udev")),
    "rhel": _RED_HAT,
    "centos": _RED_HAT,
    "fedora": _RED_HAT,
    "suse": Cure({"x86_64": "kernel-default", "aarch64": "kernel-default"}, ("systemd", "udev")),
    "alpine": Cure({"x86_64": "linux-lts", "aarch64": "linux-lts"}, ("openrc",)),
    "arch": Cure({"x86_64": "linux", "aarch64": "linux-aarch64"}, ("systemd-sysvcompat",)),
}
# For distributions whose packages no recipe's 'packages' can ask for (apply.py): the command that does.
_COMMANDS = {"alpine": "apk add", "arch": "pacman -Sy --noconfirm"}


def require_bootable(tree: Path, architecture: str) -> None:
    """Raises RookeryError `invalid` when the root has no kernel with its modules, or no init; the hint names the
    packages that bring them, when the distribution is known."""
    no_kernel, no_init = not kernel.candidates(tree), not any(rooted.file(tree, path) for path in INITS)
    if not no_kernel and not no_init:
        return
    lacks = " and ".join(filter(None, ["no kernel with modules" * no_kernel, "no init" * no_init]))
    release = os_release(tree)
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    family = next((name for name in names if name in CURES), "")
    if not family:
        hint = "put a kernel with its modules and an init, such as systemd, into it, by the recipe's 'commands'"
    else:
        cure = CURES[family]
        hint = _hint(family, cure.kernel[architecture] if no_kernel else "", cure.init if no_init else ())
    raise RookeryError(
        f"the image has {lacks}",
        kind=ErrorKind.INVALID,
        details=f"its root is {release.get('PRETTY_NAME') or release.get('ID') or 'of an unknown distribution'}",
        hint=hint,
    )


def require_architecture(tree: Path, architecture: str) -> None:
    """Raises RookeryError `invalid` when the root's init is for another architecture than the one that nodes are told.

    A root that came whole, from a tree or another machine, is of whatever it is; a recipe only says so.
    """
    init = next(filter(None, (rooted.file(tree, path) for path in INITS)), None)
    if init is None:
        return
    with init.open("rb") as file:
        header = file.read(20)
    found = _MACHINES.get(int.from_bytes(header[18:], "little")) if header.startswith(b"\x7fELF") else None
    if found and found != architecture:
        raise RookeryError(
            f"the root is for {found}, and the image would be for {architecture}",
            kind=ErrorKind.INVALID,
            hint=f'say so in the recipe: architecture = "{found}"',
        )


def _hint(family: str, kernel_package: str, init: tuple[str, ...]) -> str:
    if command := _COMMANDS.get(family):
        return f'add to the recipe: commands = ["{command} {" ".join(filter(None, [kernel_package, *init]))}"]'
    lines = [f'kernel = "{kernel_package}"' if kernel_package else ""]
    if init:
        lines.append("packages = [" + ", ".join(f'"{name}"' for name in init) + "]")
    added = " and ".join(filter(None, lines))
    return f"add to the recipe, or to one whose 'archive' is the unfinished root: {added}"
