# SPDX-License-Identifier: Apache-2.0
"""Opens a torrent that came from outside, and believes of it only what the signed manifest vouches for.

The v2 info-hash covers the info dictionary alone. What lies beside it in the file (trackers, web seeds, peers) is
nobody's word and is thrown away.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.wire.manifest import Blob

MAX_TORRENT = 16 << 20


@dataclass(frozen=True)
class Metainfo:
    """A torrent that is the blob's. torrent: its bytes. piece_size: bytes of every piece but the last. digests: the
    SHA-1 of each piece (20 bytes each, BEP 3)."""

    torrent: bytes
    size: int
    piece_size: int
    digests: tuple[bytes, ...]

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self.digests)

    def length(self, piece: int) -> int:
        """Bytes of one piece."""
        return min(self.piece_size, self.size - piece * self.piece_size)

    def is_right(self, piece: int, data: bytes) -> bool:
        """Whether `data` is that piece. SHA-1 tells damage, not malice: libtorrent checks SHA-256 as well (BEP 52)."""
        return len(data) == self.length(piece) and _sha1(data) == self.digests[piece]

    def parameters(self) -> lt.add_torrent_params:
        """What libtorrent needs to add it, with everything removed that the info-hash does not cover."""
        params = lt.load_torrent_buffer(self.torrent)
        params.trackers, params.url_seeds, params.http_seeds = [], [], []
        params.dht_nodes, params.peers = [], []
        return params


def open_torrent(torrent: bytes, blob: Blob) -> Metainfo:
    """The torrent of `blob`. Raises RookeryError `corrupt` when it is another's, `invalid` when it is no torrent of
    our kind (hybrid, one file)."""
    if len(torrent) > MAX_TORRENT:
        raise RookeryError(f"the torrent of {blob.name} is larger than {MAX_TORRENT} bytes", kind=ErrorKind.TOO_LARGE)
    try:
        params = lt.load_torrent_buffer(torrent)
        info = lt.bdecode(torrent)[b"info"]  # type: ignore[index,call-overload]
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RookeryError(f"the torrent of {blob.name} cannot be read: {error}", kind=ErrorKind.INVALID) from error
    found = str(params.info_hashes.v2) if params.info_hashes.has_v2() else "none"
    if found != blob.info_hash:
        raise RookeryError(
            f"the torrent of {blob.name} is not the one that the signed manifest names",
            kind=ErrorKind.CORRUPT,
            details=f"v2 info-hash signed: {blob.info_hash}\nv2 info-hash of the torrent: {found}",
            hint="publish the version again; if it happens again, find out who answers in the head's place",
        )
    if params.ti is None or not params.info_hashes.has_v1() or params.ti.num_files() != 1:
        raise RookeryError(f"the torrent of {blob.name} is not hybrid with one file", kind=ErrorKind.INVALID)
    if params.ti.total_size() != blob.size:
        raise RookeryError(
            f"the torrent of {blob.name} has {params.ti.total_size()} bytes, the manifest {blob.size}",
            kind=ErrorKind.CORRUPT,
        )
    joined: bytes = info[b"pieces"]  # type: ignore[index,call-overload,assignment]
    digests = tuple(joined[place : place + 20] for place in range(0, len(joined), 20))
    return Metainfo(torrent, blob.size, params.ti.piece_length(), digests)


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
