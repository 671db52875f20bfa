# SPDX-License-Identifier: Apache-2.0
"""What this machine is: read from /proc and /sys into a record of texts, and made into facts by a pure function.

A record is what the tests keep of real machines (tests/machines/*.json): path below the root -> text; for a symbolic
link whose end is what matters (a card's driver), the last part of its target.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from rookery import __version__
from rookery.wire.facts import Disk, Facts, NetworkCard, normalize_mac

Record = Mapping[str, str]

_FILES = (
    "proc/cpuinfo",
    "proc/meminfo",
    "sys/class/dmi/id/product_uuid",
    "sys/class/dmi/id/sys_vendor",
    "sys/class/dmi/id/product_name",
    "sys/class/dmi/id/product_serial",
    "sys/firmware/devicetree/base/model",
    "sys/firmware/efi/fw_platform_size",
)
_GLOBS = (
    "sys/class/net/*/address",
    "sys/class/net/*/type",
    "sys/class/net/*/speed",
    "sys/class/net/*/carrier",
    "sys/class/net/*/device/driver",
    "sys/block/*/size",
    "sys/block/*/queue/rotational",
    "sys/block/*/device/model",
    "sys/block/*/device/serial",
    "sys/block/*/device/driver",
    "sys/block/*/serial",
)
_ETHERNET = "1"  # ARPHRD_ETHER, include/uapi/linux/if_arp.h
_SECTOR = 512  # the unit of /sys/block/*/size, whatever the disk's own sectors are
_NO_DISK = re.compile(r"(loop|ram|zram|sr|fd|dm-|md|nbd)[0-9]")
_NOT_FILLED_IN = re.compile(
    r"(?i)not (specified|available|applicable)|to be filled.*|default string|system (product|serial).*|none|0+"
)


def record(root: Path = Path("/")) -> dict[str, str]:
    """Read what `facts` looks at. Files that are not there, or cannot be read, are left out."""
    found = {"uname/machine": os.uname().machine, "uname/release": os.uname().release}
    for path in [*(root / name for name in _FILES), *(path for glob in _GLOBS for path in sorted(root.glob(glob)))]:
        try:
            text = os.readlink(path).rsplit("/", 1)[-1] if path.name == "driver" else path.read_text(errors="replace")
        except OSError:  # as `speed` of a card without carrier
            continue
        found[str(path.relative_to(root))] = text
    return found


def facts(record: Record, addresses: Mapping[str, str] | None = None) -> Facts:
    """Facts from a record. addresses: IPv4 address by interface, as far as there are any."""
    dmi = {
        name: _filled(record.get(f"sys/class/dmi/id/{name}", ""))
        for name in ("product_uuid", "sys_vendor", "product_name", "product_serial")
    }
    return Facts(
        architecture=record["uname/machine"],
        firmware="uefi" if "sys/firmware/efi/fw_platform_size" in record else "bios",
        cpus=len(re.findall(r"(?m)^processor\s*:", record.get("proc/cpuinfo", ""))),
        cpu_model=_cpu_model(record.get("proc/cpuinfo", "")),
        memory=_memory(record.get("proc/meminfo", "")),
        kernel_release=record["uname/release"],
        agent_version=__version__,
        uuid=dmi["product_uuid"].lower(),
        vendor=dmi["sys_vendor"],
        model=dmi["product_name"] or _filled(record.get("sys/firmware/devicetree/base/model", "")),
        serial=dmi["product_serial"],
        network_cards=_cards(record, addresses or {}),
        disks=_disks(record),
    )


def cards(record: Record) -> tuple[str, ...]:
    """The names of the machine's own Ethernet cards, sorted. Bridges and the like have no device behind them."""
    names = sorted({path.split("/")[3] for path in record if path.startswith("sys/class/net/")})
    return tuple(
        name
        for name in names
        if record.get(f"sys/class/net/{name}/type", "").strip() == _ETHERNET
        and f"sys/class/net/{name}/device/driver" in record
        and _mac(record.get(f"sys/class/net/{name}/address", ""))
    )


def _cards(record: Record, addresses: Mapping[str, str]) -> tuple[NetworkCard, ...]:
    return tuple(
        NetworkCard(
            name=name,
            mac=_mac(record[f"sys/class/net/{name}/address"]),
            driver=record[f"sys/class/net/{name}/device/driver"].strip()[:255],
            speed=max(0, _number(record.get(f"sys/class/net/{name}/speed", "0"))),
            carrier=record.get(f"sys/class/net/{name}/carrier", "").strip() == "1",
            address=addresses.get(name, ""),
        )
        for name in cards(record)
    )


def _disks(record: Record) -> tuple[Disk, ...]:
    names = sorted({path.split("/")[2] for path in record if path.startswith("sys/block/")})
    return tuple(
        Disk(
            name=name,
            size=_number(record.get(f"sys/block/{name}/size", "0")) * _SECTOR,
            model=_filled(record.get(f"sys/block/{name}/device/model", "")),
            serial=_filled(
                record.get(f"sys/block/{name}/device/serial", "") or record.get(f"sys/block/{name}/serial", "")
            ),
            rotational=record.get(f"sys/block/{name}/queue/rotational", "").strip() == "1",
        )
        for name in names
        if not _NO_DISK.match(name) and _number(record.get(f"sys/block/{name}/size", "0")) > 0
    )


def _cpu_model(text: str) -> str:
    match = re.search(r"(?m)^model name\s*:\s*(.*)$", text) or re.search(r"(?m)^CPU implementer\s*:\s*(.*)$", text)
    return " ".join(match[1].split())[:255] if match else ""


def _memory(text: str) -> int:
    match = re.search(r"(?m)^MemTotal:\s*(\d+) kB$", text)
    return int(match[1]) * 1024 if match else 0


def _mac(text: str) -> str:
    try:
        mac = normalize_mac(text)
    except ValueError:
        return ""
    return "" if mac == "00:00:00:00:00:00" else mac


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"\s*-?\d+\s*", text) else 0


def _filled(text: str) -> str:
    """A firmware's text; empty where the maker left a placeholder."""
    plain = "".join(character if character.isprintable() else " " for character in text).strip()
    return "" if _NOT_FILLED_IN.fullmatch(plain) else plain[:255]
