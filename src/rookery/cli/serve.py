# SPDX-License-Identifier: Apache-2.0
"""`rookery serve`: the head, in one process."""

from __future__ import annotations

from typing import Annotated

import typer

from rookery import log
from rookery.cli.connection import Directory, head_directory
from rookery.cli.options import flag
from rookery.cli.render import examples
from rookery.head import unit

app = typer.Typer()


@app.command("serve", epilog=examples("rookery serve", "rookery serve --dir ./head -v", "rookery serve --install-unit"))
def serve(
    directory: Directory = None,
    verbose: Annotated[bool, flag("-v", "--verbose", help="Log more.")] = False,
    install_unit: Annotated[bool, flag("--install-unit", help="Install a systemd unit for this head.")] = False,
    print_unit: Annotated[bool, flag("--print-unit", help="Print that unit.")] = False,
) -> None:
    """Run the head in the foreground: HTTP, API, tracker, seeder, and dnsmasq for DHCP and TFTP. Ctrl-C ends it."""
    from rookery.head import serve as head  # noqa: PLC0415 - needs the extra 'head'

    where = head_directory(directory).absolute()
    if print_unit:
        typer.echo(unit.text(where), nl=False)
    elif install_unit:
        typer.echo(f"installed {unit.install(where)}; start the head with: systemctl enable --now {unit.NAME}")
    else:
        log.setup(verbose=verbose)
        head.serve(where)
