# SPDX-License-Identifier: Apache-2.0
"""`rookery image …`: build images, and see, tag and remove what is published."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated

import typer

from rookery.api import types
from rookery.api.client import Client
from rookery.cli import complete, jobs, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import Json, Yes, confirm, flag
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError

app = typer.Typer(no_args_is_help=True, help="Build images, and see, tag and remove what is published.")

ImageName = Annotated[str, typer.Argument(metavar="NAME", help="The image's name.", autocompletion=complete.images)]
Reference = Annotated[
    str,
    typer.Argument(metavar="NAME[:TAG]", help="NAME, NAME:TAG, NAME@ID or an ID.", autocompletion=complete.references),
]


@app.command(
    "build",
    epilog=examples(
        "rookery image build base examples/recipes/bookworm.toml",
        "rookery image build base base.toml --tag testing",
        "rookery image build arm arm.toml --on root@arm7 --accept-new",
    ),
)
@speaks_to_head
def build(
    client: Client,
    name: ImageName,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe file.", dir_okay=False)],
    tag: Annotated[str, typer.Option(help="The name for this version.")] = "latest",
    on: Annotated[
        str, typer.Option("--on", metavar="[USER@]HOST", help="Build on this machine, which the head reaches by SSH.")
    ] = "",
    ssh_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With --on: as for ssh -o; may be given several times."),
    ] = None,
    accept_new: Annotated[
        bool, flag("--accept-new", help="With --on: take the host key of a machine that was never seen before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build an image on the head from a recipe and publish it as a new version.

    Ctrl-C cancels the build on the head; nothing half-built stays behind.
    With --on another machine builds, by its own tools and for its own kind of processor, and the head publishes what
    comes back. The machine needs Python 3.11, the tools of the recipe's source, and root (or sudo without a password);
    nothing is installed there, and nothing stays.
    """
    try:
        text = recipe.read_text()
    except FileNotFoundError:
        raise RookeryError(
            f"no recipe {recipe}", kind=ErrorKind.NOT_FOUND, hint="docs/reference/recipe.md tells how to write one"
        ) from None
    except UnicodeDecodeError as error:
        raise RookeryError(f"{recipe} is not UTF-8 text: {error}", kind=ErrorKind.INVALID) from None
    whole = recipe.resolve()
    options = tuple(ssh_option or ())
    wanted = types.Build(name, text, str(recipe), str(whole.parent), tag, on, options, accept_new)
    show_version(client, jobs.reference(jobs.follow(client, lambda: client.build(wanted))), as_json=as_json)


def show_version(client: Client, reference: str, *, as_json: bool, was: str = "") -> types.Version:
    """Print a version that has just been made, and return it. was: a tag that has moved to it, and from where."""
    version = client.version(reference).version
    if as_json:
        render.show_json(version)
    else:
        names = ", ".join(f"{version.image}:{tag}" for tag in version.tags)
        told = f"{names or version.image} is version {render.short(version.id)}, {render.size(version.size)}"
        render.out().print(f"{told}; {was}" if was else told, markup=False)
    return version


@app.command("list", epilog=examples("rookery image list", "rookery image list --json"))
@speaks_to_head
def list_images(client: Client, as_json: Json = False) -> None:
    """List images and their versions."""
    images = client.images()
    if as_json:
        render.show_json(images)
        return
    versions = [version for image in images.images for version in image.versions]
    rows = [
        (
            v.image,
            ", ".join(v.tags),
            render.short(v.id),
            v.kind,
            v.architecture,
            render.size(v.size),
            render.moment(v.published_at),
        )
        for v in versions
    ]
    columns = ("IMAGE", "TAGS", "VERSION", "KIND", "ARCH", "SIZE", "PUBLISHED")
    if rows:
        render.out().print(render.table(columns, rows, right=("SIZE",)))
    else:
        render.err().print("no images yet; 'rookery image build NAME RECIPE' makes one")


