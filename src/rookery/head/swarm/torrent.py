# SPDX-License-Identifier: Apache-2.0
"""Makes the torrent of a blob: hybrid v1 and v2 (BEP 3, BEP 52), private (BEP 27), one file, no tracker inside.

The announce URL is different for every caller (it carries the caller's credential), so a torrent names none.

Why hybrid: only v2's digests are strong enough to be named in a signed manifest. v2 alone was tried with libtorrent
2.1.1: a download of 12 MB at 3 MB/s had written nothing to its file until the last piece was there (hybrid: every
piece within a second), so a node that was killed began again at zero; and no block was told of, so nobody could say who
had given it. Swarms use its v1 form (wire/torrents.py): aria2 computes a wrong info-hash of every hybrid torrent.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import libtorrent as lt

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish.pieces import PieceDigester, PieceDigests
from rookery.head.publish.publish import MadeTorrent
from rookery.wire.manifest import require_sha256
from rookery.wire.torrents import v1_form

STAGE = "hashing pieces"


def make_torrent(
    path: Path,
    name: str,
    on_progress: OnProgress,
    cancel: threading.Event,
    digests: PieceDigests | None = None,
) -> MadeTorrent:
    """The torrent of the file `path`, whose one file is called `name`.

    The same bytes and name make the same torrent, byte for byte. digests: of the file; it is read when they are not
    given, and `on_progress` called about a hundred times then, in bytes. Raises RookeryError: `cancelled` soon after
    `cancel` is set, `not-found`, `invalid` for an empty file (a torrent cannot carry nothing), `failed` when reading
    fails.
    """
    found = digests or _digest(path, name, on_progress, cancel)
    if found.size == 0:
        raise RookeryError(f"{name} is empty: there is nothing to make a torrent of", kind=ErrorKind.INVALID)
    described = {b"length": found.size, b"pieces root": found.root}
    info = {
        # The blob lies under its digest; the torrent carries the name that it has for people.
        b"file tree": {name.encode(): {b"": described}},
        b"length": found.size,
        b"meta version": 2,
        b"name": name.encode(),
        b"piece length": found.piece_size,
        b"pieces": found.v1,
        b"private": 1,
    }
    layers = {found.root: found.layer} if found.size > found.piece_size else {}
    entry: dict[bytes, Any] = {b"info": info, b"piece layers": layers}
    torrent: bytes = lt.bencode(entry)
    hashes = lt.load_torrent_buffer(torrent).info_hashes
    in_swarms = lt.load_torrent_buffer(lt.bencode(v1_form(entry))).info_hashes
    return MadeTorrent(torrent, require_sha256(str(hashes.v2), "v2 info-hash"), str(in_swarms.v1))


def _digest(path: Path, name: str, on_progress: OnProgress, cancel: threading.Event) -> PieceDigests:
    try:
        size = path.stat().st_size
        digester, told, step = PieceDigester(size), 0, max(size // 100, files.BLOCK // 8)
        with path.open("rb", buffering=0) as file:
            while block := file.read(min(step, files.BLOCK)):
                if cancel.is_set():
                    raise RookeryError(f"hashing {name} was cancelled", kind=ErrorKind.CANCELLED)
                digester.add(block)
                if digester.seen - told >= step or digester.seen == size:
                    told = digester.seen
                    on_progress(Progress(STAGE, told, size, "bytes"))
    except FileNotFoundError:
        raise RookeryError(f"there is no file {path}", kind=ErrorKind.NOT_FOUND) from None
    except OSError as error:
        raise RookeryError(f"reading {path} failed: {error.strerror}", kind=ErrorKind.FAILED) from error
    return digester.digests()
