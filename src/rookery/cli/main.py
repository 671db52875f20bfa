# SPDX-License-Identifier: Apache-2.0
"""The command `rookery`. Its error handler is the only place where an error becomes text on a terminal."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from dataclasses import replace
from typing import Annotated, Any

import typer

from rookery import __version__, files
from rookery.cli import (
    bash,
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
from rookery.errors import ErrorKind, ErrorRecord, RookeryError, record_of

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
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Click's ClickException, wherever this version of Typer has it.
USAGE_ERROR = typer.BadParameter.__mro__[2]

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
    bash.use()
    by_bash = bash.asked(os.environ)
    try:
        # Not standalone: what is wrong is told by us, below. What comes back is the code of a typer.Exit.
        sys.exit(_command()(prog_name="rookery", standalone_mode=False) or 0)
    except typer.Abort:  # Ctrl-C or the end of the input, at a question
        record = ErrorRecord(ErrorKind.CANCELLED, "nothing was changed")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit:
        if by_bash:
            bash.finish()
        raise
    except Exception as error:  # noqa: BLE001 - whatever went wrong is shown here, and only here
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error), err=True)
            sys.exit(EXIT_CODES[ErrorKind.INVALID])
        if os.environ.get("ROOKERY_DEBUG") and not isinstance(error, RookeryError | USAGE_ERROR):
            traceback.print_exc()
        record = _record_of(error)
    typer.echo(text_of(record), err=True)
    sys.exit(EXIT_CODES[record.kind])


def _command() -> Any:
    """The whole command line. Typer keeps the ends of lines in a help's later paragraphs; a terminal has its own."""

    def flow(command: Any) -> None:
        paragraphs = (command.help or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        for one in getattr(command, "commands", {}).values():
            flow(one)

    whole = typer.main.get_command(app)
    flow(whole)
    return whole


def _record_of(error: Exception) -> ErrorRecord:
    """The record of whatever ended a command."""
    if isinstance(error, USAGE_ERROR):
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        hint = "pip install '.[head]' in a clone of rookery"
        return ErrorRecord(ErrorKind.MISSING, f"this needs the Python module {error.name}", hint=hint)
    if isinstance(error, OSError) and error.filename is not None and error.errno in NOT_ALLOWED:
        # Of a place that the user named, or of a directory that is another user's: no fault of ours.
        return files.refused(error, f"cannot use {os.fsdecode(error.filename)}", files.OWNER).record
    record = record_of(error)
    if record.kind is ErrorKind.INTERNAL:
        record = replace(record, hint="this is a fault of rookery; ROOKERY_DEBUG=1 shows where")
    return record


def _usage(error: Any) -> ErrorRecord:
    """A wrong option or argument, in one line."""
    first, _, more = error.format_message().strip().partition("\n")
    first = (
        first.replace("Value error, ", "").replace(": Input should", ": it should").partition(", unable to parse")[0]
    )
    message = first[:1].lower() + first[1:].rstrip(".")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "rookery"
    return ErrorRecord(ErrorKind.INVALID, message, more.strip(), f"{command} --help")
