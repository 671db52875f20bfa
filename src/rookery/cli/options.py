# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that several commands have in the same form."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from rookery.api.types import Changes
from rookery.cli import complete, render
from rookery.errors import ErrorKind, RookeryError


def flag(*names: str, help: str) -> Any:  # noqa: A002 - Typer's own word
    """An option without a value, whose help says nothing of a type."""
    return typer.Option(*names, help=help, metavar="")


Json = Annotated[bool, flag("--json", help="As JSON.")]
Yes = Annotated[bool, flag("-y", "--yes", help="Do not ask.")]
DryRun = Annotated[bool, flag("--dry-run", help="Only show what would change.")]
NODERANGE_HELP = "Nodes: n01, n[01-16], n[01-16]!n03, @group, @all."
Noderange = Annotated[str, typer.Argument(metavar="NODERANGE", help=NODERANGE_HELP, autocompletion=complete.nodes)]
OneNode = Annotated[str, typer.Argument(metavar="NODE", help="The name of one node.", autocompletion=complete.nodes)]
MaybeNoderange = Annotated[
    str,
    typer.Argument(metavar="[NODERANGE]", help=f"{NODERANGE_HELP} All when left out.", autocompletion=complete.nodes),
]


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is changed. Raises `cancelled` on no, `invalid` when there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise RookeryError(f"{question} Nobody is there to answer", kind=ErrorKind.INVALID, hint="give -y to go ahead")
    if not typer.confirm(question, err=True):
        raise RookeryError("nothing was changed", kind=ErrorKind.CANCELLED)


def apply(call: Callable[[bool], Changes], *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Show what `call(dry_run=True)` would change, ask, and let `call(dry_run=False)` do it."""
    preview = call(True)
    if not as_json:
        _show(preview)
    if not dry_run and preview.changes:
        confirm(f"change {preview.nodes}?", yes=yes)
        preview = call(False)
    if as_json:
        render.show_json(preview)


def _show(changes: Changes) -> None:
    if not changes.changes:
        render.err().print(f"nothing changes on {changes.nodes}", markup=False)
        return
    ordered = sorted(changes.changes, key=lambda change: (change.key, change.nodes))
    rows = [(change.nodes, change.key, _value(change.before), "->", _value(change.after)) for change in ordered]
    render.out().print(render.table(("NODES", "SETTING", "NOW", "", "THEN"), rows))


def _value(text: str) -> str:
    return text or "(not set)"
