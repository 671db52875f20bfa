# SPDX-License-Identifier: Apache-2.0
"""The command `rookery`. Its error handler is the only place where an error becomes text on a terminal."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Annotated

import typer

from rookery import __version__
from rookery.cli import (
    deploy,
    dhcp,
    doctor,
    events,
    fetch,
    image,
    image_capsule,
    image_capture,
    image_diff,
    image_trees,
    image_versions,
    init,
    mirror,
    node,
    publish,
    serve,
    status,
    trust,
    version,
)
from rookery.cli.render import examples
from rookery.errors import ErrorKind, ErrorRecord, record_of

EXIT_CODES = {
    ErrorKind.FAILED: 1,
    ErrorKind.INVALID: 2,  # as for a wrong option
    ErrorKind.NOT_FOUND: 3,
    ErrorKind.CONFLICT: 4,
    ErrorKind.UNAUTHORIZED: 5,
    ErrorKind.FORBIDDEN: 5,
    ErrorKind.UNAVAILABLE: 6,
    ErrorKind.MISSING: 7,
    ErrorKind.CORRUPT: 8,
    ErrorKind.NO_SPACE: 9,
    ErrorKind.TOO_LARGE: 10,
    ErrorKind.INTERNAL: 70,
    ErrorKind.CANCELLED: 130,
}
INTERRUPTED = 130

app = typer.Typer(
    name="rookery",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Cluster provisioning in which machines hand the operating system to each other.",
    epilog=examples(
        "rookery init --interface eth1 --dhcp proxy",
        "rookery serve",
        "rookery image build base recipe.toml",
        "rookery node add n[01-16] --macs-from machines.csv",
        "rookery deploy n[01-16] --image base",
        "rookery watch n[01-16]",
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rookery {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, metavar="", help="Print the version and exit."),
    ] = False,
) -> None:
    """Cluster provisioning in which machines hand the operating system to each other."""


for commands in (
    init.app,
    serve.app,
    doctor.app,
    publish.app,
    fetch.app,
    deploy.app,
    status.app,
    events.app,
    version.app,
):
    app.add_typer(commands)
for commands in (image_versions.app, image_trees.app, image_capture.app, image_diff.app, image_capsule.app):
    image.app.add_typer(commands)
app.add_typer(image.app, name="image")
app.add_typer(node.app, name="node")
app.add_typer(mirror.app, name="mirror")
app.add_typer(trust.app, name="trust")
app.add_typer(deploy.seeding, name="seeding")
app.add_typer(dhcp.app, name="dhcp")


def text_of(record: ErrorRecord) -> str:
    """An error as it stands on a terminal: the message, the details indented, one thing to try."""
    lines = [f"error: {record.message}"]
    lines += [f"  {line}" for line in record.details.splitlines()]
    lines += [f"try: {record.hint}"] if record.hint else []
    return "\n".join(lines)


def main() -> None:
    """Run the command line and exit with the code of what happened."""
    # Ending a command by a signal is like Ctrl-C: a job on the head is cancelled, the terminal is as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except ModuleNotFoundError as error:
        hint = "pip install '.[head]' in a clone of rookery"
        record = ErrorRecord(ErrorKind.MISSING, f"this needs the Python module {error.name}", hint=hint)
        typer.echo(text_of(record), err=True)
        sys.exit(EXIT_CODES[record.kind])
    except Exception as error:  # noqa: BLE001 - whatever went wrong is shown here, and only here
        record = record_of(error)
        if record.kind is ErrorKind.INTERNAL:
            if os.environ.get("ROOKERY_DEBUG"):
                traceback.print_exc()
            record = ErrorRecord(
                record.kind, record.message, record.details, "this is a fault of rookery; ROOKERY_DEBUG=1 shows where"
            )
        typer.echo(text_of(record), err=True)
        sys.exit(EXIT_CODES[record.kind])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
