# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import RookeryError
from rookery.head.swarm.racks import FRESH_SECONDS, Racks, Told, rack_of


@pytest.mark.parametrize(
    ("address", "attributes", "rack"),
    [
        ("10.1.2.3", {}, "10.1.2.0/24"),
        ("10.1.2.3", {"rack": "r1"}, "r1"),
        ("10.1.2.3", {"rack": "  "}, "10.1.2.0/24"),
        ("::ffff:10.1.2.3", {}, "10.1.2.0/24"),
        ("fd00:1:2:3::9", {}, "fd00:1:2:3::/64"),
        ("fe80::9%eth0", {}, "fe80::/64"),
        ("nowhere", {}, ""),
        ("", {"rack": "r1"}, "r1"),
    ],
)
def test_the_rack_is_what_the_operator_says_else_the_subnet(
    address: str, attributes: dict[str, str], rack: str
) -> None:
    assert rack_of(address, attributes) == rack


@given(st.ip_addresses(), st.integers(1, 32), st.integers(1, 128))
def test_a_subnet_holds_the_address_that_named_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix4: int, prefix6: int
) -> None:
    found = ipaddress.ip_network(rack_of(str(address), {}, prefix4, prefix6))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert (mapped or address) in found
    assert found.prefixlen == (prefix4 if found.version == 4 else prefix6)


class Catalog:
    """Stands for the catalog, and counts how often it is asked."""

    def __init__(self, *told: Told) -> None:
        self.told, self.asked, self.broken = told, 0, False

    def read(self) -> tuple[Told, ...]:
        self.asked += 1
        if self.broken:
            raise RookeryError("the database does not answer")
        return self.told


def until(racks: Racks, wanted: str) -> None:
    """The catalog is read again by a thread: wait for what it found."""
    deadline = time.monotonic() + 10
    while racks.rack("session", "n1", "10.0.0.1") != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_callers_are_known_by_their_credential_and_else_by_their_address() -> None:
    racks = Racks(Catalog(("n1", None, "r1"), ("n2", "10.0.9.2", "r2"), ("n3", "10.0.9.3", " ")).read, 16)
    assert racks.rack("session", "n1", "10.0.0.1") == "r1"
    assert racks.rack("session", "n3", "10.0.9.3") == racks.rack("session", "n9", "10.0.1.1") == "10.0.0.0/16"
    # A ticket's subject is a version, whatever it is called.
    assert racks.rack("ticket", "n1", "10.0.9.2") == "r2"
    assert racks.rack("ticket", "n1", "10.0.0.1") == "10.0.0.0/16"


def test_the_catalog_is_asked_again_only_when_some_seconds_are_over() -> None:
    now, catalog = 0.0, Catalog(("n1", None, "r1"))
    racks = Racks(catalog.read, clock=lambda: now)
    assert {racks.rack("session", "n1", "10.0.0.1") for _ in range(100)} == {"r1"}
    assert catalog.asked == 1
    catalog.told = (("n1", None, "r2"),)
    now = FRESH_SECONDS
    until(racks, "r2")
    assert catalog.asked == 2


def test_a_catalog_that_does_not_answer_changes_nothing() -> None:
    now, catalog = 0.0, Catalog(("n1", None, "r1"))
    racks = Racks(catalog.read, clock=lambda: now)
    until(racks, "r1")
    catalog.broken, now = True, FRESH_SECONDS
    until(racks, "r1")
    while catalog.asked < 2:
        time.sleep(0.005)
    until(racks, "r1")
    catalog.broken, catalog.told, now = False, (("n1", None, "r2"),), 2 * FRESH_SECONDS
    until(racks, "r2")


def test_a_catalog_that_never_answered_leaves_the_subnet() -> None:
    catalog = Catalog()
    catalog.broken = True
    assert Racks(catalog.read).rack("session", "n1", "10.0.0.1") == "10.0.0.0/24"
