# SPDX-License-Identifier: Apache-2.0
"""`rookery dhcp …`: what a DHCP server of the operator's own needs."""

from __future__ import annotations

from typing import Annotated

import typer

from rookery.cli.connection import Directory, head_directory
from rookery.cli.render import examples
from rookery.head.config import load

app = typer.Typer(no_args_is_help=True, help="What a DHCP server of your own needs.")


@app.command("snippet", epilog=examples("rookery dhcp snippet", "rookery dhcp snippet --server kea"))
def snippet(
    directory: Directory = None,
    server: Annotated[
        str, typer.Option(help="dnsmasq, isc, kea; table: for all others, what to answer to whom.")
    ] = "table",
) -> None:
    """Print what a DHCP server of your own needs so that machines find this head (dhcp.mode off).

    It names no node and no image, so it is pasted once. The head need not be running.
    """
    from rookery.head import network  # noqa: PLC0415 - needs the extra 'head'
    from rookery.head.boot.foreign import ForeignServer, foreign_snippet  # noqa: PLC0415

    try:
        kind = ForeignServer(server)
    except ValueError:
        known = ", ".join(ForeignServer)
        raise typer.BadParameter(f"{server!r} is none of {known}", param_hint="--server") from None
    config = load(head_directory(directory))
    typer.echo(foreign_snippet(kind, config, network.address_of(config)), nl=False)
