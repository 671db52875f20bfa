# SPDX-License-Identifier: Apache-2.0
"""`rookery publish` and `rookery ticket`: files and trees that `rookery fetch` can get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rookery.api import types
from rookery.api.client import Client
from rookery.cli import complete, foreign, jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.foreign import ClientKind
from rookery.cli.options import Json
from rookery.cli.render import examples

app = typer.Typer()

Days = Annotated[float, typer.Option(help="How long the ticket holds, in days.", min=0.001, max=3650)]
DAY = 86400


@app.command(
    "publish", epilog=examples("rookery publish dataset.tar", "rookery publish /srv/models --as models --tag v3")
)
@speaks_to_head
def publish(
    client: Client,
    source: Annotated[Path, typer.Argument(metavar="DIR-OR-FILE", help="What to publish, on the head.")],
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Its name.", show_default="the file's")
    ] = None,
    tag: Annotated[str, typer.Option(help="The name for this version.")] = "latest",
    days: Days = 7,
    as_json: Json = False,
) -> None:
    """Make a file or a directory on the head a version that 'rookery fetch' can get, and print the command for it."""
    whole = source.resolve()
    wanted = types.Publish(str(whole), name or whole.name, tag)
    version = client.version(jobs.reference(jobs.follow(client, lambda: client.publish(wanted)))).version
    offered = client.ticket(types.NewTicket(f"{version.image}@{version.id}", round(days * DAY)))
    if as_json:
        render.show_json(offered)
        return
    render.err().print(
        f"{version.image}:{tag} is version {render.short(version.id)}, {render.size(version.size)}; fetch it with:",
        markup=False,
    )
    typer.echo(foreign.command(ClientKind.ROOKERY, offered))


@app.command(
    "ticket",
    epilog=examples(
        "rookery ticket models:v3", "rookery ticket base --for aria2", "rookery ticket base --days 30 --json"
    ),
)
@speaks_to_head
def ticket(
    client: Client,
    reference: Annotated[
        str, typer.Argument(metavar="NAME[:TAG]", help="What may be fetched.", autocompletion=complete.references)
    ],
    days: Days = 7,
    client_kind: Annotated[
        ClientKind, typer.Option("--for", help="Which program shall fetch: urls prints the URLs alone.")
    ] = ClientKind.ROOKERY,
    as_json: Json = False,
) -> None:
    """Make a ticket for one version and print the command that fetches with it.

    Whoever has the ticket may fetch this version, and nothing else, until it expires.
    """
    offered = client.ticket(types.NewTicket(reference, round(days * DAY)))
    if as_json:
        render.show_json(offered)
    else:
        typer.echo(foreign.command(client_kind, offered))
