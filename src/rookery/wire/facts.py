# SPDX-License-Identifier: Apache-2.0
"""Facts: what a node found out about its own hardware."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from rookery.codec import Length, Range

Name = Annotated[str, Length(255)]
Bytes = Annotated[int, Range(0, 2**63)]
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True)
class NetworkCard:
    """One network interface. mac: `aa:bb:cc:dd:ee:ff`. speed: Mbit/s, 0 when the driver does not say."""

    name: Name
    mac: Name
    driver: Name = ""
    speed: Annotated[int, Range(0, 10_000_000)] = 0
    carrier: bool = False
    address: Name = ""


@dataclass(frozen=True)
class Disk:
    """One disk. size: bytes. serial and model as the kernel gives them, or empty."""

    name: Name
    size: Bytes
    model: Name = ""
    serial: Name = ""
    rotational: bool = False


@dataclass(frozen=True)
class Facts:
    """A machine. memory: bytes. firmware: `bios` or `uefi`. uuid: SMBIOS system UUID in lower case, or empty."""

    architecture: Name
    firmware: Name
    cpus: Annotated[int, Range(0, 1_000_000)]
    cpu_model: Name
    memory: Bytes
    kernel_release: Name
    agent_version: Name
    uuid: Name = ""
    vendor: Name = ""
    model: Name = ""
    serial: Name = ""
    network_cards: Annotated[tuple[NetworkCard, ...], Length(256)] = ()
    disks: Annotated[tuple[Disk, ...], Length(4096)] = ()


def normalize_mac(text: str) -> str:
    """A MAC as `aa:bb:cc:dd:ee:ff`, from any of the usual spellings (colons, dashes, dots, none).

    Raises ValueError when it is not 12 hex digits, or is a group address (which no machine can have).
    """
    digits = re.sub(r"[:.\-]", "", text.strip().lower())
    mac = ":".join(digits[index : index + 2] for index in range(0, 12, 2))
    if len(digits) != 12 or not _MAC.fullmatch(mac):
        raise ValueError(f"{text[:40]!r} is not a MAC address; expected aa:bb:cc:dd:ee:ff")
    if int(digits[:2], 16) & 1:
        raise ValueError(f"{text[:40]!r} is a multicast address, no machine's own")
    return mac
