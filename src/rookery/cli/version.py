# SPDX-License-Identifier: Apache-2.0
"""`rookery version`."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from rookery import __version__
from rookery.cli.options import flag
from rookery.cli.render import examples, show_json

app = typer.Typer()


@app.command("version", epilog=examples("rookery version", "rookery version --json"))
def version(as_json: Annotated[bool, flag("--json", help="As JSON.")] = False) -> None:
    """Print the version of this program and of what it runs on."""
    found = {"rookery": __version__, "python": platform.python_version(), "machine": platform.machine()}
    if as_json:
        show_json(found)
    else:
        typer.echo("\n".join(f"{name} {value}" for name, value in found.items()))
