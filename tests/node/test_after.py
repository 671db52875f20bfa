# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rookery.errors import RookeryError
from rookery.node import after, units
from rookery.run import run, which
from rookery.wire.orders import SeedPolicy

BLOB = Path("/run/rookery/blobs/abcd")
OVERLAY = (
    "24 1 0:21 / / rw,relatime shared:1 - overlay rookery rw,lowerdir=/run/rookery/lower,upperdir=/run/x,workdir=/w"
)
LOWER = "30 25 7:0 / /run/rookery/lower ro,relatime shared:5 - squashfs /dev/loop0 ro,errors=continue"


def loops(backing: str) -> Callable[[str], str]:
    return lambda device: backing if device == "/dev/loop0" else ""


def test_the_images_root() -> None:
    after.require_root(f"{OVERLAY}\n{LOWER}\n", loops(str(BLOB)), BLOB)


@pytest.mark.parametrize(
    ("text", "backing", "message"),
    [
        ("", "", "the root is not the image's overlay but nothing"),
        ("1 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "", "but ext4"),
        (f"{OVERLAY.replace('/run/rookery/lower', '/other')}\n{LOWER}", str(BLOB), "not the image's overlay"),
        (f"{OVERLAY}\n{LOWER}\n1 1 8:1 / / rw - ext4 /dev/sda1 rw\n", str(BLOB), "but ext4"),
        (OVERLAY, str(BLOB), "no squashfs"),
        (f"{OVERLAY}\n{LOWER}", "/run/rookery/blobs/other", "/dev/loop0 is not the fetched image but /run"),
        (f"{OVERLAY}\n{LOWER}", "", "but nothing"),
    ],
)
def test_any_other_root_is_not_ready(text: str, backing: str, message: str) -> None:
    with pytest.raises(RookeryError, match=message):
        after.require_root(text, loops(backing), BLOB)


def test_this_machines_mounts() -> None:
    assert "/proc" in {mount.where for mount in after.mounts(Path("/proc/self/mountinfo").read_text())}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ActiveState=active\nActiveEnterTimestampMonotonic=20500000\n", 8.5),
        ("ActiveState=active\nActiveEnterTimestampMonotonic=11000000\n", 0.0),
        ("ActiveState=inactive\nActiveEnterTimestampMonotonic=0\n", None),
        ("ActiveState=active\nActiveEnterTimestampMonotonic=\n", None),
        ("", None),
    ],
)
def test_seconds_until_active(text: str, expected: float | None) -> None:
    assert after.active_seconds(text, 12.0) == expected


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(SystemExit, match="known are seed, ready"):
        after.main("sed")


def test_seed_unit_follows_the_policy() -> None:
    lines = units.seed(SeedPolicy(cpu=35, memory=64 << 20)).splitlines()
    assert {"CPUQuota=35%", f"MemoryMax={64 << 20}", "RootDirectory=/run/rookery/agent"} <= set(lines)


@pytest.mark.skipif(which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", [units.READY, units.SEED])
def test_units_are_what_systemd_reads(name: str, tmp_path: Path) -> None:
    text = {units.READY: units.ready(), units.SEED: units.seed(SeedPolicy())}[name]
    # The programs exist on a node only.
    text = "\n".join(line if not line.startswith("ExecStart") else "ExecStart=/bin/true" for line in text.splitlines())
    path = tmp_path / name
    path.write_text(text.replace("RootDirectory=", "#"))
    done = run(["systemd-analyze", "verify", "--man=no", path], check=False)
    complaints = [line for line in done.stderr.splitlines() if name in line]
    assert not complaints
