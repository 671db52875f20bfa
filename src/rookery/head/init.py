# SPDX-License-Identifier: Apache-2.0
"""A new head: its directory, configuration, site key, operator token and database. All of it, or nothing."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head import network
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Config, DhcpMode, Paths
from rookery.head.fleet.credentials import Credentials
from rookery.head.publish.site import SiteKey


@dataclass(frozen=True)
class Settings:
    """What `rookery init` was asked for; empty and 0 for the default. dhcp_range: `first-last`. database: a URL."""

    interface: str = ""
    address: str = ""
    port: int = 0
    swarm_port: int = 0
    relay_port: int = 0
    dhcp: DhcpMode = DhcpMode.OFF
    dhcp_range: str = ""
    router: str = ""
    dns: str = ""
    database: str = ""
    authorized_keys: tuple[str, ...] = ()


def database_url(config: Config, paths: Paths) -> str:
    """The catalog's SQLAlchemy URL: the configured one, or SQLite in the head's directory."""
    return config.database.url or f"sqlite:///{paths.database.absolute()}"


def initialise(directory: Path, settings: Settings) -> Config:
    """Make `directory` a head's directory and return its configuration.

    Raises RookeryError: `conflict` when it is one already, `invalid` for settings that do not fit together, and what
    the database raises. On failure nothing of it stays. The interface need not be there yet.
    """
    paths = Paths(directory.absolute())
    for there in (paths.config, paths.site_key, paths.operator_token):
        if there.exists():
            raise RookeryError(
                f"{directory} is a head's directory already: it has {there.name}",
                kind=ErrorKind.CONFLICT,
                hint="choose another directory with --dir, or go on with 'rookery serve'",
            )
    text = configuration(_completed(settings))
    config = parse(text, paths)
    with _undone_on_failure(paths):
        paths.directory.mkdir(parents=True, exist_ok=True)
        for path, mode in ((paths.blobs, 0o700), (paths.work, 0o700), (paths.boot, 0o755), (paths.dnsmasq, 0o755)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        SiteKey.create(paths)
        catalog = Catalog.open(database_url(config, paths))
        try:
            token = Credentials(catalog).operator()
            catalog.add_event("head", "initialised", "this head was set up")
        finally:
            catalog.close()
        if paths.database.exists():
            paths.database.chmod(0o600)  # the files that SQLite puts beside it get the same
        files.write_atomic(paths.operator_token, f"{token}\n".encode(), 0o600)
        # The last one: a directory without it is no head's directory.
        files.write_atomic(paths.config, text.encode(), 0o600)  # the database's URL may hold a password
    return config


def parse(text: str, paths: Paths) -> Config:
    """The configuration in `text`, which is to become `paths.config`. Raises RookeryError `invalid`."""
    return codec.decode(Config, tomllib.loads(text), what=paths.config.name)


def _completed(settings: Settings) -> Settings:
    if settings.interface:
        return settings
    if settings.dhcp is not DhcpMode.OFF:
        raise RookeryError(
            f"DHCP mode {settings.dhcp} needs the interface that nodes are on",
            kind=ErrorKind.INVALID,
            hint="give it with --interface",
        )
    if settings.address:
        return settings
    return Settings(**{**vars(settings), "address": network.usual_address()})


def configuration(settings: Settings) -> str:
    """The text of `rookery.toml` for settings, with a comment for every key."""

    def line(key: str, value: str | int | tuple[str, ...], default: str | int | tuple[str, ...], comment: str) -> str:
        shown = _toml(value or default)
        return f"{'' if value else '# '}{key} = {shown}  # {comment}"

    dhcp = settings.dhcp
    network_default, dhcp_default, swarm, nodes = Config().network, Config().dhcp, Config().swarm, Config().nodes
    foreign = Config().files
    lines = [
        "# The configuration of a Rookery head; docs/reference/configuration.md explains every key.",
        "# The head reads it when it starts. A line that is commented out shows the default.",
        "",
        "[network]",
        line("interface", settings.interface, "", "where the nodes are; needed for DHCP and TFTP"),
        line("address", settings.address, "", "the head's own IPv4 address there; default: the interface's first"),
        line("port", settings.port, network_default.port, "HTTP: boot, nodes, API (TCP)"),
        line("swarm_port", settings.swarm_port, network_default.swarm_port, "BitTorrent (TCP)"),
        line("relay_port", settings.relay_port, network_default.relay_port, "the chains' first link (TCP)"),
        "",
        "[dhcp]",
        line("mode", str(dhcp), "off", "full: the only DHCP server here; proxy: beside another; off"),
        line("range", settings.dhcp_range, "", "mode full: addresses to give, as in 10.0.0.100-10.0.0.250"),
        line("router", settings.router, "", "mode full: the nodes' gateway; default: none"),
        line("dns", settings.dns, "", "mode full: the nodes' name server; default: none"),
        line("lease", 0, dhcp_default.lease, "mode full: seconds"),
        "",
        "[database]",
        line(
            "url", settings.database, "", "default: SQLite in this directory; or postgresql://USER:PASSWORD@HOST/NAME"
        ),
        "",
        "[swarm]",
        line("rate", 0, swarm.rate, "cap of the head's seeder, bytes per second; 0: none"),
        line("node_rate", 0, swarm.node_rate, "cap of each node while it fetches, bytes per second; 0: none"),
        line("seed_rate", 0, swarm.seed_rate, "cap of each booted node that goes on giving, bytes per second"),
        line("rack_prefix", 0, swarm.rack_prefix, "bits of an IPv4 address that name a node's rack, unless it has one"),
        line("segment", 0, swarm.segment, "nodes of one segment of the chain; twice as many form one line"),
        "",
        "[build]",
        line("network_namespace", "", "", "where package tools reach their mirrors, for a head in an isolated network"),
        "",
        "[nodes]",
        line("authorized_keys", settings.authorized_keys, (), "SSH public keys that may log in as root on every node"),
        line("kernel_arguments", "", nodes.kernel_arguments, "of every node; a node's own come after them"),
        "",
        "[files]",
        line("public", "", foreign.public, "true: what is published is open to everybody at /files, without a ticket"),
        line("priority", "", foreign.priority, "of this head's own URLs beside the mirrors'; 1 is asked first"),
        line("location", "", foreign.location, "the head's country in two small letters"),
        line("check", "", foreign.check, "seconds between two checks of a mirror; 0: only when asked"),
        "",
    ]
    return "\n".join(lines)


def _toml(value: str | int | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, int):
        return str(value).lower()  # of a truth value, TOML's word
    # A TOML basic string has JSON's escapes.
    return codec.dumps(value).replace("\x7f", "\\u007f")


@contextlib.contextmanager
def _undone_on_failure(paths: Paths) -> Iterator[None]:
    """Remove on failure what was not there before."""
    directory = paths.directory
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    before = set(directory.iterdir()) if directory.is_dir() else set()
    try:
        yield
    except BaseException as error:
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        else:
            for path in set(directory.iterdir()) - before:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise files.refused(error, f"cannot write {directory}", files.OWNER) from error
        raise
