# SPDX-License-Identifier: Apache-2.0
"""`rookery mirror …`: plain HTTP servers that hold copies of what is published."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from rookery.api import mirrors as types
from rookery.api.client import Client
from rookery.cli import complete, jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import Json, Yes, confirm, flag
from rookery.cli.render import examples

app = typer.Typer(no_args_is_help=True, help="Plain HTTP servers that hold copies of what is published.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The mirror's name.", autocompletion=complete.mirrors)]
Whole = Annotated[bool, flag("--whole", help="Read every file whole and digest it; samples otherwise.")]


@app.command(
    "add",
    epilog=examples(
        "rookery mirror add north http://north.example/images --priority 1 --location de",
        "rookery mirror add store 'http://store.example/blobs/{sha256}' --whole",
    ),
)
@speaks_to_head
def add(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for it.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="It has URL/IMAGE/VERSION/FILE there, as /files has; or with {image}, {version}, {name}, {sha256}.",
        ),
    ],
    priority: Annotated[int, typer.Option(help="1 is asked first.", min=1, max=999_999)] = 10,
    location: Annotated[str, typer.Option(metavar="COUNTRY", help="Two small letters, as in de.")] = "",
    whole: Whole = False,
    as_json: Json = False,
) -> None:
    """Check a mirror, register it, and hand out its URLs from now on: in metalinks, and as web seeds in torrents.

    One that does not answer, has other bytes, gives no ranges, redirects or wants a login is refused.
    """
    jobs.follow(client, lambda: client.add_mirror(types.AddMirror(name, url, priority, location, whole)))
    _tell(client.mirror(name), as_json)


@app.command("list", epilog=examples("rookery mirror list", "rookery mirror list --json"))
@speaks_to_head
def list_mirrors(client: Client, as_json: Json = False) -> None:
    """List mirrors and what their last check said."""
    found = client.mirrors()
    if as_json:
        render.show_json(found)
        return
    rows = [
        (m.name, str(m.priority), m.location, m.state, _files(m), render.moment(m.checked_at), m.url, m.reason)
        for m in found.mirrors
    ]
    columns = ("NAME", "PRIORITY", "LOCATION", "STATE", "FILES", "CHECKED", "URL", "REASON")
    if rows:
        render.out().print(render.table(columns, rows, right=("PRIORITY",), folded=("URL", "REASON")))
    else:
        render.err().print("no mirrors; 'rookery mirror add NAME URL' registers one")


@app.command("show", epilog=examples("rookery mirror show north", "rookery mirror show north --json"))
@speaks_to_head
def show(client: Client, name: Name, as_json: Json = False) -> None:
    """Show a mirror and each of its files."""
    found = client.mirror(name)
    if as_json:
        render.show_json(found)
        return
    mirror = found.mirror
    pairs = [
        ("mirror", mirror.name),
        ("url", mirror.url),
        ("priority", str(mirror.priority)),
        ("location", mirror.location),
        ("state", mirror.state),
        ("reason", mirror.reason),
        ("added", render.moment(mirror.added_at)),
        ("checked", render.moment(mirror.checked_at)),
    ]
    render.out().print(render.pairs(pairs))
    render.out().print()
    rows = [(file.state, "yes" if file.etag else "no", file.url, file.reason) for file in found.files]
    render.out().print(render.table(("STATE", "ETAG", "URL", "REASON"), rows, folded=("URL", "REASON")))


@app.command("check", epilog=examples("rookery mirror check", "rookery mirror check north --whole"))
@speaks_to_head
def check(
    client: Client,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="One mirror; all when left out.", autocompletion=complete.mirrors)
    ] = "",
    whole: Whole = False,
    as_json: Json = False,
) -> None:
    """Look at the files of a mirror now, or of all mirrors.

    Exits with 8 when one has wrong files, and with 6 when one does not answer: the first that is not good.
    """
    names = [name] if name else [mirror.name for mirror in client.mirrors().mirrors]
    wanted = types.CheckMirror(whole)
    ended = [jobs.outcome(client, partial(client.check_mirror, one, wanted)) for one in names]
    found = [client.mirror(one) for one in names]
    if as_json:
        render.show_json(types.Mirrors(tuple(details.mirror for details in found)))
    else:
        for details in found:
            _tell(details, as_json)
        if not found:
            render.err().print("no mirrors; 'rookery mirror add NAME URL' registers one")
    jobs.require_done(ended)


@app.command("rm", epilog=examples("rookery mirror rm north", "rookery mirror rm north -y"))
@speaks_to_head
def remove(client: Client, name: Name, yes: Yes = False, as_json: Json = False) -> None:
    """Forget a mirror: its URLs are handed out no more. What it holds stays there."""
    mirror = client.mirror(name).mirror
    confirm(f"forget mirror {name} at {mirror.url}?", yes=yes)
    removed = client.remove_mirror(name)
    if as_json:
        render.show_json(removed)
    else:
        render.out().print(f"mirror {name} is forgotten", markup=False)


def _tell(details: types.MirrorDetails, as_json: bool) -> None:
    if as_json:
        render.show_json(details)
        return
    mirror = details.mirror
    why = f": {mirror.reason}" if mirror.reason else f", {_files(mirror)} files"
    render.out().print(f"mirror {mirror.name} is {mirror.state}{why}", markup=False)
    if mirror.state == "good" and details.files and not all(f.etag for f in details.files if f.state == "good"):
        render.err().print("it gives no ETag for some files: clients cannot tell whether a file there has changed")


def _files(mirror: types.Mirror) -> str:
    return f"{mirror.good} of {mirror.good + mirror.missing + mirror.bad}"
