# SPDX-License-Identifier: Apache-2.0
"""Facts of recorded machines (tests/machines/*.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rookery import __version__, codec
from rookery.node import probe

MACHINES = sorted((Path(__file__).parents[1] / "machines").glob("*.json"))


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_recorded_machine(path: Path) -> None:
    machine = json.loads(path.read_text())
    facts = probe.facts(machine["record"], machine["addresses"])
    assert codec.encode(facts) == {**machine["facts"], "agent_version": __version__}


def test_there_are_machines() -> None:
    assert len(MACHINES) >= 3


def test_record_reads_what_facts_need(tmp_path: Path) -> None:
    machine = json.loads(next(path for path in MACHINES if path.stem == "qemu-uefi-two-cards").read_text())
    for name, text in machine["record"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "driver":
            driver = tmp_path / "sys/bus/virtio/drivers" / text
            driver.mkdir(parents=True, exist_ok=True)
            path.symlink_to(driver)
        elif not name.startswith("uname/"):
            path.write_text(text)
    own = {name: text for name, text in machine["record"].items() if name.startswith("uname/")}
    assert {**probe.record(tmp_path), **own} == machine["record"]


def test_this_machine() -> None:
    facts = probe.facts(probe.record())
    assert facts.cpus >= 1
    assert facts.memory > 1 << 26


@pytest.mark.parametrize(
    "text", ["To Be Filled By O.E.M.", "Not Specified", "System Serial Number", "0000000", "None "]
)
def test_placeholders_are_empty(text: str) -> None:
    record = {"uname/machine": "x86_64", "uname/release": "6.1", "sys/class/dmi/id/product_serial": f"{text}\n"}
    assert not probe.facts(record).serial


def test_a_bridge_is_no_card() -> None:
    record = {
        "sys/class/net/br0/address": "52:54:00:00:00:01\n",
        "sys/class/net/br0/type": "1\n",
        "sys/class/net/ib0/address": "52:54:00:00:00:02\n",
        "sys/class/net/ib0/type": "32\n",
        "sys/class/net/ib0/device/driver": "mlx5_core",
        "sys/class/net/enp1s0/address": "52:54:00:00:00:03\n",
        "sys/class/net/enp1s0/type": "1\n",
        "sys/class/net/enp1s0/device/driver": "e1000e",
    }
    assert probe.cards(record) == ("enp1s0",)
