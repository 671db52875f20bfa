# SPDX-License-Identifier: Apache-2.0
"""`rookery fetch`: the node's own fetch code, on any Linux machine, in or out of a cluster. It speaks to no API."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rookery import codec, files
from rookery.cli import render
from rookery.cli.options import flag
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError
from rookery.wire.report import Transfer

app = typer.Typer()
LINE_SECONDS = 5.0


@app.command(
    "fetch",
    epilog=examples(
        "rookery fetch 'http://10.0.0.1:8470/fetch/models@3f2a9c01b2d4?ticket=…&key=…' --to /data",
        "rookery fetch 'http://…' --to /data --seed 600 --stats stats.json",
        "rookery fetch 'http://…' --to /new --have /old/root.squashfs",
        "rookery fetch offer.json --key site.pub --to .",
    ),
)
def fetch(
    what: Annotated[
        str,
        typer.Argument(
            metavar="URL-OR-MANIFEST", help="The URL that 'rookery publish' printed, or a file with its answer."
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where to put it.", file_okay=False)],
    key: Annotated[
        str | None,
        typer.Option(help="The site's public key: 64 hex digits, or a file with them.", show_default="the URL's"),
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a JSON account: seconds, bytes, sources, failures.")
    ] = None,
    have: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="An older version, or anything like it: what it has is not fetched. A file, or a directory with files "
            "that were fetched. May be given several times.",
            exists=True,
        ),
    ] = None,
    seed: Annotated[float, typer.Option(metavar="SECONDS", help="Go on giving to others afterwards.", min=0)] = 0,
    no_unpack: Annotated[bool, flag("--no-unpack", help="Leave a directory the tar archive that it comes as.")] = False,
) -> None:
    """Fetch a published version, from its swarm and from the head, checked by the site's signature and digests.

    Only what is not here yet is fetched: an older version that stands at the same place, or is named with --have, gives
    what it has. A file keeps its name, a directory gets the name it was published under, an image comes as its files.
    When it is cut off, the same command goes on where it was.
    """
    from rookery.node.fetch.offer import fetch_offer  # noqa: PLC0415 - loads the swarm engine

    if stats is not None:
        _require_file(stats)
    stop = threading.Event()
    with _stopping(stop), _progress() as show:
        account = fetch_offer(what, to, _key(key), show, stop, seed, have or (), unpack=not no_unpack)
    if stats is not None:
        files.write_atomic(stats.absolute(), (codec.dumps(account, indent=2) + "\n").encode())
    fetched = account.bytes_from_head + account.bytes_from_peers
    line = f"{render.size(account.bytes_total)} in {render.seconds(account.seconds)}, {render.rate(account.rate)}"
    if account.bytes_filled:
        line += f", {render.size(account.bytes_filled)} from older versions"
    if account.bytes_had > account.bytes_filled:
        line += f", {render.size(account.bytes_had - account.bytes_filled)} were there"
    if fetched:
        line += f"; from {len(account.peers)} peers {render.share(account.bytes_from_peers, fetched)}"
        line += f", from the head {render.share(account.bytes_from_head, fetched)}"
    if account.hash_failures:
        line += f"; {account.hash_failures} pieces were wrong and fetched again"
    typer.echo(f"{account.name} in {to}: {line}")


def _require_file(path: Path) -> None:
    """Raise RookeryError when `path` cannot become a file: known before hours of fetching."""
    directory = path.absolute().parent
    if path.is_dir():
        raise RookeryError(f"{path} is a directory", kind=ErrorKind.INVALID, hint="name a file in it")
    if not directory.is_dir():
        raise RookeryError(f"there is no directory {directory}", kind=ErrorKind.NOT_FOUND, hint="make it first")
    files.require_writable(directory)


def _key(text: str | None) -> str | None:
    if text is None or len(text.strip()) == 64:
        return text
    try:
        return Path(text).read_text()
    except (OSError, UnicodeDecodeError):
        raise RookeryError(
            f"--key {text[:80]!r} is neither 64 hex digits nor a file with them",
            kind=ErrorKind.INVALID,
            hint="give the head's site.pub",
        ) from None


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set `stop`: what was fetched so far is kept in order."""
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Transfer], None]]:
    """Show a transfer: a bar on a terminal, a line now and then elsewhere."""
    console = render.err()
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[sources]}"), console=console, transient=True) as bar:
        task = bar.add_task("fetching", total=None, sources="")

        def show(now: Transfer) -> None:
            whole = now.from_head + now.from_peers
            sources = f"{now.peers} connections, {render.share(now.from_peers, whole)} from peers" if whole else ""
            if now.had:
                sources = f"{render.size(now.had)} were here" + (f", {sources}" if sources else "")
            doing = "giving" if now.total and now.done >= now.total else "fetching"
            bar.update(task, description=doing, total=now.total or None, completed=now.done, sources=sources)

        yield show


class _Lines:
    def __init__(self) -> None:
        self._spoke_at = time.monotonic()

    def __call__(self, now: Transfer) -> None:
        if time.monotonic() - self._spoke_at >= LINE_SECONDS:
            self._spoke_at = time.monotonic()
            typer.echo(
                f"{render.size(now.done)} of {render.size(now.total)}, {render.rate(now.rate)}",
                err=True,
            )
