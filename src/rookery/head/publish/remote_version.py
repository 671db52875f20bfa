# SPDX-License-Identifier: Apache-2.0
"""A version of another head, by the URL of a ticket: who signed it, and what this head lacks of it.

Nodes' fetch code does the fetching, as a process of its own. It is given what this head has: blobs that are the same,
and older ones with their chunk indexes. The offer is the head of a capsule, so that an import from a head and one from
a file are the same thing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx

import rookery
from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish import capsule
from rookery.head.publish.capsule import Opened
from rookery.head.publish.store import BlobStore
from rookery.run import BOUND, run
from rookery.wire import capsule as form
from rookery.wire import routes
from rookery.wire.manifest import Role, parse_payload
from rookery.wire.orders import CapsuleOffer, FetchOffer

STAGE = "fetching what is not here"
MOST_OLD = 32  # older blobs that the new one may be filled from
_MOST = 4 * form.MAX_HEAD
# Exit codes of the command line that say more than that it failed (cli/main.py).
_KINDS = {
    3: ErrorKind.NOT_FOUND,
    5: ErrorKind.UNAUTHORIZED,
    6: ErrorKind.UNAVAILABLE,
    8: ErrorKind.CORRUPT,
    9: ErrorKind.NO_SPACE,
}


@dataclass(frozen=True)
class Offered:
    """What another head offers, its signature checked by the key that it names."""

    opened: Opened
    offer: FetchOffer


def is_ticket(source: str) -> bool:
    """Whether a source is what `rookery ticket` prints, and not the address of a capsule."""
    parts = urlsplit(source)
    named = parts.scheme in ("http", "https") and parts.path.startswith(f"{routes.FETCH}/")
    return named and "ticket" in parse_qs(parts.query)


def look(url: str) -> Offered:
    """Ask the other head what a ticket's URL stands for. Whether the key is one to believe is for the caller to say.

    Raises RookeryError: `unavailable`, `unauthorized` and others as the head answers; `corrupt` for a wrong signature,
    or one by another key than the URL names.
    """
    parts = urlsplit(url)
    path = f"{routes.CAPSULE}/{parts.path.removeprefix(f'{routes.FETCH}/')}"
    data = _get(urlunsplit(parts._replace(path=path, fragment="")), f"{parts.scheme}://{parts.netloc}")
    told = codec.loads(CapsuleOffer, data, most=_MOST, what="the other head's offer")
    opened = capsule.open_head(told.capsule)
    named = parse_qs(parts.query).get("key", [opened.key])[0].strip().lower()
    if named != opened.key:
        raise RookeryError(
            "the version is signed by another key than the URL names",
            kind=ErrorKind.CORRUPT,
            details=f"named: {named[:64]}\nsigned by: {opened.key}",
            hint="ask the other site for a new ticket, and for its fingerprint",
        )
    return Offered(opened, FetchOffer(opened.capsule.manifest, told.source))


def fetch(
    offered: Offered,
    store: BlobStore,
    versions: Iterable[Version],
    place: Path,
    on_progress: OnProgress,
    cancel: threading.Event,
) -> tuple[dict[Role, Path], int]:
    """Bring the files of a version into the empty directory `place`; returns them, and the bytes that were moved.

    versions: of this head, the likeliest to have something in common first. Raises RookeryError: `unavailable` when the
    other head stops answering, `cancelled`, `no-space`, `corrupt`.
    """
    manifest, to, have = offered.opened.manifest, place / "new", place / "have"
    to.mkdir()
    have.mkdir()
    for blob in manifest.blobs:
        if blob.sha256 in store:
            with contextlib.suppress(RookeryError):  # damaged: it is fetched
                (to / blob.name).symlink_to(store.path(blob.sha256))
    olds = list(itertools.islice(_olds(store, versions, have), MOST_OLD))
    files.write_atomic(place / "offer.json", codec.dumps(offered.offer).encode(), 0o600)
    words: list[str | Path] = ["fetch", place / "offer.json", "--key", offered.opened.key, "--to", to, "--no-unpack"]
    words += ["--stats", place / "stats.json", *(word for old in olds for word in ("--have", old))]
    _run(words, offered.offer.source.head, on_progress, cancel)
    said = json.loads((place / "stats.json").read_text())
    moved = int(said["bytes_from_head"]) + int(said["bytes_from_peers"])
    return {blob.role: to / blob.name for blob in manifest.blobs}, moved


def by_likeness(versions: Iterable[Version], names: Sequence[str]) -> list[Version]:
    """Those of the same name first, and of each the newest."""
    return sorted(versions, key=lambda version: (version.image in names, version.published_at), reverse=True)


def _olds(store: BlobStore, versions: Iterable[Version], have: Path) -> Iterator[Path]:
    """Older blobs in `have`, each with its chunk index as the fetch code looks for it. Of those that are packed only
    the likeliest is made a file again."""
    blobs = (blob for version in versions for blob in parse_payload(version.manifest.signed_bytes).blobs)
    for number, sha256 in enumerate(dict.fromkeys(blob.sha256 for blob in blobs if blob.chunks)):
        if sha256 in store and (number == 0 or not store.is_packed(sha256)):
            with contextlib.suppress(RookeryError):  # damaged: it costs bytes
                (have / sha256).symlink_to(store.path(sha256))
                (have / f".{sha256}.chunks").symlink_to(store.chunks(sha256))
                yield have / sha256


def _run(words: Sequence[str | Path], head: str, on_progress: OnProgress, cancel: threading.Event) -> None:
    on_progress(Progress(STAGE))
    # A head that is killed takes it along. The path: the very modules that run here, wherever they lie.
    own = [*BOUND, sys.executable, "-m", "rookery.cli"]
    env = {"PYTHONPATH": str(Path(rookery.__file__).parents[1]), "COLUMNS": "500"}
    try:
        done = run(
            [*own, *words],
            check=False,
            env=env,
            cancel=cancel,
            on_line=lambda line: on_progress(Progress(STAGE, line=line)),
        )
    except RookeryError as error:
        if error.kind is ErrorKind.CANCELLED:
            raise RookeryError("importing was cancelled", kind=ErrorKind.CANCELLED) from None
        raise
    if done.code != 0:
        kind = _KINDS.get(done.code, ErrorKind.FAILED)
        found, hint = (re.search(rf"(?m)^{word}: (.*)", done.stdout) for word in ("error", "try"))
        gone = "import it again when that head answers"
        raise RookeryError(
            f"the version did not come from {head}: {found[1] if found else f'exit code {done.code}'}",
            kind=kind,
            details="" if found else done.stdout,
            hint=f"nothing was imported; {hint[1] if hint and kind is not ErrorKind.UNAVAILABLE else gone}",
        )


def _get(url: str, head: str) -> bytes:
    held = bytearray()
    try:
        with httpx.Client(timeout=capsule.SECONDS, trust_env=False) as client, client.stream("GET", url) as answer:
            for block in answer.iter_bytes():
                held += block
                if len(held) > _MOST:
                    raise RookeryError(f"what {head} answers is larger than {_MOST} bytes", kind=ErrorKind.TOO_LARGE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        hint = "is the other head running, and not behind a firewall?"
        raise RookeryError(
            f"{head} cannot be asked", kind=ErrorKind.UNAVAILABLE, details=str(error), hint=hint
        ) from error
    if answer.is_error:
        raise capsule.refusal(answer.status_code, bytes(held), head, "is it a head of this version of Rookery?")
    return bytes(held)
