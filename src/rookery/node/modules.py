# SPDX-License-Identifier: Apache-2.0
"""Drivers: the modules that this machine's devices ask for."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.run import run

SYS = Path("/sys")
# A bus whose driver was just loaded shows its devices a moment later (virtio, USB, hotplugged PCI).
SETTLE_SECONDS = 0.05
MOST_ROUNDS = 8


def wanted(sys: Path = SYS) -> frozenset[str]:
    """The modalias of every device that the kernel knows, as in `pci:v00001AF4d00001041...`."""
    found = set()
    for path in sys.glob("bus/*/devices/*/modalias"):
        try:
            alias = path.read_text().strip()
        except OSError:  # a device that is just leaving
            continue
        if alias:
            found.add(alias)
    return frozenset(found)


def load_wanted(known: frozenset[str] = frozenset()) -> frozenset[str]:
    """Load drivers until no device asks for another; returns all modaliases that were seen. `known` ones are not asked
    for again."""
    for _ in range(MOST_ROUNDS):
        new = wanted() - known
        if not new:
            break
        known |= new
        # One process for all of them; aliases without a module are no error (-q), blacklists count (-b).
        run(["modprobe", "-a", "-b", "-q", *sorted(new)], check=False)
        time.sleep(SETTLE_SECONDS)
    return known


def load(names: list[str]) -> None:
    """Load modules by name; those built into the kernel are there already. Raises RookeryError `missing`."""
    done = run(["modprobe", "-a", "-b", *names], check=False)
    if done.code != 0 and not _have(names):
        release = os.uname().release
        raise RookeryError(
            f"the kernel modules {' '.join(names)} could not be loaded",
            kind=ErrorKind.MISSING,
            details=done.stderr.strip(),
            hint=f"boot this kernel ({release}) with the drivers archive of the same image version",
        )


def _have(names: list[str]) -> bool:
    # A kernel without any modules (all built in) has no /lib/modules, and nothing is missing.
    systems = Path("/proc/filesystems").read_text().split()
    return all(name in systems or (SYS / "module" / name).exists() for name in names)
