# SPDX-License-Identifier: Apache-2.0
"""The node's network: every card's link up, DHCP on every card that has carrier, and the first card that leads to the
head is taken.

busybox udhcpc (one process a card) asks, and renews until the image's own network takes over. It writes each lease to a
file; all else is decided here. It never gives up, so a switch that blocks a port for its first 30 s (spanning tree), a
slow link, or a DHCP server that is started later cost time and nothing else.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.node import modules, probe
from rookery.run import Child, end, run, start

PATIENCE = 60.0  # seconds until the console says what is missing; the search itself goes on
SAY_SECONDS = 10.0
LOOK_SECONDS = 0.1
CONNECT_SECONDS = 4.0
REFUSED_SECONDS = 15.0  # how long a card that did not lead to the head is left out
NET = Path("/sys/class/net")
RESOLV_CONF = Path("/etc/resolv.conf")
# udhcpc calls this with its findings in the environment. Renamed into place, so that a reader sees a whole lease.
_SCRIPT = """#!/bin/busybox sh
case "$1" in
bound|renew) busybox env > "{directory}/.$interface" && busybox mv "{directory}/.$interface" "{directory}/$interface" ;;
esac
"""


@dataclass(frozen=True)
class Lease:
    """What a DHCP server gave. address, router: IPv4. prefix: bits of the network mask. routes: `network/prefix
    router`, classless static routes (RFC 3442; they replace the router). mtu: 0 when it said nothing."""

    interface: str
    mac: str
    address: str
    prefix: int
    router: str = ""
    dns: tuple[str, ...] = ()
    domain: str = ""
    mtu: int = 0
    routes: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """For the console."""
        return f"{self.interface} has {self.address}/{self.prefix}" + (f" via {self.router}" if self.router else "")


def parse_lease(text: str, mac: str) -> Lease:
    """The lease in udhcpc's environment, `name=value` lines. What is malformed is refused (address) or left out (rest).

    Raises RookeryError `invalid`.
    """
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    try:
        address = str(ipaddress.IPv4Address(values["ip"]))
        prefix = int(values.get("mask") or ipaddress.IPv4Network(f"0.0.0.0/{values['subnet']}").prefixlen)
        interface = values["interface"]
        if not 0 < prefix <= 32:
            raise ValueError(prefix)
    except (KeyError, ValueError) as error:
        raise RookeryError(f"the DHCP answer makes no sense: {error}", kind=ErrorKind.INVALID, details=text) from error
    mtu = values.get("mtu", "")
    return Lease(
        interface=interface,
        mac=mac,
        address=address,
        prefix=prefix,
        router=next(iter(_addresses(values.get("router", ""))), ""),
        dns=_addresses(values.get("dns", "")),
        domain=domain if re.fullmatch(r"[A-Za-z0-9.-]{1,253}", domain := values.get("domain", "")) else "",
        # 576 is the least that every IPv4 host must take (RFC 791).
        mtu=int(mtu) if mtu.isdecimal() and 576 <= int(mtu) <= 65535 else 0,
        routes=_routes(values.get("staticroutes", "")),
    )


def commands(lease: Lease) -> tuple[tuple[str, ...], ...]:
    """The `ip` commands, as argument lists, that give a card its lease. Doing them twice changes nothing."""
    card = ("dev", lease.interface)
    found: list[tuple[str, ...]] = []
    if lease.mtu:
        found.append(("link", "set", *card, "mtu", str(lease.mtu)))
    found.append(("addr", "flush", *card))
    found.append(("addr", "add", f"{lease.address}/{lease.prefix}", "broadcast", "+", *card))
    for route in lease.routes:
        network, _, router = route.partition(" ")
        # A router outside of our own network is reached on the link (RFC 3442); 0.0.0.0 means the link itself.
        via = () if router == "0.0.0.0" else ("via", router)  # noqa: S104
        if via and not _near(lease, router):
            found.append(("route", "replace", f"{router}/32", *card))
        found.append(("route", "replace", network, *via, *card))
    if lease.router and not lease.routes:
        if not _near(lease, lease.router):
            found.append(("route", "replace", f"{lease.router}/32", *card))
        found.append(("route", "replace", "default", "via", lease.router, *card))
    return tuple(found)


def resolv_conf(lease: Lease) -> str:
    """The resolver's configuration; empty when the DHCP server named no name server."""
    lines = [f"search {lease.domain}"] if lease.domain and lease.dns else []
    return "".join(f"{line}\n" for line in [*lines, *(f"nameserver {address}" for address in lease.dns)])


def preferred(leases: Sequence[Lease], boot_mac: str) -> tuple[Lease, ...]:
    """The order in which leases are tried: the card that the firmware booted from first, then by name."""
    return tuple(sorted(leases, key=lambda lease: (lease.mac != boot_mac, lease.interface)))


