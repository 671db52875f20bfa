# SPDX-License-Identifier: Apache-2.0
"""In which rack a caller stands: what the operator says of the node, else the subnet of its address.

A rack is whatever shares one uplink; its name means nothing beyond being the same for those who are in it.
"""

from __future__ import annotations

import functools
import ipaddress
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rookery.errors import RookeryError
from rookery.log import logger

log = logger(__name__)

ATTRIBUTE = "rack"  # of a node: `rookery node set n[001-040] rack=r1`
PREFIX_4 = 24  # bits of an IPv4 address that name its rack, unless rookery.toml says otherwise
PREFIX_6 = 64
FRESH_SECONDS = 5.0  # how long what the catalog said is believed
NOWHERE = ""
_SESSION = "session"  # kind of credential whose subject is a node's name

Told = tuple[str, str | None, str]  # a node's name, its fixed address, and the rack that the operator gave it


@dataclass(frozen=True)
class _Known:
    names: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)


def rack_of(address: str, attributes: Mapping[str, str], prefix4: int = PREFIX_4, prefix6: int = PREFIX_6) -> str:
    """The rack of a node: its attribute `rack`, else the subnet of its address (`10.1.2.0/24`); empty for what is no
    address. prefix4, prefix6: bits of a subnet."""
    return attributes.get(ATTRIBUTE, "").strip() or subnet(address, prefix4, prefix6)


@functools.lru_cache(maxsize=1 << 16)
def subnet(address: str, prefix4: int = PREFIX_4, prefix6: int = PREFIX_6) -> str:
    """The subnet of an address, as text; empty for what is no address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return NOWHERE
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return str(ipaddress.ip_network((found, prefix4 if found.version == 4 else prefix6), strict=False))


class Racks:
    """The racks of callers, from the catalog and their addresses. Thread-safe.

    read: what the operator says, as `lambda: catalog.attribute(ATTRIBUTE)`. It is called once when the first caller
    comes, and then by a thread of its own once FRESH_SECONDS are over: no later caller waits for the database.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[Told]],
        prefix4: int = PREFIX_4,
        prefix6: int = PREFIX_6,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._prefix4, self._prefix6, self._clock = read, prefix4, prefix6, clock
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._until = 0.0

    def rack(self, kind: str, subject: str, address: str) -> str:
        """The rack of a caller. kind, subject: of its credential; a session's subject is the node's name. A caller
        with another credential is known by its address, if that is a node's."""
        known = self._current()
        told = known.names.get(subject) if kind == _SESSION else known.addresses.get(address)
        return told or subnet(address, self._prefix4, self._prefix6)

    def _current(self) -> _Known:
        with self._lock:
            known, now = self._known, self._clock()
            if known is None:
                known = self._known = self._ask() or _Known()
                self._until = now + FRESH_SECONDS
            elif now >= self._until:
                self._until = now + FRESH_SECONDS
                threading.Thread(target=self._renew, name="racks", daemon=True).start()
        return known

    def _renew(self) -> None:
        if (known := self._ask()) is not None:
            self._known = known

    def _ask(self) -> _Known | None:
        try:
            told = [(name, address, rack.strip()) for name, address, rack in self._read()]
        except RookeryError as error:  # what was known before still holds
            log.warning("the racks of nodes cannot be read: %s", error.record.message)
            return None
        return _Known(
            {name: rack for name, _, rack in told if rack},
            {address: rack for _, address, rack in told if rack and address},
        )
