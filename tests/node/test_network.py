# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from lab import netns
from rookery.errors import ErrorKind, RookeryError
from rookery.node import network
from rookery.node.network import Lease
from rookery.run import PIPE, run

ENVIRONMENT = """HOME=/
interface=eth0
ip=10.0.0.17
subnet=255.255.255.0
mask=24
router=10.0.0.1 10.0.0.2
dns=10.0.0.1 10.0.0.3
domain=cluster.example
mtu=9000
lease=3600
serverid=10.0.0.1
opt53=05
"""
MAC = "52:54:00:00:00:01"
LEASE = Lease("eth0", MAC, "10.0.0.17", 24, "10.0.0.1", ("10.0.0.1", "10.0.0.3"), "cluster.example", 9000)


def test_lease() -> None:
    assert network.parse_lease(ENVIRONMENT, MAC) == LEASE


def test_lease_without_mask_has_the_subnet() -> None:
    text = "interface=eth0\nip=10.0.0.17\nsubnet=255.255.240.0\n"
    assert network.parse_lease(text, MAC) == Lease("eth0", MAC, "10.0.0.17", 20)


def test_what_is_malformed_in_a_lease_is_left_out() -> None:
    text = "interface=eth0\nip=10.0.0.17\nmask=24\nrouter=$(reboot)\ndns=x 10.0.0.3\nmtu=12\ndomain=a b\n"
    text += "staticroutes=x y\n"
    assert network.parse_lease(text, MAC) == Lease("eth0", MAC, "10.0.0.17", 24, dns=("10.0.0.3",))


@pytest.mark.parametrize(
    "text", ["", "interface=eth0\nip=10.0.0.300\nmask=24\n", "interface=eth0\nip=10.0.0.3\nmask=99\n"]
)
def test_a_lease_without_a_good_address_is_refused(text: str) -> None:
    with pytest.raises(RookeryError, match="makes no sense") as caught:
        network.parse_lease(text, MAC)
    assert caught.value.kind is ErrorKind.INVALID


def test_commands() -> None:
    assert [" ".join(command) for command in network.commands(LEASE)] == [
        "link set dev eth0 mtu 9000",
        "addr flush dev eth0",
        "addr add 10.0.0.17/24 broadcast + dev eth0",
        "route replace default via 10.0.0.1 dev eth0",
    ]


def test_classless_routes_replace_the_router() -> None:
    text = ENVIRONMENT + "staticroutes=0.0.0.0/0 192.0.2.1 10.9.0.0/16 0.0.0.0\n"
    routes = [" ".join(command) for command in network.commands(network.parse_lease(text, MAC))][3:]
    assert routes == [
        "route replace 192.0.2.1/32 dev eth0",
        "route replace 0.0.0.0/0 via 192.0.2.1 dev eth0",
        "route replace 10.9.0.0/16 dev eth0",
    ]


def test_resolver() -> None:
    assert network.resolv_conf(LEASE) == "search cluster.example\nnameserver 10.0.0.1\nnameserver 10.0.0.3\n"
    assert network.resolv_conf(Lease("eth0", MAC, "10.0.0.17", 24, domain="x")) == ""


def test_the_boot_card_is_tried_first() -> None:
    leases = [Lease(f"eth{number}", f"52:54:00:00:00:0{number}", "10.0.0.1", 24) for number in (2, 0, 1)]
    assert [lease.interface for lease in network.preferred(leases, "52:54:00:00:00:01")] == ["eth1", "eth0", "eth2"]
    assert [lease.interface for lease in network.preferred(leases, "")] == ["eth0", "eth1", "eth2"]


DNSMASQ = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping", "--pid-file="]
DNSMASQ += ["--leasefile-ro", "--interface=br0", "--bind-interfaces", "--dhcp-range=10.79.0.10,10.79.0.20"]
OPTIONS = ["--dhcp-option=option:mtu,1400", "--dhcp-option=option:dns-server,10.79.0.1"]
LISTENER = ["busybox", "nc", "-ll", "-p", "8470", "-e", "true"]
PROGRAM = """
import sys
from pathlib import Path
from rookery.node import network, probe
from rookery.errors import RookeryError
# A veth has no driver behind it: stand in for what only real cards have.
probe.cards = lambda record: ("eth0",)
network.modules.load_wanted = lambda known=frozenset(): known
network.RESOLV_CONF = Path(sys.argv[1], "resolv.conf")
network.PATIENCE = float(sys.argv[2])
net = network.Network(Path(sys.argv[1]))
try:
    lease = net.connect("http://10.79.0.1:8470", "", lambda text: None)
    sys.stdout.write(f"{lease.shown} mtu {Path('/sys/class/net/eth0/mtu').read_text()}")
except RookeryError as error:
    sys.stdout.write(f"{error.kind}: {error}\\n")
finally:
    net.close()
"""


@pytest.mark.system
def test_connects_when_the_port_opens_late(tmp_path: Path) -> None:
    """A switch port that blocks at first, as spanning tree does, and a DHCP server that comes later."""
    with netns.room() as room:
        room.hub_address("10.79.0.1/24")
        host = room.host()
        room.cut(host)
        argv = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        # Nothing there: says so, without waiting for ever.
        silent = run([*host.inside, *argv, "1"])
        assert silent.stdout.startswith("unavailable: no link on eth0")
        with (
            room.process(host, [*argv, "60"], stdout=PIPE) as child,
            room.process(None, [*DNSMASQ, *OPTIONS]),
            room.process(None, LISTENER),
        ):
            assert child.stdout is not None
            timer = threading.Timer(2.0, lambda: room.cut(host, connected=True))
            timer.start()
            try:
                said = child.stdout.read().decode()
            finally:
                timer.join()
    assert "eth0 has 10.79.0." in said
    assert "mtu 1400" in said


@pytest.mark.system
def test_says_that_no_card_leads_to_the_head(tmp_path: Path) -> None:
    with netns.room() as room:
        room.hub_address("10.79.0.1/24")
        host = room.host()
        with room.process(None, DNSMASQ):
            said = run([*host.inside, sys.executable, "-c", PROGRAM, str(tmp_path), "8"]).stdout
    assert said.startswith("unavailable: no card leads to the head (eth0 has 10.79.0.")
