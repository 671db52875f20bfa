# SPDX-License-Identifier: Apache-2.0
"""What a foreign DHCP server must be told so that machines find the head (dhcp.mode `off`): text to paste.

None of it names an image or a node, so it is pasted once.
"""

from __future__ import annotations

import json
from enum import StrEnum

from rookery.head.boot import dnsmasq
from rookery.head.config import Config


class ForeignServer(StrEnum):
    """DHCP servers whose language we write."""

    DNSMASQ = "dnsmasq"
    ISC = "isc"  # ISC dhcpd
    KEA = "kea"
    TABLE = "table"  # for all others: what to answer to whom


def foreign_snippet(kind: ForeignServer, config: Config, address: str) -> str:
    """The snippet for a foreign server of `kind`; `address` is the head's own IPv4 address."""
    writers = {
        ForeignServer.DNSMASQ: _dnsmasq,
        ForeignServer.ISC: _isc,
        ForeignServer.KEA: _kea,
        ForeignServer.TABLE: _table,
    }
    return writers[kind](config, address)


def _answers(config: Config, address: str) -> list[tuple[int, str, bool]]:
    """(architecture code, boot file, whether the machine boots by HTTP) of everything that is not iPXE yet."""
    tftp = [(code, loader.name, False) for code, loader in dnsmasq.TFTP_ARCHITECTURES]
    http = [
        (code, dnsmasq.loader_url(config, address, loader.name), True) for code, loader in dnsmasq.HTTP_ARCHITECTURES
    ]
    return [*tftp, *http]


def _dnsmasq(config: Config, address: str) -> str:
    return "\n".join(["# dnsmasq: /etc/dnsmasq.d/rookery.conf", *dnsmasq.boot_lines(config, address), ""])


def _isc(config: Config, address: str) -> str:
    lines = [
        "# ISC dhcpd: in the subnet or group of the machines",
        "option rookery-arch code 93 = unsigned integer 16;",
        f"next-server {address};",
        'if exists user-class and option user-class = "iPXE" {',
        f'  filename "{dnsmasq.start_url(config, address)}";',
    ]
    for code, file, by_http in _answers(config, address):
        lines.append(f"}} elsif option rookery-arch = 00:{code:02x} {{")
        if by_http:
            lines.append('  option vendor-class-identifier "HTTPClient";')
        lines.append(f'  filename "{file}";')
    return "\n".join([*lines, "}", ""])


def _kea(config: Config, address: str) -> str:
    ipxe = "substring(option[77].hex,0,4) == 'iPXE'"
    classes: list[dict[str, object]] = [
        {"name": "rookery-ipxe", "test": ipxe, "boot-file-name": dnsmasq.start_url(config, address)}
    ]
    for code, file, by_http in _answers(config, address):
        made: dict[str, object] = {
            "name": f"rookery-arch-{code}",
            "test": f"option[93].hex == 0x{code:04x} and not ({ipxe})",
            "next-server": address,
            "boot-file-name": file,
        }
        if by_http:
            made["option-data"] = [{"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": True}]
        classes.append(made)
    return json.dumps({"client-classes": classes}, indent=2) + "\n"


def _table(config: Config, address: str) -> str:
    rows = [("user class (option 77) is iPXE", dnsmasq.start_url(config, address), "")]
    for code, file, by_http in _answers(config, address):
        rows.append((f"architecture (option 93) is {code}", file, "HTTPClient" if by_http else ""))
    lines = [f"Next server (siaddr) for all: {address}. The first line that fits counts.", ""]
    lines.append(f"{'when the machine says':<34} {'boot file (option 67)':<58} vendor class (option 60)")
    lines += [f"{when:<34} {file:<58} {vendor}".rstrip() for when, file, vendor in rows]
    return "\n".join([*lines, ""])
