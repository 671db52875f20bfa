# SPDX-License-Identifier: Apache-2.0
"""Opens a torrent that came from outside, and believes of it only what the signed manifest vouches for.

The v2 info-hash covers the info dictionary alone. What lies beside it in the file (trackers, web seeds, peers) is
nobody's word and is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.wire import merkle
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob
from rookery.wire.torrents import v1_form

MAX_TORRENT = 16 << 20


@dataclass(frozen=True)
class Metainfo:
    """A torrent that is the blob's. torrent: its bytes. piece_size: bytes of every piece but the last. digests: the
    Merkle root (SHA-256, BEP 52) of each piece, 32 bytes each."""

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

    def is_right(self, piece: int, data: bytes | memoryview) -> bool:
        """Whether `data` is that piece."""
        return len(data) == self.length(piece) and self._root(merkle.leaves(data)) == self.digests[piece]

    def are_leaves(self, piece: int, joined: bytes) -> bool:
        """Whether these are the digests of that piece's blocks, one after the other."""
        count = -(-self.length(piece) // BLOCK)
        if len(joined) != count * merkle.DIGEST:
            return False
        leaves = [joined[place : place + merkle.DIGEST] for place in range(0, len(joined), merkle.DIGEST)]
        return self._root(leaves) == self.digests[piece]

    def _root(self, leaves: list[bytes]) -> bytes:
        # A file of one piece has the root over just its own blocks; elsewhere a piece is filled up with zero leaves.
        width = merkle.power_of_two(len(leaves)) if self.pieces == 1 else self.piece_size // BLOCK
        return merkle.root(leaves, width)

    def parameters(self) -> lt.add_torrent_params:
        """What libtorrent needs to add its v1 form, with nothing that the info-hash does not cover."""
        entry = cast("dict[bytes, Any]", lt.bdecode(self.torrent))
        params = lt.load_torrent_buffer(lt.bencode(v1_form(entry)))
        params.trackers, params.url_seeds, params.http_seeds = [], [], []
        params.dht_nodes, params.peers = [], []
        return params


def open_torrent(torrent: bytes, blob: Blob) -> Metainfo:
    """The torrent of `blob`. Raises RookeryError `corrupt` when it is another's, `invalid` when it is no v2
    torrent of one file (it may be hybrid)."""
    if len(torrent) > MAX_TORRENT:
        raise RookeryError(f"the torrent of {blob.name} is larger than {MAX_TORRENT} bytes", kind=ErrorKind.TOO_LARGE)
    try:
        params = lt.load_torrent_buffer(torrent)
        whole: Any = lt.bdecode(torrent)
        found = str(params.info_hashes.v2) if params.info_hashes.has_v2() else "none"
        if found != blob.info_hash:
            raise RookeryError(
                f"the torrent of {blob.name} is not the one that the signed manifest names",
                kind=ErrorKind.CORRUPT,
                details=f"v2 info-hash signed: {blob.info_hash}\nv2 info-hash of the torrent: {found}",
                hint="publish the version again; if it happens again, find out who answers in the head's place",
            )
        info = whole[b"info"]
        (described,) = info[b"file tree"].values()
        size, root, piece_size = described[b""][b"length"], described[b""][b"pieces root"], info[b"piece length"]
        joined = whole[b"piece layers"][root] if size > piece_size else root
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RookeryError(
            f"the torrent of {blob.name} cannot be read: {error or type(error).__name__}", kind=ErrorKind.INVALID
        ) from error
    if size != blob.size:
        raise RookeryError(
            f"the torrent of {blob.name} has {size} bytes, the manifest {blob.size}", kind=ErrorKind.CORRUPT
        )
    digests = tuple(joined[place : place + 32] for place in range(0, len(joined), 32))
    empty = merkle.root([], piece_size // BLOCK)
    if merkle.root(list(digests), merkle.power_of_two(len(digests)), empty) != root:
        raise RookeryError(f"the piece digests in the torrent of {blob.name} are wrong", kind=ErrorKind.CORRUPT)
    return Metainfo(torrent, size, piece_size, digests)