@app.command("show", epilog=examples("rookery image show base", "rookery image show base:testing --json"))
@speaks_to_head
def show(
    client: Client,
    reference: Reference,
    packages: Annotated[bool, flag("--packages", help="List its packages too.")] = False,
    as_json: Json = False,
) -> None:
    """Show one version: its blobs, kernel, recipe and packages."""
    details = client.version(reference)
    if as_json:
        render.show_json(details)
        return
    version, console = details.version, render.out()
    pairs = [
        ("image", version.image),
        ("tags", ", ".join(version.tags)),
        ("version", version.id),
        ("kind", version.kind),
        ("architecture", version.architecture),
        ("kernel", version.kernel_release),
        ("size", render.size(version.size)),
        ("published", render.moment(version.published_at)),
        ("packages", str(len(details.packages)) if details.packages else ""),
    ]
    if (origin := details.origin) is not None:
        pairs += [
            ("signed there by", origin.fingerprint),
            ("name there", origin.image),
            ("built there", render.moment(origin.created)),
            ("exported", render.moment(origin.exported_at)),
            ("imported", render.moment(origin.imported_at)),
        ]
    console.print(render.pairs(pairs))
    blobs = [(b.role, b.name, render.size(b.size), b.sha256, "swarm" if b.info_hash else "HTTP") for b in version.blobs]
    console.print()
    console.print(render.table(("ROLE", "NAME", "SIZE", "SHA-256", "CARRIED BY"), blobs, right=("SIZE",)))
    if packages:
        console.print()
        console.print(render.table(("PACKAGE", "VERSION"), sorted(details.packages.items())))
    if details.recipe:
        console.print()
        console.print(details.recipe.rstrip(), markup=False)


@app.command(
    "verify",
    epilog=examples(
        "rookery image verify base", "rookery image verify base:testing --json", "rookery image verify --all"
    ),
)
@speaks_to_head
def verify(
    client: Client,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="[NAME[:TAG]]", help="NAME, NAME:TAG, NAME@ID or an ID.", autocompletion=complete.references
        ),
    ] = "",
    every: Annotated[bool, flag("--all", help="Every version of every image.")] = False,
    as_json: Json = False,
) -> None:
    """Read a stored version, or all of them, and check: its signature, the digest of each file, what lies beside it.

    Exits with 8 when something is wrong. Publishing the same content again repairs it.
    """
    if bool(reference) is every:
        raise RookeryError(
            "name a version or give --all", kind=ErrorKind.INVALID, hint="rookery image verify base, or --all"
        )
    if every:
        _verify_all(client, as_json=as_json)
        return
    job = jobs.outcome(client, lambda: client.verify(types.Verify(reference)))
    if as_json:
        render.show_json(job)
    if job.error is not None:
        raise RookeryError.from_record(job.error)
    if not as_json:
        version = client.version(job.version).version
        render.out().print(f"{job.subject}@{render.short(version.id)} is as it was published", markup=False)


def _verify_all(client: Client, *, as_json: bool) -> None:
    """Verify version after version; what is wrong with one does not keep the next from being looked at."""
    versions = [version for image in client.images().images for version in image.versions]
    if not versions and not as_json:
        render.err().print("no images yet: there is nothing to verify")
    done, damaged = [], []
    for version in versions:
        reference = f"{version.image}@{version.id}"
        job = jobs.outcome(client, functools.partial(client.verify, types.Verify(reference)))
        if job.state is types.JobState.CANCELLED:
            raise RookeryError("verifying was cancelled", kind=ErrorKind.CANCELLED)
        done.append(job)
        shown = f"{version.image}@{render.short(version.id)}"
        if job.error is not None:
            damaged += [f"{job.error.message}:", *(f"  {line}" for line in job.error.details.splitlines())]
        if not as_json:
            told = job.error.message if job.error else f"{shown} is as it was published"
            render.out().print(told, markup=False)
    if as_json:
        render.show_json(types.Jobs(tuple(done)))
    if failed := [job for job in done if job.error is not None]:
        raise RookeryError(
            f"{len(failed)} of {len(done)} versions are damaged",
            kind=ErrorKind.CORRUPT,
            details="\n".join(damaged),
            hint=next((job.error.hint for job in failed if job.error), ""),
        )


