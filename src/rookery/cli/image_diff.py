# SPDX-License-Identifier: Apache-2.0
"""`rookery image diff`: what is different between two versions."""

from __future__ import annotations

from typing import Annotated

import typer

from rookery.api import types, versions
from rookery.api.client import Client
from rookery.cli import complete, jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import Json, flag
from rookery.cli.render import examples

app = typer.Typer()
_VERSION_HELP = "NAME, NAME:TAG, NAME@ID or an ID."


@app.command(
    "diff",
    epilog=examples(
        "rookery image diff base:stable base:testing",
        "rookery image diff base:stable base:testing --packages",
        "rookery image diff base@3f2a9c01 base --files --limit 0 --json",
    ),
)
@speaks_to_head
def diff(
    client: Client,
    before: Annotated[str, typer.Argument(metavar="A", help=_VERSION_HELP, autocompletion=complete.references)],
    after: Annotated[str, typer.Argument(metavar="B", help=_VERSION_HELP, autocompletion=complete.references)],
    packages: Annotated[bool, flag("--packages", help="Packages only; files are not read then.")] = False,
    files: Annotated[bool, flag("--files", help="Files only.")] = False,
    limit: Annotated[int, typer.Option(help="Show at most so many of each; 0 for all.", min=0)] = 50,
    as_json: Json = False,
) -> None:
    """Show what is different in version B against version A: packages, files, and how many bytes an update moves.

    Packages are as recorded when each version was published. Files are compared by content, type, mode, owner and
    extended attributes; times do not count.
    """
    both = packages == files
    wanted = versions.Compare(before, after, files=both or files)
    found = client.difference(jobs.follow(client, lambda: client.compare(wanted)).id)
    if as_json:
        render.show_json(found)
        return
    if both or packages:
        _show_packages(found, limit)
    if both or files:
        _show_files(found, limit)
    _say(f"to transfer: {render.size(found.transfer)} of {render.size(found.size)}, by who has {_name(found.before)}")
    for note in found.notes:
        _say(note)


def _show_packages(found: versions.Difference, limit: int) -> None:
    added = sum(not change.before for change in found.packages)
    removed = sum(not change.after for change in found.packages)
    changed = len(found.packages) - added - removed
    _say(f"packages: {added} added, {removed} removed, {changed} changed")
    shown = found.packages[:limit] if limit else found.packages
    if shown:
        rows = [(_sign(change.before, change.after), change.name, change.before, change.after) for change in shown]
        render.out().print(render.table(("", "PACKAGE", "A", "B"), rows))
    _more(len(found.packages) - len(shown))


def _show_files(found: versions.Difference, limit: int) -> None:
    counts = f"{found.files_added} added, {found.files_removed} removed, {found.files_changed} changed"
    _say(f"files: {counts}")
    shown = found.files[:limit] if limit else found.files
    if shown:
        rows = [
            (_sign(change.before, change.after), change.path, _what(change), change.before, change.after)
            for change in shown
        ]
        render.out().print(render.table(("", "PATH", "WHAT", "A", "B"), rows))
    _more(found.files_added + found.files_removed + found.files_changed - len(shown))


def _sign(before: str, after: str) -> str:
    return "+" if not before else "-" if not after else "~"


def _what(change: versions.FileChange) -> str:
    return ", ".join(what for what in change.what if what not in ("added", "removed"))


def _more(count: int) -> None:
    if count > 0:
        _say(f"and {count} more; --limit 0 shows all")


def _name(version: types.Version) -> str:
    return f"{version.image}@{render.short(version.id)}"


def _say(text: str) -> None:
    render.out().print(text, markup=False)
