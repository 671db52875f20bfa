# SPDX-License-Identifier: Apache-2.0
"""The head in one process: the only place where its parts are put together.

Start: configuration, lock, ports, catalog, store, seeder, agent, dnsmasq, HTTP; stop: the same backwards. Nothing of a
run is needed by the next one, so a head that was killed starts like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from rookery import __version__
from rookery.errors import ErrorKind, RookeryError
from rookery.head import network, unit
from rookery.head.boot import dnsmasq, loaders
from rookery.head.boot.agent import PackedAgent, pack
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Config, Paths, load
from rookery.head.fleet.credentials import Credentials
from rookery.head.fleet.fleet import Fleet
from rookery.head.http.app import create_app
from rookery.head.http.blobs import Sent
from rookery.head.http.limits import PatientProtocol
from rookery.head.http.published import Published
from rookery.head.http.services import Services
from rookery.head.init import database_url
from rookery.head.jobs import JobRecord, Jobs
from rookery.head.mirrors.rounds import Rounds, Watcher
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.planner import Planner
from rookery.head.swarm.seeder import Seeder
from rookery.head.swarm.torrent import make_torrent
from rookery.head.swarm.tracker import Tracker
from rookery.head.trees import trees
from rookery.log import logger
from rookery.relay.taker import join

log = logger(__name__)

BACKLOG = 4096  # a room of machines that is switched on at once
GRACE_SECONDS = 3  # for answers under way, when the head stops
_LOCK = "serve.lock"


@dataclass(frozen=True)
class _Sockets:
    tcp: socket.socket
    unix: socket.socket


def serve(directory: Path) -> None:
    """Run the head in `directory` (absolute) until SIGINT or SIGTERM. Raises RookeryError when it cannot start."""
    for talkative in ("alembic", "uvicorn", "httpx"):  # httpx writes whole URLs, in which tickets are
        logging.getLogger(talkative).setLevel(logging.WARNING)
    config, paths = load(directory), Paths(directory)
    address = network.address_of(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(paths))
        sockets = stack.enter_context(_ports(config, paths, address))
        try:
            services = _start(stack, config, paths, address)
        except KeyboardInterrupt:  # SIGTERM, too: see cli/main.py
            log.info("stopped before it began to answer")
            return
        asyncio.run(_answer(services, sockets))
        log.info("stopping")
        unit.notify("STOPPING=1")


@contextlib.contextmanager
def _locked(paths: Paths) -> Iterator[None]:
    """Hold the directory: two heads in one would overwrite each other."""
    path = paths.directory / _LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise RookeryError(
            f"not allowed to write in {paths.directory}", kind=ErrorKind.FORBIDDEN, hint="run as root, or as its owner"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(handle, 32).decode(errors="replace").strip()
            raise RookeryError(
                f"a head runs in {paths.directory} already{f' (pid {other})' if other else ''}",
                kind=ErrorKind.CONFLICT,
                hint="stop that one, or name another directory with --dir",
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)  # the lock ends with it


@contextlib.contextmanager
def _ports(config: Config, paths: Paths, address: str) -> Iterator[_Sockets]:
    tcp = network.take_port(address, config.network.port)
    with tcp:
        paths.socket.unlink(missing_ok=True)  # of a head that was killed: we hold the lock
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with unix:
            before = os.umask(0o177)
            try:
                unix.bind(str(paths.socket))
            except OSError as error:
                raise RookeryError(
                    f"cannot open the API's socket {paths.socket}: {error.strerror or error}",
                    hint="a socket's path has 107 bytes at most: choose a directory with a shorter path",
                ) from error
            finally:
                os.umask(before)
            try:
                yield _Sockets(tcp, unix)
            finally:
                paths.socket.unlink(missing_ok=True)


def _start(stack: contextlib.ExitStack, config: Config, paths: Paths, address: str) -> Services:
    """Start every part but HTTP; `stack` stops them."""
    started_at = time.time()
    _empty(paths)
    key = SiteKey.load(paths)
    catalog = Catalog.open(database_url(config, paths))
    stack.callback(catalog.close)
    credentials = Credentials(catalog)
    store = BlobStore(paths.blobs)
    publisher = Publisher(store, key, catalog, make_torrent)
    publisher.sweep()

    def on_bad_copy(_sha256: str, message: str) -> None:
        catalog.add_event("head", "bad-copy", message)

    ports = config.network
    seeder = Seeder(
        on_bad_copy,
        address,
        ports.swarm_port,
        config.swarm.rate,
        ports.relay_port,
        lambda sha256: key.secret(f"chain {sha256}"),
    )
    seeder.start()
    stack.callback(seeder.stop)
    seeders = (f"{address}:{config.network.swarm_port}",)
    tracker = Tracker(seeders)
    planner = Planner(join(address, seeder.relay_port), config.swarm.segment)
    published = Published(catalog, store, seeder, tracker)
    published.give_all()
    agents = _agents(config, paths, key)
    url = dnsmasq.head_url(config, address)
    fleet = Fleet(catalog, credentials, config, url, {arch: agent.sha256 for arch, agent in agents.items()}, seeders)
    child = _dnsmasq(stack, config, paths, address, catalog)
    jobs = Jobs(on_failed=functools.partial(_remember, catalog))
    stack.callback(jobs.stop)
    if config.files.check:
        watcher = Watcher(Rounds(catalog, store, url), config.files.check)
        watcher.start()
        stack.callback(watcher.stop)
    catalog.add_event("head", "started", f"rookery {__version__} serves at {url}")
    return Services(
        config=config,
        paths=paths,
        url=url,
        address=address,
        started_at=started_at,
        catalog=catalog,
        credentials=credentials,
        fleet=fleet,
        key=key,
        store=store,
        publisher=publisher,
        seeder=seeder,
        tracker=tracker,
        planner=planner,
        jobs=jobs,
        agents={agent.sha256: agent.path for agent in agents.values()},
        published=published,
        sent=Sent(),
        nodes_changed=lambda: child.reload(catalog.nodes()),
    )


def _empty(paths: Paths) -> None:
    """What a killed head left in its scratch space is nobody's; working trees are somebody's."""
    paths.work.mkdir(exist_ok=True)
    trees.sweep(paths.trees)
    for path in paths.work.iterdir():
        if path == paths.trees:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remember(catalog: Catalog, record: JobRecord) -> None:
    """Whoever did not start a job learns, too, that it failed."""
    if record.state == "failed" and record.error is not None:
        subject = "head" if record.kind.endswith("mirror") else f"image:{record.subject}"
        catalog.add_event(subject, "failed", f"{record.kind} {record.subject}: {record.error.message}")


def _agents(config: Config, paths: Paths, key: SiteKey) -> dict[str, PackedAgent]:
    """The agents by architecture. A head without DHCP and TFTP can publish without one, and says what is missing."""
    own = os.uname().machine
    try:
        packed = pack(key.public, paths.boot / f"agent-{own}.cpio")
    except RookeryError as error:
        if dnsmasq.needed(config) or error.kind is not ErrorKind.MISSING:
            raise
        log.warning("nodes cannot boot from this head: %s; try: %s", error.record.message, error.record.hint)
        return {}
    log.info("agent for %s: %.1f MB, SHA-256 %s", own, packed.size / 1e6, packed.sha256)
    return {own: packed}


def _dnsmasq(
    stack: contextlib.ExitStack, config: Config, paths: Paths, address: str, catalog: Catalog
) -> dnsmasq.Dnsmasq:
    child = dnsmasq.Dnsmasq(config, paths, address, lambda sentence: _tell(catalog, sentence))
    if dnsmasq.needed(config):
        child.start(catalog.nodes())
        stack.callback(child.stop)
    else:
        # Firmware that boots by HTTP may still ask for them.
        try:
            loaders.install(paths)
        except RookeryError as error:
            log.warning("%s; try: %s", error.record.message, error.record.hint)
    return child


def _tell(catalog: Catalog, sentence: str) -> None:
    catalog.add_event("head", "dnsmasq", sentence)


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us: its own handling ends the process before the other parts are stopped."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def _answer(services: Services, sockets: _Sockets) -> None:
    """Answer HTTP on both sockets until a signal comes."""
    config = uvicorn.Config(
        create_app(services),
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=False,  # a caller's address is what the tracker hands out: it is not for the caller to say
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )

    def started() -> None:
        log.info("the head answers at %s and %s", services.url, services.paths.socket)
        unit.notify("READY=1")

    server = _Server(config, started)

    def stop() -> None:
        server.force_exit = server.should_exit  # the second time: at once
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await server.serve(sockets=[sockets.tcp, sockets.unix])
