# SPDX-License-Identifier: Apache-2.0
"""A head of real parts, all but dnsmasq and the agent, that answers on a TCP port and a Unix socket."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from rookery.api.client import Client
from rookery.head import network
from rookery.head.boot import loaders
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.head.config import Config, Files, Network, Paths
from rookery.head.fleet.credentials import Credentials
from rookery.head.fleet.fleet import Fleet
from rookery.head.http.app import create_app
from rookery.head.http.blobs import Sent
from rookery.head.http.limits import PatientProtocol
from rookery.head.http.published import Published
from rookery.head.http.services import Services
from rookery.head.jobs import Jobs
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.planner import Planner
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.torrent import make_torrent
from rookery.head.swarm.tracker import Tracker
from rookery.relay.taker import join
from tests.ports import free_port

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class RunningHead:
    services: Services
    token: str
    operator: Client
    bad_copies: list[str]
    changes: list[str]

    @property
    def url(self) -> str:
        return self.services.url

    def get(self, path: str, credential: str = "", **headers: str) -> httpx.Response:
        return self.ask("GET", path, credential, **headers)

    def ask(
        self, method: str, path: str, credential: str = "", content: bytes | None = None, **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if credential:
            named["Authorization"] = f"Bearer {credential}"
        with httpx.Client(trust_env=False, timeout=20) as client:
            return client.request(method, f"{self.url}{path}", content=content, headers=named)

    def publish_image(self, name: str = "base", tag: str = "latest", size: int = 200_000) -> Version:
        """An image whose files are random bytes: only nodes look into them."""
        place = self.services.paths.work / f"built-{os.urandom(4).hex()}"
        place.mkdir()
        for file in ("root.squashfs", "kernel", "drivers.cpio"):
            (place / file).write_bytes(os.urandom(size))
        parts = [place / file for file in ("root.squashfs", "kernel", "drivers.cpio")]
        built = BuiltImage(*parts, kernel_release="6.1.0", architecture="x86_64", packages={"bash": "5.2"})
        version = self.services.publisher.image(name, built, "# recipe\n", tag, silent, threading.Event())
        self.services.published.added(version)
        return version


@contextlib.contextmanager
def running_head(directory: Path, files: Files | None = None) -> Iterator[RunningHead]:
    paths = Paths(directory)
    for path in (paths.work, paths.boot):
        path.mkdir(parents=True)
    wire = network.take_port(LOOPBACK, 0)
    port = int(wire.getsockname()[1])
    config = Config(network=Network(address=LOOPBACK, port=port, swarm_port=free_port()), files=files or Files())
    agent = paths.boot / "agent.cpio"
    agent.write_bytes(b"an agent")
    digest = hashlib.sha256(b"an agent").hexdigest()
    loaders.install(paths)
    bad_copies: list[str] = []
    changes: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(wire)
        catalog = Catalog.open(f"sqlite:///{paths.database}")
        stack.callback(catalog.close)
        credentials, key, store = Credentials(catalog), SiteKey.create(paths), BlobStore(paths.blobs)
        seeder = Seeder(
            lambda sha256, _message: bad_copies.append(sha256),
            LOOPBACK,
            config.network.swarm_port,
            key_for=lambda sha256: key.secret(f"chain {sha256}"),
        )
        seeder.start()
        stack.callback(seeder.stop)
        seeders = (f"{LOOPBACK}:{config.network.swarm_port}",)
        tracker, jobs, url = Tracker(seeders), Jobs(), f"http://{LOOPBACK}:{port}"
        stack.callback(jobs.stop)
        services = Services(
            config=config,
            paths=paths,
            url=url,
            address=LOOPBACK,
            started_at=time.time(),
            catalog=catalog,
            credentials=credentials,
            fleet=Fleet(catalog, credentials, config, url, {"x86_64": digest}, seeders),
            key=key,
            store=store,
            publisher=Publisher(store, key, catalog, make_torrent),
            seeder=seeder,
            tracker=tracker,
            planner=Planner(join(LOOPBACK, seeder.relay_port)),
            jobs=jobs,
            agents={digest: agent},
            published=Published(catalog, store, seeder, tracker),
            sent=Sent(),
            nodes_changed=lambda: changes.append("changed"),
        )
        stack.enter_context(_answering(services, wire))
        token = credentials.operator()
        operator = stack.enter_context(Client(token, socket=paths.socket))
        yield RunningHead(services, token, operator, bad_copies, changes)


@contextlib.contextmanager
def _answering(services: Services, wire: socket.socket) -> Iterator[None]:
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with unix:
        unix.bind(str(services.paths.socket))
        unix.listen()
        config = uvicorn.Config(
            create_app(services), http=PatientProtocol, ws="none", lifespan="off", log_config=None, proxy_headers=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [wire, unix]})
        thread.start()
        try:
            yield
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RunningHead]:
    with running_head(tmp_path / "head") as running:
        yield running


@pytest.fixture(scope="module")
def lasting_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHead]:
    """One for a whole module: for tests that leave nothing behind that others would see."""
    with running_head(tmp_path_factory.mktemp("lasting") / "head") as running:
        yield running


@pytest.fixture
def open_head(tmp_path: Path) -> Iterator[RunningHead]:
    """One whose files are public."""
    with running_head(tmp_path / "open", Files(public=True, priority=3, location="fr")) as running:
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Iterator[RunningHead]:
    """Another site's head, with a key of its own."""
    with running_head(tmp_path / "other") as running:
        yield running
