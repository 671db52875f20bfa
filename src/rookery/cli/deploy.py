# SPDX-License-Identifier: Apache-2.0
"""`rookery deploy` and `rookery seeding …`: what nodes shall boot, and what they shall stop doing."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from rookery.api import types
from rookery.api.client import Client
from rookery.cli import complete, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import DryRun, Json, Noderange, Yes, apply
from rookery.cli.render import examples

app = typer.Typer()
seeding = typer.Typer(no_args_is_help=True, help="What booted nodes go on giving to others.")


@app.command(
    "deploy", epilog=examples("rookery deploy n[01-16] --image base", "rookery deploy @gpu --image base:stable -y")
)
@speaks_to_head
def deploy(
    client: Client,
    nodes: Noderange,
    image: Annotated[
        str, typer.Option(metavar="NAME[:TAG]", help="The image to boot.", autocompletion=complete.references)
    ],
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Assign an image to nodes: a machine that waits for one boots at once, the others when they boot next.

    Names of discovered machines (x-525400123456) are taken too.
    """
    wanted = types.Deploy(nodes, image)
    apply(lambda dry: client.deploy(replace(wanted, dry_run=dry)), yes=yes, dry_run=dry_run, as_json=as_json)


@seeding.command("stop", epilog=examples("rookery seeding stop n[01-16]", "rookery seeding stop @all"))
@speaks_to_head
def stop(client: Client, nodes: Noderange, as_json: Json = False) -> None:
    """Tell booted nodes to stop giving the image to others. They stop with their next report."""
    changes = client.stop_seeding(nodes)
    if as_json:
        render.show_json(changes)
    else:
        render.out().print(f"{changes.nodes} stop seeding", markup=False)
