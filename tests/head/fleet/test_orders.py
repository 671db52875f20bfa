# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from rookery import codec
from rookery.head.catalog.rows import Node
from rookery.head.config import Config, Nodes, Swarm
from rookery.head.fleet.orders import hosts_lines, kernel_arguments, orders_for
from rookery.wire.orders import Orders, Source

SOURCE = Source("http://10.0.0.254:8470", "secret", ("10.0.0.254:8471",))
CONFIG = Config(
    swarm=Swarm(seed_rate=123), nodes=Nodes(authorized_keys=("ssh-ed25519 AAAA",), kernel_arguments="console=ttyS0")
)


def test_orders_say_what_the_catalog_knows(make_version) -> None:
    version = make_version("base", "a")
    node = Node("n1", image="base:stable", kernel_arguments="quiet", may_seed=False)
    orders = orders_for(node, version, CONFIG, SOURCE, ("10.0.0.1 n1",))
    assert (orders.node, orders.mode, orders.image) == ("n1", "ram", "base:stable")
    assert (orders.manifest, orders.source) == (version.manifest, SOURCE)
    assert (orders.seed.enabled, orders.seed.rate) == (False, 123)
    assert (orders.authorized_keys, orders.hosts) == (("ssh-ed25519 AAAA",), ("10.0.0.1 n1",))
    assert orders.kernel_arguments == "console=ttyS0 quiet"
    assert codec.loads(Orders, codec.dumps(orders)) == orders


def test_a_node_that_lost_its_assignment_is_told_what_it_booted(make_version) -> None:
    version = make_version("base", "a")
    assert orders_for(Node("n1"), version, CONFIG, SOURCE, ()).image == f"base@{version.id[:12]}"


@pytest.mark.parametrize(("nodes", "seconds"), [(0, 1.0), (3, 1.0), (1000, 5.0), (100_000, 30.0)])
def test_many_nodes_report_less_often(make_version, nodes: int, seconds: float) -> None:
    assert orders_for(Node("n1"), make_version("b", "a"), CONFIG, SOURCE, (), nodes).report_seconds == seconds


def test_the_nodes_kernel_arguments_come_last() -> None:
    assert kernel_arguments(Node("n1"), CONFIG) == "console=ttyS0"
    assert kernel_arguments(Node("n1", kernel_arguments="a=b"), Config(nodes=Nodes(kernel_arguments=""))) == "a=b"


def test_hosts() -> None:
    assert hosts_lines([("n1", "10.0.0.1"), ("gw.cluster", "10.0.0.2")]) == ("10.0.0.1 n1", "10.0.0.2 gw.cluster gw")
