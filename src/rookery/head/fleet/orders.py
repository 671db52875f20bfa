# SPDX-License-Identifier: Apache-2.0
"""Orders: what a node is told to become, from what the catalog knows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rookery.head.catalog.rows import Node, Version
from rookery.head.config import Config
from rookery.wire.orders import Orders, SeedPolicy, Source

# All nodes together report about so often a second; a report costs the head's database about a millisecond.
REPORTS_PER_SECOND = 200
MOST_REPORT_SECONDS = 30.0


def orders_for(
    node: Node, version: Version, config: Config, source: Source, hosts: tuple[str, ...], nodes: int = 1
) -> Orders:
    """The orders of one boot. hosts: lines of /etc/hosts. nodes: how many there are in all: many report less often."""
    return Orders(
        node=node.name,
        mode=node.mode,
        image=node.image or f"{version.image}@{version.id[:12]}",
        manifest=version.manifest,
        source=source,
        seed=SeedPolicy(enabled=node.may_seed, rate=config.swarm.seed_rate),
        report_seconds=min(MOST_REPORT_SECONDS, max(1.0, nodes / REPORTS_PER_SECOND)),
        authorized_keys=config.nodes.authorized_keys,
        hosts=hosts,
        kernel_arguments=kernel_arguments(node, config),
    )


def kernel_arguments(node: Node, config: Config) -> str:
    """The configuration's and then the node's own: where an argument counts once, the kernel takes the last."""
    return f"{config.nodes.kernel_arguments} {node.kernel_arguments}".strip()


def hosts_lines(addresses: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Lines of /etc/hosts for (name, address); a name with a domain also gets its first part as alias."""
    lines = []
    for name, address in addresses:
        short = name.partition(".")[0]
        lines.append(f"{address} {name}" if short == name else f"{address} {name} {short}")
    return tuple(lines)
