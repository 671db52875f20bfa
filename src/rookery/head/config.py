# SPDX-License-Identifier: Apache-2.0
"""The head's configuration: `rookery.toml` in its directory, and where everything lies below that directory."""

from __future__ import annotations

import ipaddress
import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from rookery import codec, files
from rookery.codec import Length, Range
from rookery.errors import ErrorKind, RookeryError

DEFAULT_DIRECTORY = Path("/var/lib/rookery")
FILE_NAME = "rookery.toml"

Port = Annotated[int, Range(1, 65535)]
Text = Annotated[str, Length(512)]


class DhcpMode(StrEnum):
    """What the head does about DHCP."""

    FULL = "full"  # the only DHCP server: addresses and boot answer
    PROXY = "proxy"  # a foreign server gives addresses; we answer the boot question beside it
    OFF = "off"  # a foreign server does both; `rookery dhcp snippet` prints what it needs


@dataclass(frozen=True)
class Network:
    """Where nodes reach the head. interface: the provisioning interface. address: the head's own IPv4 address on it
    (empty: the interface's first). port: HTTP. swarm_port: BitTorrent. relay_port: of the chains."""

    interface: Text = ""
    address: Text = ""
    port: Port = 8470
    swarm_port: Port = 8471
    relay_port: Port = 8473

    def __post_init__(self) -> None:
        if self.address:
            ipaddress.IPv4Address(self.address)
        used: dict[int, str] = {}
        for name in ("port", "swarm_port", "relay_port"):
            number = getattr(self, name)
            if (other := used.setdefault(number, name)) != name:
                raise ValueError(f"network.{other} and network.{name} are both {number}")


@dataclass(frozen=True)
class Dhcp:
    """DHCP. range: `first-last` for machines without an address of their own (mode full). router and dns: addresses,
    empty to send none. lease: seconds."""

    mode: DhcpMode = DhcpMode.OFF
    range: Text = ""
    router: Text = ""
    dns: Text = ""
    lease: Annotated[int, Range(120, 10**8)] = 3600

    def __post_init__(self) -> None:
        if self.range:
            first, _, last = self.range.partition("-")
            if ipaddress.IPv4Address(first.strip()) > ipaddress.IPv4Address(last.strip()):
                raise ValueError(f"dhcp.range {self.range!r}: the first address is above the last")
        elif self.mode is DhcpMode.FULL:
            raise ValueError("dhcp.mode 'full' needs dhcp.range, as in '10.0.0.100-10.0.0.250'")
        for address in (self.router, self.dns):
            if address:
                ipaddress.IPv4Address(address)


@dataclass(frozen=True)
class Database:
    """url: an SQLAlchemy URL; empty for SQLite in the head's directory."""

    url: Text = ""


@dataclass(frozen=True)
class Swarm:
    """Caps in bytes per second, 0 for none. rate: for the head's seeder. node_rate: for each node while it fetches.
    seed_rate: for each booted node. rack_prefix: bits of an IPv4 address that name the rack of a node without the
    attribute `rack`. segment: nodes of one segment of the chain; twice as many form one line."""

    rate: Annotated[int, Range(0, 2**40)] = 0
    node_rate: Annotated[int, Range(0, 2**40)] = 0
    seed_rate: Annotated[int, Range(0, 2**40)] = 50_000_000
    rack_prefix: Annotated[int, Range(1, 32)] = 24
    segment: Annotated[int, Range(1, 10_000)] = 32


@dataclass(frozen=True)
class Build:
    """network_namespace: path of the network namespace in which package tools reach their mirrors, for a head that
    itself lives in an isolated one (`/proc/1/ns/net`); empty: the head's own."""

    network_namespace: Text = ""


