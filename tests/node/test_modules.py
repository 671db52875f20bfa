# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.node import modules


def test_every_device_is_asked_once(tmp_path: Path) -> None:
    for bus, device, alias in (
        ("pci", "0000:00:01.0", "pci:v00001AF4d00001041\n"),
        ("pci", "0000:00:02.0", "pci:v00001AF4d00001041\n"),
        ("virtio", "virtio0", "virtio:d00000001v00001AF4\n"),
        ("acpi", "PNP0A03:00", "\n"),
    ):
        path = tmp_path / "bus" / bus / "devices" / device
        path.mkdir(parents=True)
        (path / "modalias").write_text(alias)
    (tmp_path / "bus/pci/devices/0000:00:03.0").mkdir()
    assert modules.wanted(tmp_path) == {"pci:v00001AF4d00001041", "virtio:d00000001v00001AF4"}


def test_a_module_that_is_nowhere() -> None:
    with pytest.raises(RookeryError, match="no_such_module") as caught:
        modules.load(["no_such_module"])
    assert caught.value.kind is ErrorKind.MISSING
    assert "drivers archive" in caught.value.record.hint


def test_what_is_built_in_is_not_missing() -> None:
    modules.load(["proc", "sysfs"])