@app.command("tag", epilog=examples("rookery image tag base stable latest", "rookery image tag base 3f2a9c01 stable"))
@speaks_to_head
def tag_version(
    client: Client,
    name: ImageName,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The tag to set or move.", autocompletion=complete.tags)],
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="A version: another tag, or the first digits of its id.",
            autocompletion=complete.tags_and_ids,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Let NAME:TAG be another version. Nodes that have NAME:TAG boot it next time.

    Of a tag and a version's id, either may come first; of two tags, the first is the one that is set.
    """
    versions = client.image(name).versions
    tag, version = _in_order(versions, tag, version)
    tagged = client.tag(name, tag, version)
    if as_json:
        render.show_json(tagged)
        return
    before = next((item.id for item in versions if tag in item.tags), "")
    told = f"is version {render.short(tagged.id)}"
    if not before:
        told = f"is new: version {render.short(tagged.id)}"
    elif before != tagged.id:
        told += f"; it was {render.short(before)}"
    render.out().print(f"{name}:{tag} {told}", markup=False)


def _in_order(versions: tuple[types.Version, ...], tag: str, version: str) -> tuple[str, str]:
    """A tag and a version, of two words. They are turned only when the first one is an id and the second is none:
    whether a tag is there never decides it, so that a misspelled one does not become a new one."""

    def is_id(word: str) -> bool:
        return re.fullmatch(r"[0-9a-f]{8,64}", word) is not None and any(item.id.startswith(word) for item in versions)

    return (version, tag) if is_id(tag) and not is_id(version) else (tag, version)


@app.command("untag", epilog=examples("rookery image untag base testing", "rookery image untag base testing -y"))
@speaks_to_head
def remove_tag(
    client: Client,
    name: ImageName,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The tag.", autocompletion=complete.tags)],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove one tag; the version that it means stays, until 'rookery image gc'.

    Refused while nodes are assigned to it.
    """
    if not yes:
        version = client.version(f"{name}:{tag}").version
        confirm(f"remove the tag {name}:{tag} of version {render.short(version.id)}?", yes=yes)
    version = client.untag(name, tag)
    if as_json:
        render.show_json(version)
    else:
        render.out().print(f"{name}:{tag} is gone; it was version {render.short(version.id)}", markup=False)


@app.command("rm", epilog=examples("rookery image rm old", "rookery image rm base --version 3f2a9c01 -y"))
@speaks_to_head
def remove(
    client: Client,
    name: ImageName,
    version: Annotated[
        str,
        typer.Option(
            help="Only this version, with all its tags: the first digits of its id, or a tag.",
            autocompletion=complete.tags_and_ids,
        ),
    ] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove an image, or one version of it with all its tags, and its files. Refused while nodes have it."""
    versions = client.image(name).versions
    if version:
        versions = (_version_of(client, name, versions, version),)
    going = "; ".join(_with_tags(item) for item in versions)
    confirm(f"remove {going}?" if version else f"remove {name}: {going}?", yes=yes)
    # By its id: what was asked about goes, also when a tag has moved on since.
    removed = client.remove_image(name, versions[0].id if version else "")
    if as_json:
        render.show_json(removed)
        return
    known = {item.id: item for item in versions}
    told = (_with_tags(known[item]) if item in known else f"version {render.short(item)}" for item in removed.removed)
    render.out().print(f"removed {'; '.join(told)}", markup=False)


def _version_of(client: Client, name: str, versions: tuple[types.Version, ...], version: str) -> types.Version:
    """The version of an image that a tag or the first digits of an id mean, as the head takes them."""
    tagged = next((item for item in versions if version in item.tags), None)
    return tagged or client.version(f"{name}@{version}").version


def _with_tags(version: types.Version) -> str:
    tags = ", ".join(f"{version.image}:{tag}" for tag in version.tags)
    return f"version {render.short(version.id)} ({tags or 'no tags'})"
