# SPDX-License-Identifier: Apache-2.0
"""The head's own address, and its TCP port."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head import listeners
from rookery.head.boot import probe
from rookery.head.config import Config

_ROUTES = Path("/proc/net/route")


def address_of(config: Config) -> str:
    """The head's own IPv4 address. Raises RookeryError `not-found` when the interface has none, `invalid` when the
    configuration names neither."""
    network = config.network
    if network.address:
        return network.address
    if not network.interface:
        raise RookeryError(
            "neither network.interface nor network.address is set",
            kind=ErrorKind.INVALID,
            hint="set one of them in rookery.toml",
        )
    found = probe.interface(network.interface)
    if found is None:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise RookeryError(
            f"this host has no network interface {network.interface}",
            kind=ErrorKind.NOT_FOUND,
            hint=f"it has {known}; set network.interface in rookery.toml",
        )
    if found.address is None:
        raise RookeryError(
            f"the interface {network.interface} has no IPv4 address",
            kind=ErrorKind.NOT_FOUND,
            hint=f"give it one: ip address add 10.0.0.1/24 dev {network.interface}",
        )
    return str(found.address.ip)


def usual_address() -> str:
    """The IPv4 address that other machines most likely know this host by: of the interface with the default route, else
    of the first one that is up, else the loopback's."""
    names = [*_default_interfaces(), *(name for _, name in socket.if_nameindex() if name != "lo")]
    for name in names:
        found = probe.interface(name)
        if found is not None and found.up and found.address is not None:
            return str(found.address.ip)
    return "127.0.0.1"


def _default_interfaces() -> list[str]:
    try:
        rows = [line.split() for line in _ROUTES.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[0] for row in rows if len(row) > 1 and row[1] == "00000000"]


def take_port(address: str, port: int, setting: str = "network.port") -> socket.socket:
    """A TCP socket that has the port and does not listen yet: callers are refused until somebody answers them.

    Raises RookeryError: `conflict` when the port is in use, naming by whom if that can be seen; `not-found` when no
    interface has the address; `forbidden`."""
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol; with it every answer takes 40 ms.
    wire = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A port on which only closed connections linger can be taken again at once.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wire.bind((address, port))
    except OSError as error:
        wire.close()
        raise _explained(error, address, port, setting) from error
    return wire


def _explained(error: OSError, address: str, port: int, setting: str) -> RookeryError:
    if error.errno == errno.EADDRINUSE:
        users = listeners.users("tcp", port)
        by = f" by {', '.join(map(str, users))}" if users else ""
        return RookeryError(
            f"TCP port {port} on {address} is in use{by}",
            kind=ErrorKind.CONFLICT,
            hint=f"stop that program, or set {setting} in rookery.toml",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return RookeryError(
            f"no interface of this host has the address {address}",
            kind=ErrorKind.NOT_FOUND,
            hint="'ip -brief address' lists them; set network.address in rookery.toml",
        )
    if isinstance(error, PermissionError):
        return RookeryError(
            f"not allowed to open TCP port {port}",
            kind=ErrorKind.FORBIDDEN,
            hint=f"run as root, or set {setting} above 1023 in rookery.toml",
        )
    return RookeryError(f"cannot open TCP port {port} on {address}: {error.strerror}")
