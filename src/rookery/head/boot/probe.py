# SPDX-License-Identifier: Apache-2.0
"""A DHCP client of a few lines: asks who answers on an interface, and what they would give a machine (RFC 2131).

It speaks through a packet socket, so it works on an interface without an address and beside a real client on port 68.
It only discovers, so it takes no address from anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rookery.errors import ErrorKind, RookeryError

DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
MESSAGE_TYPE, SERVER, VENDOR_CLASS, BOOT_FILE, ARCHITECTURE = 53, 54, 60, 67, 93
_COOKIE = b"\x63\x82\x53\x63"
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8915, 0x891B, 0x8913, 0x8927


@dataclass(frozen=True)
class Reply:
    """What a server answered. kind: OFFER or ACK. server: its address. address: what it would give, or empty (a
    proxyDHCP server). next_server, file: where to boot from. options: by number, as raw bytes."""

    kind: int
    server: str
    address: str
    next_server: str
    file: str
    options: Mapping[int, bytes] = field(default_factory=dict)


def message(kind: int, transaction: int, mac: str, options: Mapping[int, bytes], address: str = "") -> bytes:
    """A client's message, asking for answers by broadcast. address: the client's own, if it has one."""
    head = _HEADER.pack(
        1, 1, 6, 0, transaction, 0, 0x8000, _octets(address), b"", b"", b"",
        bytes.fromhex(mac.replace(":", "")), b"", b"",
    )  # fmt: skip
    words = {MESSAGE_TYPE: bytes([kind]), **options}
    body = b"".join(bytes([number, len(value)]) + value for number, value in words.items())
    return (head + _COOKIE + body + b"\xff").ljust(300, b"\0")


def _octets(address: str) -> bytes:
    return socket.inet_aton(address) if address else b""


def parse_reply(data: bytes, transaction: int) -> Reply | None:
    """The reply to `transaction` in a UDP payload, or None when it is something else."""
    start = _HEADER.size + len(_COOKIE)
    if len(data) < start or data[0] != 2 or data[_HEADER.size : start] != _COOKIE:
        return None
    head = _HEADER.unpack_from(data)
    if head[4] != transaction:
        return None
    options: dict[int, bytes] = {}
    rest = data[start:]
    while len(rest) >= 2 and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    server = options.get(SERVER, b"")
    name = (options.get(BOOT_FILE) or head[13]).split(b"\0", 1)[0]
    return Reply(
        kind=options.get(MESSAGE_TYPE, b"\0")[0],
        server=socket.inet_ntoa(server) if len(server) == 4 else "",
        address="" if head[8] == b"\0\0\0\0" else socket.inet_ntoa(head[8]),
        next_server="" if head[9] == b"\0\0\0\0" else socket.inet_ntoa(head[9]),
        file=name.decode(errors="replace"),
        options=options,
    )


def offers(
    interface: str, seconds: float, options: Mapping[int, bytes] | None = None, *, most: int = 16
) -> tuple[Reply, ...]:
    """Every offer that comes within `seconds` of a DHCPDISCOVER on `interface`; returns early after `most` of them.

    options: what else to send, as a machine's firmware would. Raises RookeryError `forbidden` without the right to open
    packet sockets, `not-found` for the interface.
    """
    transaction = int.from_bytes(os.urandom(4), "big")
    # A locally administered address of nobody's, so that no server thinks of the head itself.
    mac = f"02:{os.urandom(5).hex(':')}"
    with _packet_socket(interface) as wire:
        wire.sendto(
            _datagram(message(DISCOVER, transaction, mac, options or {})), (interface, 0x0800, 0, 0, b"\xff" * 6)
        )
        found: list[Reply] = []
        until = time.monotonic() + seconds
        while len(found) < most and (left := until - time.monotonic()) > 0:
            wire.settimeout(left)
            with contextlib.suppress(TimeoutError):
                reply = _from_packet(wire.recv(4096), transaction)
                if reply is not None and reply.kind == OFFER:
                    found.append(reply)
    return tuple(found)


@dataclass(frozen=True)
class Interface:
    """A network interface of this host. address: its first IPv4 address with the prefix length, or None."""

    name: str
    up: bool
    carrier: bool
    address: ipaddress.IPv4Interface | None


def interface(name: str) -> Interface | None:
    """The interface `name`, or None when there is none."""
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            answer = fcntl.ioctl(handle, _SIOCGIFFLAGS, request)
        except OSError:
            return None
        flags = struct.unpack_from("H", answer, 16)[0]
        address = None
        with contextlib.suppress(OSError):
            own, mask = (
                socket.inet_ntoa(fcntl.ioctl(handle, call, request)[20:24]) for call in (_SIOCGIFADDR, _SIOCGIFNETMASK)
            )
            address = ipaddress.IPv4Interface(f"{own}/{mask}")
    return Interface(name, bool(flags & 0x1), bool(flags & 0x40), address)


def _packet_socket(interface: str) -> socket.socket:
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    except PermissionError as error:
        raise RookeryError(
            "not allowed to send a DHCP probe", kind=ErrorKind.FORBIDDEN, hint="run this as root"
        ) from error
    try:
        wire.bind((interface, 0x0800))
    except OSError as error:
        wire.close()
        raise RookeryError(f"no DHCP probe on {interface}: {error.strerror}", kind=ErrorKind.NOT_FOUND) from error
    return wire


def _datagram(payload: bytes) -> bytes:
    """UDP 0.0.0.0:68 -> 255.255.255.255:67 (RFC 768; checksum 0: none) in IPv4 (RFC 791)."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\0" * 4, b"\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + udp


def _from_packet(packet: bytes, transaction: int) -> Reply | None:
    length = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < length + 8 or length < 20 or packet[9] != 17:
        return None
    if struct.unpack_from("!H", packet, length + 2)[0] != 68:
        return None
    return parse_reply(packet[length + 8 :], transaction)
