# SPDX-License-Identifier: Apache-2.0
"""The drivers of a root: of what their bytes depend, and of what they do not."""

import os
import threading
from pathlib import Path

import pytest

from rookery.head.build import drivers, kernel
from rookery.head.build.drivers import Drivers
from tests.kernel_modules import module

RELEASE = "6.1.0-1"
MODULES = f"usr/lib/modules/{RELEASE}"
CARD = "kernel/drivers/net/ethernet/card.ko"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with one module, which names one firmware file."""
    root = tmp_path / "root"
    for path, content in (
        (f"{MODULES}/{CARD}", module(b"firmware=card.bin\0license=GPL\0")),
        (f"{MODULES}/modules.dep", f"{CARD}:\n".encode()),
        (f"{MODULES}/modules.order", f"{CARD}\n".encode()),
        ("usr/lib/firmware/card.bin", b"for the card"),
        ("usr/lib/firmware/other.bin", b"for another"),
        (f"boot/vmlinuz-{RELEASE}", b"kernel"),
        ("etc/motd", b"hello"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        os.utime(root / path, (1_600_000_000, 1_600_000_000))
    return root


def pack(tree: Path, earlier: Path | None = None) -> tuple[bytes, Drivers]:
    made = tree.parent / "made"
    found = drivers.pack(tree, kernel.find(tree), made, tree.parent, threading.Event(), earlier)
    return made.read_bytes(), found


def test_an_update_of_something_else_leaves_the_drivers_as_they_were(tree: Path) -> None:
    before, found = pack(tree)
    assert found == Drivers((CARD,), ("card.bin",), ())
    for path in ("etc/motd", "usr/lib/firmware/other.bin"):
        (tree / path).write_text("newer than everything, and another")
        os.utime(tree / path, (1_700_000_000, 1_700_000_000))
    (tree / "etc/new").touch()
    os.utime(tree / MODULES / CARD, (1_700_000_000, 1_700_000_000))
    assert pack(tree)[0] == before


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"{MODULES}/{CARD}", module(b"firmware=card.bin\0license=BSD\0")),
        (f"{MODULES}/modules.order", b""),
        ("usr/lib/firmware/card.bin", b"anew for the card"),
    ],
)
def test_another_module_table_or_firmware_makes_other_drivers(tree: Path, path: str, content: bytes) -> None:
    before, _ = pack(tree)
    earlier = tree.parent / "earlier"
    earlier.write_bytes(before)
    assert pack(tree, earlier)[0] == before
    (tree / path).write_bytes(content)
    os.utime(tree / path, (1_600_000_000, 1_600_000_000))
    after, _ = pack(tree, earlier)
    assert after != before
    assert after == pack(tree)[0]
