# SPDX-License-Identifier: Apache-2.0
"""`rookery trust …`: the keys of other sites whose capsules this site takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from rookery.api import capsules
from rookery.api.client import Client
from rookery.cli import complete, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import Json
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError

app = typer.Typer(no_args_is_help=True, help="Whose capsules ('rookery image import') this site takes.")
_KEY = re.compile(r"[0-9a-f]{64}|[0-9a-f]{4}(:[0-9a-f]{4}){9}")


def key_of(text: str) -> str:
    """The key or fingerprint that was typed, or the key in the file that was named. Raises RookeryError `invalid`."""
    plain = text.strip().lower()
    if _KEY.fullmatch(plain):
        return plain
    try:
        plain = Path(text).read_text().strip().lower()
    except (OSError, UnicodeDecodeError, ValueError):
        plain = ""
    if not _KEY.fullmatch(plain):
        raise RookeryError(
            f"{text[:80]!r} is neither a key (64 hex digits), nor a fingerprint, nor a file with one",
            kind=ErrorKind.INVALID,
            hint="give the other site's site.pub, or what 'rookery trust list' shows there",
        )
    return plain


@app.command("list", epilog=examples("rookery trust list", "rookery trust list --json"))
@speaks_to_head
def list_keys(client: Client, as_json: Json = False) -> None:
    """List this site's own key and those of other sites, with their fingerprints."""
    found = client.trusted_keys()
    if as_json:
        render.show_json(found)
        return
    rows = [
        (known.name, known.fingerprint, known.key, render.moment(known.added_at) if known.added_at else "")
        for known in (found.own, *found.keys)
    ]
    render.out().print(render.table(("SITE", "FINGERPRINT", "KEY", "SINCE"), rows))


@app.command(
    "add", epilog=examples("rookery trust add site.pub --as physics", "rookery trust add 0f1e2d3c… --as physics")
)
@speaks_to_head
def add(
    client: Client,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its site.pub, or the 64 hex digits in it.")],
    name: Annotated[str, typer.Option("--as", metavar="SITE", help="Your name for that site.")],
    as_json: Json = False,
) -> None:
    """Take capsules that are signed by another site's key, from now on.

    Whoever has that key can give images to your nodes: compare the fingerprint by a way that you trust.
    """
    found = client.trust(capsules.Trust(key_of(key), name))
    if as_json:
        render.show_json(found)
        return
    (known,) = (known for known in found.keys if known.name == name)
    render.out().print(f"capsules of {name} are taken; its fingerprint is {known.fingerprint}", markup=False)


@app.command("rm", epilog=examples("rookery trust rm physics"))
@speaks_to_head
def remove(
    client: Client,
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="Its name, the key, or its fingerprint.", autocompletion=complete.sites),
    ],
    as_json: Json = False,
) -> None:
    """Take no more capsules of a site. What was imported already stays: this site signed it."""
    done = client.distrust(key)
    if as_json:
        render.show_json(done)
    else:
        render.out().print(f"capsules of {done.removed[0]} are not taken any more", markup=False)
