# SPDX-License-Identifier: Apache-2.0
"""`rookery fetch` without a cluster: from an offer (a URL of the head, or a saved file) to the finished thing in a
directory."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.node.fetch.fetch import Fetcher
from rookery.node.fetch.olds import sidecar_path
from rookery.node.fetch.ranges import get
from rookery.node.fetch.repack import packed_again
from rookery.node.fetch.stats import FetchStats, add, add_transfers
from rookery.node.fetch.unpack import require_free, unpack_tree
from rookery.node.trust import open_manifest, site_key
from rookery.wire.manifest import MAX_MANIFEST, Blob, Manifest, VersionKind, require_name
from rookery.wire.orders import FetchOffer
from rookery.wire.report import Transfer

MAX_OFFER = 4 * MAX_MANIFEST


def fetch_offer(
    url_or_path: str,
    to: Path,
    key: str | None = None,
    on_progress: Callable[[Transfer], None] | None = None,
    stop: threading.Event | None = None,
    seed_seconds: float = 0.0,
    have: Sequence[Path] = (),
    *,
    unpack: bool = True,
) -> FetchStats:
    """Fetch what a head offers into the directory `to`; the account of all its blobs together.

    url_or_path: `http://head:port/fetch/NAME[:TAG]?ticket=...&key=<64 hex>`, or a file with a FetchOffer, or with the
    Ticket that names such a URL, in JSON. key:
    the site's public key (64 hex digits); from the URL's `key` when None. What comes of it: a file under its own name,
    a tree as a directory of the name that it was published under, an image as its three blobs. seed_seconds: how long
    to go on giving afterwards. have: files that may be older versions of it, and directories of them. unpack: a tree;
    otherwise its archive is a file like any other.

    Raises RookeryError as `fetch`, and `corrupt` for a manifest that the key did not sign, `invalid` without a key,
    `conflict` when a tree is to be unpacked where something is, `forbidden` when `to` cannot be written. On `cancelled`
    nothing half-made has the final name; what was fetched stays in hidden `.part` files and is continued by the next
    call.
    """
    offer, named_key = read_offer(url_or_path)
    manifest = open_manifest(offer.manifest, _key(key, named_key))
    name = require_name(manifest.image, "image name")
    files.require_writable(to)
    stop = stop or threading.Event()
    is_tree = unpack and manifest.kind is VersionKind.TREE
    if is_tree:
        require_free(to / name)
    fetchers: list[Fetcher] = []
    with contextlib.ExitStack() as stack:
        stats: list[FetchStats] = []
        before = Transfer()
        for blob in manifest.blobs:
            tell = _Summing(before, on_progress)
            target, olds = to / blob.name, have
            if is_tree:
                target = _archive(manifest, blob, to)
                olds = (*have, *stack.enter_context(packed_again(have, name, to, stop)))
            fetcher = Fetcher(blob, b"", offer.source, target, tell, stop, have=olds, keep=True)
            fetchers.append(stack.enter_context(fetcher))
            stats.append(fetcher.run())
            before = tell.latest
        archive = _archive(manifest, manifest.blobs[0], to)
        if is_tree:
            unpack_tree(archive, to / name, stop)
            with contextlib.suppress(FileNotFoundError):  # none of a version without a chunk index
                os.replace(sidecar_path(archive), sidecar_path(to / name))
        if seed_seconds > 0:
            _give(fetchers, seed_seconds, stop)
    if is_tree:
        archive.unlink()
    return replace(add(stats), name=name)


def read_offer(url_or_path: str) -> tuple[FetchOffer, str | None]:
    """The offer, and the key that its URL names. Raises RookeryError `not-found`, `invalid`, or as the head answers."""
    if url_or_path.startswith(("http://", "https://")):
        url, named = split_key(url_or_path)
        return codec.loads(FetchOffer, get(url, most=MAX_OFFER), most=MAX_OFFER, what="offer"), named
    try:
        data = Path(url_or_path).read_bytes()
    except OSError as error:
        raise RookeryError(
            f"{url_or_path} cannot be read: {error.strerror}",
            kind=ErrorKind.NOT_FOUND,
            hint="give a URL as 'rookery publish' prints it, or a file with its answer",
        ) from error
    if url := _ticket_url(data):
        return read_offer(url)
    return codec.loads(FetchOffer, data, most=MAX_OFFER, what=url_or_path), None


def _ticket_url(data: bytes) -> str:
    """The URL in what 'rookery publish --json' and 'rookery ticket --json' print; empty for an offer."""
    try:
        url = json.loads(data)["url"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return url if isinstance(url, str) and url.startswith(("http://", "https://")) else ""


def split_key(url: str) -> tuple[str, str | None]:
    """The URL without its `key`, and the key. The head is not told which key we trust."""
    parts = urlsplit(url)
    words = parse_qs(parts.query, keep_blank_values=True)
    named = words.pop("key", [None])[0]
    return urlunsplit(parts._replace(query=urlencode(words, doseq=True), fragment="")), named


def _key(given: str | None, named: str | None) -> str:
    if given and named and site_key(given) != site_key(named):
        raise RookeryError("the URL names another key than the one that was given", kind=ErrorKind.INVALID)
    if not (given or named):
        raise RookeryError(
            "no site key: nothing says whose word to believe",
            kind=ErrorKind.INVALID,
            hint="use the whole URL with its 'key=', or give the head's site.pub with --key",
        )
    return given or named or ""


def _archive(manifest: Manifest, blob: Blob, to: Path) -> Path:
    """Where a tree's archive lies until it is unpacked."""
    return to / f".{manifest.image}.{blob.sha256[:16]}.tar"


def _give(fetchers: list[Fetcher], seconds: float, stop: threading.Event) -> None:
    """Give all blobs at the same time: each has its own session."""
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=fetcher.give, args=(until - time.monotonic(), stop), daemon=True)
        for fetcher in fetchers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Summing:
    """Adds what earlier blobs came to to what the running one tells."""

    def __init__(self, before: Transfer, on_progress: Callable[[Transfer], None] | None) -> None:
        self._before, self._on_progress = before, on_progress
        self.latest = before

    def __call__(self, transfer: Transfer) -> None:
        self.latest = add_transfers(self._before, transfer)
        if self._on_progress is not None:
            self._on_progress(self.latest)
