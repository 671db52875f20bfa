# SPDX-License-Identifier: Apache-2.0
"""`rookery events`: what happened."""

from __future__ import annotations

from typing import Annotated

import typer

from rookery import codec
from rookery.api import types
from rookery.api.client import Client
from rookery.cli import render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import Json, flag
from rookery.cli.render import examples

app = typer.Typer()
WAIT_SECONDS = 30.0


@app.command(
    "events", epilog=examples("rookery events", "rookery events --follow", "rookery events --subject node:n01 --json")
)
@speaks_to_head
def events(
    client: Client,
    follow: Annotated[bool, flag("--follow", "-f", help="Go on, until Ctrl-C.")] = False,
    subject: Annotated[str, typer.Option(help="Only of node:NAME, image:NAME or head.")] = "",
    after: Annotated[int, typer.Option(help="Only those with a higher id.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Print what happened, oldest first. With --json and --follow: one JSON object a line."""
    page = client.events(after, subject=subject)
    if as_json and not follow:
        found = page.events
        while page.events:
            page = client.events(page.last, subject=subject)
            found += page.events
        render.show_json(types.Events(found, page.last))
        return
    console = render.out()
    while page.events or follow:
        for event in page.events:
            if as_json:
                typer.echo(codec.dumps(event))
            else:
                console.print(
                    f"{render.moment(event.at)}  {event.subject:<16}  {event.kind:<14}  {event.message}", markup=False
                )
        page = client.events(page.last, subject=subject, wait=WAIT_SECONDS if follow else 0)
