# SPDX-License-Identifier: Apache-2.0
"""The boot loaders: iPXE as the distribution ships it, copied to where TFTP and HTTP give it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.config import Paths

# Debian and Ubuntu (package ipxe); Fedora, Rocky and Alma (packages ipxe-bootimgs-x86, ipxe-bootimgs-aarch64).
DIRECTORIES = (Path("/usr/lib/ipxe"), Path("/usr/share/ipxe"))
HINT = "install the package ipxe (Debian, Ubuntu) or ipxe-bootimgs-x86 (Fedora, Rocky)"


@dataclass(frozen=True)
class Loader:
    """A boot loader. name: as machines ask for it. sources: where distributions have it below DIRECTORIES.
    needed: whether the head is of no use without it."""

    name: str
    sources: tuple[str, ...]
    needed: bool = True


BIOS = Loader("undionly.kpxe", ("undionly.kpxe",))
UEFI_X86_64 = Loader("snponly.efi", ("snponly.efi", "ipxe-snponly-x86_64.efi"))
UEFI_ARM64 = Loader("snponly-arm64.efi", ("arm64-efi/snponly.efi", "snponly-arm64.efi"), needed=False)
LOADERS = (BIOS, UEFI_X86_64, UEFI_ARM64)


def tftp_root(paths: Paths) -> Path:
    """The directory that TFTP gives out."""
    return paths.boot / "tftp"


def find(loader: Loader, directories: tuple[Path, ...] = DIRECTORIES) -> Path | None:
    """Where this host has `loader`, or None."""
    candidates = (directory / source for directory in directories for source in loader.sources)
    return next((path for path in candidates if path.is_file()), None)


def install(paths: Paths, directories: tuple[Path, ...] = DIRECTORIES) -> tuple[Path, ...]:
    """Copy what this host has into the TFTP root, world-readable (dnsmasq insists), and return the copies.

    A copy, so that an upgrade of the package changes what machines get when the head starts and not in between.
    Raises RookeryError `missing` that names the package when a needed loader is nowhere.
    """
    sources = {loader: find(loader, directories) for loader in LOADERS}
    absent = [loader.name for loader, source in sources.items() if source is None and loader.needed]
    if absent:
        looked = ", ".join(str(directory) for directory in directories)
        raise RookeryError(f"no iPXE boot loader {' and '.join(absent)} in {looked}", kind=ErrorKind.MISSING, hint=HINT)
    root = tftp_root(paths)
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    installed = []
    for loader, source in sources.items():
        if source is None:
            continue
        target, content = root / loader.name, source.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            files.write_atomic(target, content, 0o644)
        installed.append(target)
    return tuple(installed)


def installed(paths: Paths, name: str) -> Path:
    """The file for `GET routes.LOADER/{name}`. Raises RookeryError `not-found` for any name that is no loader here."""
    if name in {loader.name for loader in LOADERS}:
        path = tftp_root(paths) / name
        if path.is_file():
            return path
    raise RookeryError(f"no boot loader {name[:80]!r} on this head", kind=ErrorKind.NOT_FOUND, hint=HINT)
