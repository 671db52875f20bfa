# SPDX-License-Identifier: Apache-2.0
"""`rookery image export` and `import`: a version in one signed file, from one site to another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rookery.api import capsules
from rookery.api.client import Client
from rookery.cli import jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.image import Reference, show_version
from rookery.cli.options import Json
from rookery.cli.render import examples
from rookery.cli.trust import key_of
from rookery.errors import ErrorKind, RookeryError

app = typer.Typer()


@app.command(
    "export",
    epilog=examples(
        "rookery image export base:stable base.capsule", "rookery image export base /mnt/stick/base.capsule"
    ),
)
@speaks_to_head
def export(
    client: Client,
    reference: Reference,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file, on the head.", dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Write a version into one signed file, a capsule, that another site can import.

    The signature is by this site's key: tell the other site its fingerprint, which 'rookery trust list' shows.
    """
    whole = file.absolute()
    job = jobs.follow(client, lambda: client.export(capsules.Export(reference, str(whole))))
    info = client.look_at(str(whole))
    if as_json:
        render.show_json(info)
        return
    what = f"{job.subject}@{render.short(job.version)}"
    render.out().print(f"{whole}: {what}, {render.size(info.size)}, signed by {info.fingerprint}", markup=False)
    if not whole.exists():
        where = "on the head's machine; a head that systemd started has a /tmp of its own"
        render.err().print(f"this machine does not see {whole}: it is {where}", markup=False)


@app.command(
    "import",
    epilog=examples(
        "rookery image import base.capsule",
        "rookery image import https://images.example.org/base.capsule --as their-base --tag testing",
        "rookery image import 'http://10.9.0.1:8470/fetch/base@3f2a9c01b2d4?ticket=…&key=…'",
        "rookery image import base.capsule --trust 1a2b:3c4d:5e6f:7a8b:9c0d:1e2f:3a4b:5c6d:7e8f:9a0b",
    ),
)
@speaks_to_head
def take_in(
    client: Client,
    source: Annotated[
        str,
        typer.Argument(metavar="FILE-OR-URL", help="The capsule, on the head or at a URL; or another head's ticket."),
    ],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Its name here.", show_default="its name there")
    ] = "",
    tag: Annotated[str, typer.Option(help="The name for this version.")] = "latest",
    trust: Annotated[
        str,
        typer.Option(
            metavar="KEY", help="Believe this key, this once: 64 hex digits, a file with them, or its fingerprint."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Take in a version that another site exported. Its id stays the same; this site signs it for its own nodes.

    Of a URL that 'rookery ticket' printed at the other head only what this head lacks is fetched.

    It must be signed by a key that this site trusts ('rookery trust add'). Of another key the fingerprint is shown, and
    on a terminal you are asked. A damaged capsule is refused, and nothing of it stays.
    """
    where = source if source.startswith(("http://", "https://")) else str(Path(source).absolute())
    info = client.look_at(where)
    believed = key_of(trust) if trust else ""
    if not info.site and believed not in (info.key, info.fingerprint):
        _ask(info, given=bool(trust))
        believed = info.key
    wanted = capsules.Import(where, name, tag, believed)
    named = f"{name or info.image}:{tag}"
    before = _meaning(client, named)
    done = jobs.follow(client, lambda: client.take_in(wanted))
    was = f"{named} was version {render.short(before)}" if before not in ("", done.version) else ""
    show_version(client, jobs.reference(done), as_json=as_json, was=was)


def _meaning(client: Client, reference: str) -> str:
    """The id of the version that a reference means now; empty for none."""
    try:
        return client.version(reference).version.id
    except RookeryError as error:
        if error.kind is not ErrorKind.NOT_FOUND:
            raise
        return ""


def _ask(info: capsules.CapsuleInfo, *, given: bool) -> None:
    """Ask whether an unknown signer is believed this once. Raises `forbidden` when there is nobody to ask."""
    add = f"rookery trust add {info.key} --as SITE"
    error = RookeryError(
        f"this site does not trust the key that signed the version: {info.fingerprint}",
        kind=ErrorKind.FORBIDDEN,
        details=f"key: {info.key}" + ("\nthe key given with --trust is another one" if given else ""),
        hint=f"if 'rookery trust list' shows this fingerprint at the other site: {add}",
    )
    if given or not sys.stdin.isatty():
        raise error
    render.err().print(
        f"{info.image}@{render.short(info.version)}, built {render.moment(info.created)}, is signed by a key that this "
        f"site does not trust.\nIts fingerprint is {info.fingerprint}\n"
        "Compare it with what 'rookery trust list' shows at the other site, by a way that you trust.",
        markup=False,
    )
    if not typer.confirm("import it, this once?", err=True):
        raise RookeryError("nothing was imported", kind=ErrorKind.CANCELLED)