@dataclass(frozen=True)
class Files:
    """Clients that are not ours: the paths below /files. public: open to everybody, without a ticket. priority and
    location: of this head's own URLs among those of the mirrors; location is a country (ISO 3166-1, two small letters)
    or empty. check: seconds between two checks of a mirror, 0 for none but those that are asked for."""

    public: bool = False
    priority: Annotated[int, Range(1, 999_999)] = 100
    location: Text = ""
    check: Annotated[int, Range(0, 10**8)] = 3600

    def __post_init__(self) -> None:
        require_location(self.location)


@dataclass(frozen=True)
class Nodes:
    """What every node gets. authorized_keys: public keys for root's authorized_keys."""

    authorized_keys: Annotated[tuple[str, ...], Length(1000)] = ()
    kernel_arguments: Annotated[str, Length(4096)] = "console=tty0 console=ttyS0,115200"


@dataclass(frozen=True)
class Config:
    """`rookery.toml`, table by table."""

    network: Network = field(default_factory=Network)
    dhcp: Dhcp = field(default_factory=Dhcp)
    database: Database = field(default_factory=Database)
    swarm: Swarm = field(default_factory=Swarm)
    build: Build = field(default_factory=Build)
    nodes: Nodes = field(default_factory=Nodes)
    files: Files = field(default_factory=Files)


@dataclass(frozen=True)
class Paths:
    """Where things lie below the head's directory."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / FILE_NAME

    @property
    def database(self) -> Path:
        """SQLite's file."""
        return self.directory / "catalog.sqlite"

    @property
    def site_key(self) -> Path:
        """The site's Ed25519 seed (64 hex digits, mode 0600). Whoever has it can make images that nodes believe."""
        return self.directory / "site.key"

    @property
    def site_public(self) -> Path:
        """Its public half (64 hex digits)."""
        return self.directory / "site.pub"

    @property
    def operator_token(self) -> Path:
        """The operator's bearer token (mode 0600)."""
        return self.directory / "operator.token"

    @property
    def socket(self) -> Path:
        """The API's Unix socket."""
        return self.directory / "api.sock"

    @property
    def blobs(self) -> Path:
        """Published blobs: `blobs/{sha256}` and their torrents `blobs/{sha256}.torrent`."""
        return self.directory / "blobs"

    @property
    def boot(self) -> Path:
        """What machines get before they run our code: TFTP root (boot loaders), the agent cpio."""
        return self.directory / "boot"

    @property
    def dnsmasq(self) -> Path:
        """Generated dnsmasq configuration, leases, pid."""
        return self.directory / "dnsmasq"

    @property
    def work(self) -> Path:
        """Scratch space of builds and publishing; emptied at start, but for `trees`."""
        return self.directory / "work"

    @property
    def trees(self) -> Path:
        """Working trees: `trees/{image}/root`. On the same file system as the scratch space."""
        return self.work / "trees"

    @property
    def known_hosts(self) -> Path:
        """Host keys of machines that were captured with --accept-new."""
        return self.directory / "known_hosts"


def require_location(text: str) -> str:
    """`text` when it is empty or a country's two small letters; else ValueError."""
    if text and not (len(text) == 2 and text.isascii() and text.isalpha() and text.islower()):
        raise ValueError(f"location {text[:40]!r} is not a country in two small letters, as 'de'")
    return text


def load(directory: Path) -> Config:
    """Read `rookery.toml`. Raises RookeryError `not-found`, or `invalid` with the line or the key."""
    path = Paths(directory).config
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise RookeryError(
            f"{directory} is not a head's directory: no {FILE_NAME} in it",
            kind=ErrorKind.NOT_FOUND,
            hint=f"run 'rookery init --dir {directory}'",
        ) from None
    except OSError as error:
        raise files.refused(error, f"cannot read {path}", files.OWNER) from error
    try:
        return codec.decode(Config, tomllib.loads(text), what=str(path))
    except tomllib.TOMLDecodeError as error:
        raise RookeryError(f"{path}: {error}", kind=ErrorKind.INVALID, hint="correct the line that it names") from error
