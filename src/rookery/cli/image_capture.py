# SPDX-License-Identifier: Apache-2.0
"""`rookery image capture`: an image from a machine that runs well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rookery.api import trees as asked
from rookery.api.client import Client
from rookery.cli import complete, jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.image import show_version
from rookery.cli.options import Json, Yes, confirm, flag
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError

app = typer.Typer()


@app.command(
    "capture",
    epilog=examples(
        "rookery image capture node7 --as golden",
        "rookery image capture 10.0.0.7 --as golden --user admin --sudo --mount /boot --exclude-from leave-out",
        "rookery image capture node7 --as golden --ssh-option ProxyJump=login1 --no-publish",
        "rookery image capture node7 --as golden --keep /etc/munge/munge.key --remove '/home/*/.ssh/id_*'",
    ),
)
@speaks_to_head
def capture(
    client: Client,
    host: Annotated[str, typer.Argument(metavar="HOST", help="The machine, by name or address.")],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="The image's name.", autocompletion=complete.images)
    ],
    tag: Annotated[str, typer.Option(help="The name for this version.")] = "latest",
    no_publish: Annotated[bool, flag("--no-publish", help="Leave it in the working tree, to be looked at.")] = False,
    user: Annotated[str, typer.Option(help="The user to log in as.", show_default="ssh's own")] = "",
    sudo: Annotated[bool, flag("--sudo", help="Read as root there by sudo, without a password.")] = False,
    port: Annotated[int, typer.Option(help="SSH's port.", min=0, max=65535, show_default="ssh's own")] = 0,
    ssh_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="As for ssh -o; may be given several times.")
    ] = None,
    accept_new: Annotated[
        bool, flag("--accept-new", help="Take the host key of a machine that was never seen before.")
    ] = False,
    mount: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A further file system to bring along; may be given several times."),
    ] = None,
    exclude_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of rsync patterns to leave out.", dir_okay=False)
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Keep what is taken out otherwise; may be given several times."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Take out this as well; may be given several times.")
    ] = None,
    root: Annotated[str, typer.Option(metavar="PATH", help="The directory of the machine to take as root.")] = "/",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Copy a running machine over SSH into a working tree, and publish it as an image.

    The head connects, with the SSH keys of the user who runs it. Capturing again moves only what changed since. What is
    one machine's alone (host keys, machine-id, logs, leases) is left out, but for what the image's recipe keeps.
    --keep and --remove change that, also for the next capture. Ctrl-C cancels; the next capture goes on.
    """
    _confirm_again(client, name, yes=yes)
    wanted = asked.Capture(
        host=host,
        name=name,
        tag="" if no_publish else tag,
        user=user,
        port=port,
        root=root,
        mounts=tuple(mount or ()),
        excludes=_patterns(exclude_from),
        keep=tuple(keep or ()),
        remove=tuple(remove or ()),
        ssh_options=tuple(ssh_option or ()),
        accept_new=accept_new,
        sudo=sudo,
        force=True,
    )
    job = jobs.follow(client, lambda: client.capture(wanted))
    tree = client.tree(name)
    if as_json and no_publish:
        render.show_json(tree)
        return
    if not as_json and tree.captured is not None:
        _tell(tree, tree.captured)
    if job.version:
        show_version(client, jobs.reference(job), as_json=as_json)


def _confirm_again(client: Client, name: str, *, yes: bool) -> None:
    """Ask before changes that were made by hand in the tree are lost."""
    try:
        tree = client.tree(name)
    except RookeryError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            return
        raise
    if tree.changed and tree.complete and not tree.in_use:
        confirm(
            f"the working tree of {name} was changed since it was captured; make it like the machine again?", yes=yes
        )


def _patterns(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise RookeryError(f"there is no file {path}", kind=ErrorKind.NOT_FOUND) from None
    except UnicodeDecodeError as error:
        raise RookeryError(f"{path} is not UTF-8 text: {error}", kind=ErrorKind.INVALID) from None
    return tuple(line for line in lines if line.strip() and not line.startswith(("#", ";")))


def _tell(tree: asked.Tree, done: asked.Captured) -> None:
    console = render.err()
    console.print(
        f"captured {done.source} in {render.seconds(done.seconds)}: {render.size(done.moved)} moved of"
        f" {render.size(done.total)}",
        markup=False,
    )
    if done.left_out:
        console.print(
            f"other file systems were left out: {', '.join(done.left_out)} (--mount brings them)", markup=False
        )
    if not tree.version:
        console.print(f"it is in {tree.root}; 'rookery image publish {tree.name}' publishes it", markup=False)
