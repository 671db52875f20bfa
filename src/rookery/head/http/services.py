# SPDX-License-Identifier: Apache-2.0
"""What the HTTP routes work with; serve.py makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Config, Paths
from rookery.head.fleet.credentials import Credentials
from rookery.head.fleet.fleet import Fleet
from rookery.head.http.blobs import Sent
from rookery.head.http.published import Published
from rookery.head.jobs import Jobs
from rookery.head.publish.holds import Holds
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.planner import Planner
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.tracker import Tracker


@dataclass(frozen=True)
class Services:
    """The parts of a running head.

    url: where nodes reach it. address: its IPv4 address. started_at: seconds since 1970. agents: SHA-256 -> agent cpio.
    sent: what went out by HTTP. nodes_changed: called after the operator changed names, MACs or addresses.
    holds: the versions that jobs read now.
    """

    config: Config
    paths: Paths
    url: str
    address: str
    started_at: float
    catalog: Catalog
    credentials: Credentials
    fleet: Fleet
    key: SiteKey
    store: BlobStore
    publisher: Publisher
    seeder: Seeder
    tracker: Tracker
    planner: Planner
    jobs: Jobs
    agents: Mapping[str, Path]
    published: Published
    sent: Sent
    nodes_changed: Callable[[], None]
    holds: Holds = field(default_factory=Holds)
