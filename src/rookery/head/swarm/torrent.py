# SPDX-License-Identifier: Apache-2.0
"""Makes the torrent of a blob: hybrid v1 and v2 (BEP 3, BEP 52), private (BEP 27), one file, no tracker inside.

The announce URL is different for every caller (it carries the caller's credential), so a torrent names none.

Why hybrid: only v2's digests are strong enough to be named in a signed manifest. v2 alone was tried with libtorrent
2.1.1: a download of 12 MB at 3 MB/s had written nothing to its file until the last piece was there (hybrid: every
piece within a second), so a node that was killed began again at zero; and no block was told of, so nobody could say who
had given it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.head.progress import OnProgress, Progress
from rookery.head.publish.publish import MadeTorrent
from rookery.wire.manifest import require_sha256

SMALLEST_PIECE = 64 * 1024
LARGEST_PIECE = 16 << 20
MOST_PIECES = 8192
STAGE = "hashing pieces"


def piece_size(size: int) -> int:
    """Bytes per piece for a blob of `size` bytes: the smallest power of two that makes at most 8,192 pieces.

    Small pieces let nodes trade early (16 nodes: 15.5 s with 64 KiB against 16.2 s with 256 KiB, slices 12.7 against
    21.4), and a store-and-forward swarm of N nodes cannot be faster than 1 + log2(N) / pieces. The bound keeps the
    torrent itself below half a megabyte, since every node downloads it from the head.
    """
    pieces = SMALLEST_PIECE
    while pieces < LARGEST_PIECE and size > pieces * MOST_PIECES:
        pieces *= 2
    return pieces


def make_torrent(path: Path, name: str, on_progress: OnProgress, cancel: threading.Event) -> MadeTorrent:
    """Hash the file `path` into a torrent whose one file is called `name`.

    The same bytes and name make the same torrent, byte for byte. `on_progress` is called about a hundred times, in
    bytes. Raises RookeryError: `cancelled` soon after `cancel` is set, `not-found`, `invalid` for an empty file (a
    torrent cannot carry nothing), `failed` when reading fails.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise RookeryError(f"there is no file {path}", kind=ErrorKind.NOT_FOUND) from None
    if size == 0:
        raise RookeryError(f"{name} is empty: there is nothing to make a torrent of", kind=ErrorKind.INVALID)
    entry = _hash(path, size, on_progress, cancel)
    # The blob lies under its digest; the torrent carries the name that it has for people.
    info = entry[b"info"]
    tree = info[b"file tree"]
    (described,) = tree.values()
    info[b"name"] = name.encode()
    info[b"file tree"] = {name.encode(): described}
    for varying in (b"creation date", b"created by"):
        entry.pop(varying, None)
    torrent: bytes = lt.bencode(entry)
    hashes = lt.load_torrent_buffer(torrent).info_hashes
    return MadeTorrent(torrent, require_sha256(str(hashes.v2), "v2 info-hash"), str(hashes.v1))


def _hash(path: Path, size: int, on_progress: OnProgress, cancel: threading.Event) -> dict[bytes, Any]:
    maker = lt.create_torrent([lt.create_file_entry(path.name, size)], piece_size(size))
    maker.set_priv(True)
    pieces = maker.num_pieces()
    step = max(pieces // 100, 1)

    def on_piece(piece: int) -> None:
        if cancel.is_set():
            raise RookeryError(f"hashing {path.name} was cancelled", kind=ErrorKind.CANCELLED)
        if (piece + 1) % step == 0 or piece + 1 == pieces:
            on_progress(Progress(STAGE, min((piece + 1) * maker.piece_length(), size), size, "bytes"))

    try:
        # With a callback the interpreter's lock is given up between pieces: the head goes on answering meanwhile.
        lt.set_piece_hashes(maker, str(path.parent), on_piece)
    except RuntimeError as error:
        raise RookeryError(f"reading {path} failed: {error}", kind=ErrorKind.FAILED) from error
    entry: dict[bytes, Any] = maker.generate()
    return entry
