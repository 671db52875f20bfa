# SPDX-License-Identifier: Apache-2.0
"""`rookery image history | rollback | gc`: versions one after the other, back again, and away."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from rookery.api import versions
from rookery.api.client import Client
from rookery.cli import complete, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.image import ImageName
from rookery.cli.options import DryRun, Json, Yes, confirm
from rookery.cli.render import examples

app = typer.Typer()


@app.command("history", epilog=examples("rookery image history base", "rookery image history base --json"))
@speaks_to_head
def history(
    client: Client,
    name: ImageName,
    limit: Annotated[int, typer.Option(help="Only so many, the newest; 0 for all.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Show an image's versions, newest first: what each was made from, and what it changed against the one before.

    Under TAGS stands what a tag means now, and in brackets what it meant before.
    """
    found = client.history(name)
    entries = found.entries[:limit] if limit else found.entries
    if as_json:
        render.show_json(versions.History(found.image, entries, found.moves))
        return
    meant: dict[str, list[str]] = {}
    for move in found.moves:
        meant.setdefault(move.version, []).append(move.tag)
    rows = []
    for entry in entries:
        version = entry.version
        earlier = sorted(set(meant.get(version.id, [])) - set(version.tags))
        rows.append(
            (
                render.short(version.id),
                ", ".join([*version.tags, *(f"({tag})" for tag in earlier)]),
                render.moment(version.published_at),
                version.kind,
                render.size(version.size),
                entry.source,
                entry.change,
            )
        )
    columns = ("VERSION", "TAGS", "PUBLISHED", "KIND", "SIZE", "FROM", "AGAINST THE ONE BEFORE")
    render.out().print(render.table(columns, rows, right=("SIZE",)))


@app.command(
    "rollback",
    epilog=examples(
        "rookery image rollback base",
        "rookery image rollback base --tag stable",
        "rookery image rollback base --tag stable --to 3f2a9c01",
    ),
)
@speaks_to_head
def rollback(
    client: Client,
    name: ImageName,
    tag: Annotated[str, typer.Option(help="The tag that goes back.", autocompletion=complete.tags)] = "latest",
    to: Annotated[
        str,
        typer.Option(
            metavar="VERSION",
            help="The version to go back to: another tag, or the first digits of its id.",
            show_default="what the tag meant before",
            autocompletion=complete.tags_and_ids,
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Let NAME:TAG mean again what it meant before. Called again, it goes one further back.

    Nodes that have NAME:TAG boot the earlier version next time; those that run are not touched.
    """
    done = client.roll_back(name, versions.Rollback(tag, to))
    if as_json:
        render.show_json(done)
        return
    was, now = render.short(done.before), render.short(done.version.id)
    when = render.moment(done.version.published_at)
    render.out().print(f"{name}:{tag} is version {now} of {when} again; it was {was}", markup=False)


@app.command(
    "gc", epilog=examples("rookery image gc --dry-run", "rookery image gc --keep 3", "rookery image gc -y --json")
)
@speaks_to_head
def collect(
    client: Client,
    keep: Annotated[
        int, typer.Option(metavar="N", help="Keep the N newest versions of each image as well.", min=0, max=1_000_000)
    ] = 0,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove the versions that nobody needs, of all images, and the files that only they have.

    What has a tag stays, and what is assigned to a node, runs on one, is being fetched, has a ticket that still holds,
    is the origin of an open working tree, or is read by a job.
    """
    found = client.collect(versions.Collect(keep, dry_run=True))
    if not as_json:
        _show(found)
    if not dry_run and found.going:
        confirm(f"remove {_count(found)}?", yes=yes)
        found = client.collect(versions.Collect(keep))
        if not as_json:
            render.out().print(f"removed {_count(found)}", markup=False)
    if as_json:
        render.show_json(found)


def _count(found: versions.Collected) -> str:
    count = len(found.going)
    return f"{count} version{'' if count == 1 else 's'}, {render.size(found.size)}"


def _show(found: versions.Collected) -> None:
    rows = [
        (
            version.image,
            render.short(version.id),
            render.size(version.size),
            render.moment(version.published_at),
            "goes",
        )
        for version in found.going
    ]
    kept = [
        (
            item.image,
            render.short(item.id),
            render.size(item.size),
            render.moment(item.published_at),
            f"stays: {item.reason}",
        )
        for item in found.staying
    ]
    if not found.going:
        render.err().print(Text(f"nothing to remove: all {len(kept)} versions are needed"))
    if rows or kept:
        columns = ("IMAGE", "VERSION", "SIZE", "PUBLISHED", "")
        render.out().print(render.table(columns, [*rows, *kept], right=("SIZE",)))
