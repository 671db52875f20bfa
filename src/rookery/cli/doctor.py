# SPDX-License-Identifier: Apache-2.0
"""`rookery doctor`: what is missing or wrong on this host."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from rookery.cli import render
from rookery.cli.connection import Directory, head_directory
from rookery.cli.options import Json, flag
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError
from rookery.head.config import Paths, load

app = typer.Typer()
STYLE = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@app.command(
    "doctor", epilog=examples("rookery doctor", "rookery doctor --rivals", "rookery doctor --dir ./head --json")
)
def doctor(
    directory: Directory = None,
    rivals: Annotated[
        bool, flag("--rivals", help="Ask who answers DHCP on the interface, also with dhcp.mode off.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is missing or wrong on this host, each with a remedy: programs, ports, interface, DHCP rivals.

    Before 'rookery init' it looks at the host alone. Exits with 1 when the head could not do its work.
    """
    from rookery.head.doctor import Finding, Level, examine  # noqa: PLC0415 - needs the extra 'head'

    paths = Paths(head_directory(directory).absolute())
    found: tuple[Finding, ...] = ()
    config = None
    try:
        config = load(paths.directory)
    except RookeryError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            found = (Finding("head", Level.WARNING, error.record.message, error.record.hint),)
        else:
            found = (Finding("rookery.toml", Level.FAULT, error.record.message, error.record.hint),)
    found += examine(config, paths, rivals=rivals)
    if as_json:
        render.show_json(found)
    else:
        order = {Level.FAULT: 0, Level.WARNING: 1, Level.OK: 2}
        rows: list[tuple[Text | str, ...]] = []
        for item in sorted(found, key=lambda item: order[item.level]):
            rows.append((Text(item.level, style=STYLE[item.level]), item.name, item.message))
            if item.remedy:
                rows.append(("", "", Text(f"try: {item.remedy}", style="bold")))
        render.out().print(render.table(("", "WHAT", "FINDING"), rows))
    if any(item.level is Level.FAULT for item in found):
        raise typer.Exit(1)