class Network:
    """The cards and their DHCP clients, for as long as the agent runs. directory: for leases."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clients: dict[str, Child] = {}
        self._refused: dict[str, float] = {}
        self._aliases: frozenset[str] = frozenset()

    def connect(self, head: str, boot_mac: str, say: Callable[[str], None]) -> Lease:
        """Search until a card has an address and leads to `head` (base URL; empty: any address will do). `say` is told
        every SAY_SECONDS what is missing.

        Raises RookeryError `unavailable`, saying what is missing, after PATIENCE seconds; the DHCP clients go on, so
        that another call takes up where this one left. Cards and drivers that appear meanwhile are used.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        script = self._directory / "udhcpc.sh"
        script.write_text(_SCRIPT.format(directory=self._directory))
        script.chmod(0o755)
        run(["busybox", "ip", "link", "set", "lo", "up"], check=False)
        deadline = time.monotonic() + PATIENCE
        next_word = time.monotonic() + SAY_SECONDS
        while True:
            self._aliases = modules.load_wanted(self._aliases)
            names = probe.cards(probe.record())
            for name in names:
                self._ask(name, script)
            for lease in preferred(self._leases(), boot_mac):
                if self._leads_to(lease, head):
                    return lease
            if time.monotonic() > deadline:
                raise self._missing(names)
            if time.monotonic() > next_word:
                next_word += SAY_SECONDS
                say(f"still searching: {self._missing(names).record.message}")
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """End the DHCP clients; addresses stay."""
        for client in self._clients.values():
            end(client)
        self._clients.clear()

    def _ask(self, name: str, script: Path) -> None:
        if (client := self._clients.get(name)) and client.poll() is None:
            return
        if _read(NET / name / "carrier") != "1":
            run(["busybox", "ip", "link", "set", name, "up"], check=False)
        if _read(NET / name / "carrier") == "1":
            # Five questions 2 s apart, then a pause of 3 s, for ever.
            wish = ["-f", "-t", "5", "-T", "2", "-A", "3", "-O", "mtu", "-O", "staticroutes"]
            self._clients[name] = start(["busybox", "udhcpc", "-i", name, "-s", script, *wish])

    def _leases(self, all_of_them: bool = False) -> list[Lease]:
        found = []
        for name in self._clients:
            if all_of_them or self._refused.get(name, 0.0) <= time.monotonic():
                with contextlib.suppress(OSError):
                    found.append(parse_lease((self._directory / name).read_text(), _read(NET / name / "address")))
        return found

    def _leads_to(self, lease: Lease, head: str) -> bool:
        for arguments in commands(lease):
            run(["busybox", "ip", *arguments])
        if text := resolv_conf(lease):
            RESOLV_CONF.write_text(text)
        if not head or reachable(head):
            return True
        run(["busybox", "ip", "addr", "flush", "dev", lease.interface], check=False)
        self._refused[lease.interface] = time.monotonic() + REFUSED_SECONDS
        return False

    def _missing(self, names: Sequence[str]) -> RookeryError:
        carriers = [name for name in names if _read(NET / name / "carrier") == "1"]
        if not names:
            message, hint = "no network card was found", "does the drivers archive hold this card's driver?"
        elif not carriers:
            message, hint = f"no link on {', '.join(names)}", "check the cable and the switch port"
        elif not any((self._directory / name).exists() for name in carriers):
            message, hint = f"no DHCP answer on {', '.join(carriers)}", "is a DHCP server running on this network?"
        else:
            message = (
                f"no card leads to the head ({', '.join(lease.shown for lease in self._leases(all_of_them=True))})"
            )
            hint = "is 'rookery serve' running, and does the router lead to it?"
        return RookeryError(message, kind=ErrorKind.UNAVAILABLE, hint=hint)


def reachable(head: str) -> bool:
    """Whether something accepts a connection at the head's address."""
    address = urllib.parse.urlsplit(head)
    try:
        with socket.create_connection((address.hostname or "", address.port or 80), CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _near(lease: Lease, router: str) -> bool:
    return ipaddress.IPv4Address(router) in ipaddress.IPv4Network(f"{lease.address}/{lease.prefix}", strict=False)


def _addresses(text: str) -> tuple[str, ...]:
    found = []
    for word in text.split():
        with contextlib.suppress(ValueError):
            found.append(str(ipaddress.IPv4Address(word)))
    return tuple(found)


def _routes(text: str) -> tuple[str, ...]:
    words, found = text.split(), []
    for network, router in zip(words[::2], words[1::2], strict=False):
        with contextlib.suppress(ValueError):
            found.append(f"{ipaddress.IPv4Network(network, strict=False)} {ipaddress.IPv4Address(router)}")
    return tuple(found)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # as `carrier` of a card that is down
        return ""
