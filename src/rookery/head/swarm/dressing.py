# SPDX-License-Identifier: Apache-2.0
"""A blob's torrent as clients that are not ours need it: with a tracker, and with web seeds (BEP 19).

The info dictionary stays as it was signed for, byte for byte; what is put beside it differs for every caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.wire.torrents import v1_form

_SHA1 = 20


@dataclass(frozen=True)
class Pieces:
    """Digests of a file's pieces. kind: `sha-1` or `sha-256`. length: bytes of each piece but the last. digests: hex,
    in order."""

    kind: str
    length: int
    digests: tuple[str, ...]


def dressed(torrent: bytes, announce: str, web_seeds: Sequence[str]) -> bytes:
    """The v1 form of `torrent` with the tracker's URL and with URLs of the whole file. Raises RookeryError
    `corrupt`."""
    entry = v1_form(_entry(torrent))
    entry[b"announce"] = announce.encode()
    if web_seeds:
        entry[b"url-list"] = [url.encode() for url in web_seeds]
    made: bytes = lt.bencode(entry)
    return made


def piece_digests(torrent: bytes) -> Pieces:
    """The SHA-1 digests of the pieces, as BitTorrent has them (BEP 3). Raises RookeryError `corrupt`."""
    info = _entry(torrent)[b"info"]
    row: bytes = info[b"pieces"]
    digests = tuple(row[place : place + _SHA1].hex() for place in range(0, len(row), _SHA1))
    return Pieces("sha-1", int(info[b"piece length"]), digests)


def _entry(torrent: bytes) -> dict[bytes, Any]:
    try:
        entry = cast("dict[bytes, Any]", lt.bdecode(torrent))
        info = entry[b"info"]
        _ = info[b"pieces"], info[b"piece length"]
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RookeryError(f"a stored torrent cannot be read: {error}", kind=ErrorKind.CORRUPT) from error
    return entry
