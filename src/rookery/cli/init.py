# SPDX-License-Identifier: Apache-2.0
"""`rookery init`: a new head."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated

import typer

from rookery.cli.connection import Directory, head_directory
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError
from rookery.head.config import DhcpMode

app = typer.Typer()
# A key's type and its base64, wherever they stand in a line: options may come before them (sshd(8)).
KEY = re.compile(r"(?<!\S)((?:ssh|ecdsa|sk)-[\w@.-]+)\s+([A-Za-z0-9+/]+=*)(?!\S)")


@app.command(
    "init",
    epilog=examples(
        "rookery init",
        "rookery init --interface eth1 --dhcp proxy",
        "rookery init --interface eth1 --dhcp full --dhcp-range 10.0.0.100-10.0.0.250",
        "rookery init --dir ./head --address 127.0.0.1 --port 18470",
    ),
)
def init(
    directory: Directory = None,
    interface: Annotated[str, typer.Option(help="The interface that nodes are on.")] = "",
    address: Annotated[
        str, typer.Option(help="The head's own IPv4 address there.", show_default="the interface's first")
    ] = "",
    port: Annotated[int, typer.Option(help="TCP port of HTTP.", min=0, max=65535, show_default="8470")] = 0,
    swarm_port: Annotated[int, typer.Option(help="TCP port of BitTorrent.", min=0, max=65535, show_default="8471")] = 0,
    relay_port: Annotated[
        int, typer.Option(help="TCP port of the chains' first link.", min=0, max=65535, show_default="8473")
    ] = 0,
    mode: Annotated[
        DhcpMode, typer.Option("--dhcp", help="full: the only DHCP server; proxy: beside another one; off: none.")
    ] = DhcpMode.OFF,
    dhcp_range: Annotated[str, typer.Option(help="FIRST-LAST: addresses to give, for --dhcp full.")] = "",
    router: Annotated[str, typer.Option(help="The nodes' gateway, for --dhcp full.")] = "",
    dns: Annotated[str, typer.Option(help="The nodes' name server, for --dhcp full.")] = "",
    database: Annotated[str, typer.Option(help="postgresql://USER:PASSWORD@HOST/NAME.", show_default="SQLite")] = "",
    authorized_keys: Annotated[
        Path | None, typer.Option(help="File of SSH public keys that may log in as root on nodes.", dir_okay=False)
    ] = None,
) -> None:
    """Set up a head: directory, configuration, site key, operator token and database.

    Never asks, and never overwrites: on a head's directory it stops with exit code 4.
    """
    from rookery.head.boot import probe  # noqa: PLC0415
    from rookery.head.init import Settings, initialise  # noqa: PLC0415 - needs the extra 'head'

    keys = _keys(authorized_keys) if authorized_keys else ()
    where = head_directory(directory)
    ports = port, swarm_port, relay_port
    settings = Settings(interface, address, *ports, mode, dhcp_range, router, dns, database, keys)
    config = initialise(where, settings)
    reached = config.network.address or f"the first address of {config.network.interface}"
    serve_it = "rookery serve" if directory is None else f"rookery serve --dir {where}"
    typer.echo(f"{where} is a head's directory now. Nodes reach it at {reached}, port {config.network.port}.")
    typer.echo(f"Read {where}/rookery.toml, then run: {serve_it}")
    if interface and probe.interface(interface) is None:
        typer.echo(f"note: this host has no network interface {interface} yet", err=True)


def _keys(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise RookeryError(f"no file {path}", kind=ErrorKind.NOT_FOUND) from None
    except UnicodeDecodeError as error:
        raise RookeryError(f"{path} is not UTF-8 text: {error}", kind=ErrorKind.INVALID) from None
    keys = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    for number, line in keys.items():
        if not any(_is_key(kind, blob) for kind, blob in KEY.findall(line)):
            # The line is not shown: it may be of a private key.
            raise RookeryError(
                f"{path}:{number}: this is no SSH public key",
                kind=ErrorKind.INVALID,
                hint="a line is as in id_ed25519.pub: ssh-ed25519 AAAAC3Nz... comment",
            )
    return tuple(keys.values())


def _is_key(kind: str, blob: str) -> bool:
    """Whether base64 `blob` is a key of the type `kind`: it begins with that name and its length (RFC 4253, 6.6)."""
    try:
        found = base64.b64decode(blob, validate=True)
    except ValueError:
        return False
    name = kind.encode()
    return found.startswith(len(name).to_bytes(4, "big") + name) and len(found) > 4 + len(name)
