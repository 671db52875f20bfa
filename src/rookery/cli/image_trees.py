# SPDX-License-Identifier: Apache-2.0
"""`rookery image open|shell|exec|edit|publish|trees|close`: working on an image.

The head opens, publishes and removes trees; shell, exec and edit then act in the tree itself, so they are for the
head's own machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rookery.api import trees as asked
from rookery.api.client import Client
from rookery.cli import complete, jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.image import Reference, show_version
from rookery.cli.options import Json, Yes, confirm
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError
from rookery.head.trees import lock
from rookery.head.trees import state as states
from rookery.head.trees.edit import edit
from rookery.head.trees.enter import SHELL, Inside, enter

app = typer.Typer()

TreeName = Annotated[str, typer.Argument(metavar="NAME", help="The image's name.", autocompletion=complete.trees)]
TreeReference = Annotated[
    str,
    typer.Argument(
        metavar="NAME[:TAG]",
        help="NAME of a working tree, or an image to open: NAME, NAME:TAG, NAME@ID.",
        autocompletion=complete.references,
    ),
]


@app.command("open", epilog=examples("rookery image open base", "rookery image open base:testing --json"))
@speaks_to_head
def open_tree(client: Client, reference: Reference, as_json: Json = False) -> None:
    """Unpack an image into a working tree on the head, to be changed and published as a new version.

    An image has one working tree. It stays until 'rookery image close'; what runs or is published is not touched.
    """
    name = jobs.follow(client, lambda: client.open_tree(asked.OpenTree(reference))).subject
    tree = client.tree(name)
    if as_json:
        render.show_json(tree)
    else:
        render.out().print(f"{name} is open in {tree.root}, from {tree.origin}", markup=False, soft_wrap=True)


@app.command("shell", epilog=examples("rookery image shell base", "rookery image shell base:testing"))
@speaks_to_head
def shell(client: Client, reference: TreeReference) -> None:
    """Open a shell inside an image's working tree; opens the tree if there is none. Exits with the shell's exit code.

    Runs on the head's machine, as root, in systemd-nspawn where that works, otherwise by chroot.
    """
    _run(client, reference, "shell", list(SHELL))


@app.command(
    "exec",
    epilog=examples("rookery image exec base -- apt-get update", "rookery image exec base -- systemctl enable chrony"),
)
@speaks_to_head
def execute(
    client: Client,
    reference: TreeReference,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
) -> None:
    """Run a command inside an image's working tree; opens the tree if there is none. Exits with its exit code.

    Runs on the head's machine, as root, in systemd-nspawn where that works, otherwise by chroot. Nothing stays mounted,
    and no process stays, however it ends.
    """
    _run(client, reference, "exec", command)


@app.command("edit", epilog=examples("rookery image edit base /etc/ssh/sshd_config"))
@speaks_to_head
def edit_file(
    client: Client,
    reference: TreeReference,
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file of the image, from its root.")],
) -> None:
    """Edit one file of an image's working tree in $VISUAL or $EDITOR; opens the tree if there is none.

    The file is replaced whole, with its owner, mode and attributes, or stays. Runs on the head's machine.
    """
    with _mine(client, reference, f"edit {path}") as inside:
        written = edit(inside.root, path)
    say = f"{written} is written" if written else f"{path} was not changed"
    render.err().print(say, markup=False)


@app.command("publish", epilog=examples("rookery image publish base", "rookery image publish base --tag testing"))
@speaks_to_head
def publish(
    client: Client,
    name: TreeName,
    tag: Annotated[str, typer.Option(help="The name for this version.")] = "latest",
    as_json: Json = False,
) -> None:
    """Publish an image's working tree as a new version. The tree stays, and is then what was published.

    An unchanged tree is the same version again. Ctrl-C cancels it on the head; the tree stays as it is.
    """
    job = jobs.follow(client, lambda: client.publish_tree(asked.PublishTree(name, tag)))
    show_version(client, jobs.reference(job), as_json=as_json)


@app.command("trees", epilog=examples("rookery image trees", "rookery image trees --json"))
@speaks_to_head
def list_trees(client: Client, as_json: Json = False) -> None:
    """List working trees: what they were made from, whether they were changed since, and who works in them."""
    found = client.trees()
    if as_json:
        render.show_json(found)
        return
    if not found.trees:
        render.err().print("no working trees; 'rookery image open NAME' makes one")
        return
    rows = [
        (
            tree.name,
            tree.origin,
            render.short(tree.version),
            _condition(tree),
            render.moment(tree.opened_at),
            tree.in_use,
        )
        for tree in found.trees
    ]
    columns = ("NAME", "FROM", "VERSION", "SINCE THEN", "OPENED", "IN USE")
    render.out().print(render.table(columns, rows))


@app.command("close", epilog=examples("rookery image close base", "rookery image close base -y"))
@speaks_to_head
def close(client: Client, name: TreeName, yes: Yes = False, as_json: Json = False) -> None:
    """Remove an image's working tree. Published versions stay."""
    tree = client.tree(name)
    lost = ", and with it what was not published" if tree.changed or not tree.version else ""
    confirm(f"remove the working tree of {name} ({tree.origin}){lost}?", yes=yes)
    removed = client.close_tree(name)
    if as_json:
        render.show_json(removed)
    else:
        render.out().print(f"the working tree of {name} is gone", markup=False)


def _condition(tree: asked.Tree) -> str:
    if not tree.complete:
        return "cut off"
    if not tree.version:
        return "not published"
    return "changed" if tree.changed else "unchanged"


def _run(client: Client, reference: str, what: str, argv: list[str]) -> None:
    with _mine(client, reference, what) as inside:
        code = enter(inside, argv)
    raise typer.Exit(code)


@contextlib.contextmanager
def _mine(client: Client, reference: str, what: str) -> Iterator[Inside]:
    """The working tree of an image, opened if there is none, held by this process."""
    tree = _opened(client, reference)
    place = Path(tree.place)
    if os.geteuid() != 0:
        raise RookeryError("working in a tree needs root", kind=ErrorKind.FORBIDDEN, hint="run it with sudo")
    try:
        here = states.load(place).id == tree.id
    except RookeryError:
        here = False
    if not here:
        raise RookeryError(
            f"the working tree of {tree.name} is on the head's machine, {client.trees().host}; this is"
            f" {socket.gethostname()}",
            kind=ErrorKind.INVALID,
            hint="call this command there, by ssh for example",
        )
    with lock.hold(place, what) as handle:
        yield Inside(tree.name, place, Path(tree.root), tree.network_namespace, handle)


def _opened(client: Client, reference: str) -> asked.Tree:
    name = reference.partition(":")[0].partition("@")[0]
    try:
        tree = client.tree(name)
    except RookeryError as error:
        if error.kind is not ErrorKind.NOT_FOUND:
            raise
        job = jobs.follow(client, lambda: client.open_tree(asked.OpenTree(reference)))
        return client.tree(job.subject)
    if reference != name and client.version(reference).version.id != tree.version:
        raise RookeryError(
            f"there is a working tree of {name} already, and it is not {reference}: {tree.origin}",
            kind=ErrorKind.CONFLICT,
            hint=f"work in it as '{name}', or give it up: rookery image close {name}",
        )
    return tree
