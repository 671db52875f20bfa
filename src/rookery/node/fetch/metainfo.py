# SPDX-License-Identifier: Apache-2.0
"""Opens a torrent that came from outside, and believes of it only what the signed manifest vouches for.

The v2 info-hash covers the info dictionary alone. What lies beside it in the file (trackers, web seeds, peers) is
nobody's word and is thrown away.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, cast

import libtorrent as lt

from rookery.errors import ErrorKind, RookeryError
from rookery.wire import merkle
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob
from rookery.wire.torrents import describe, v1_form

MAX_TORRENT = 16 << 20


@dataclass(frozen=True)
class Metainfo:
    """A torrent that is the blob's. torrent: its bytes. piece_size: bytes of every piece but the last. layer: the
    Merkle roots (SHA-256, BEP 52) of all pieces, 32 bytes each."""

    torrent: bytes
    size: int
    piece_size: int
    layer: bytes

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self.layer) // merkle.DIGEST

    def length(self, piece: int) -> int:
        """Bytes of one piece."""
        return min(self.piece_size, self.size - piece * self.piece_size)

    def is_right(self, piece: int, data: bytes | memoryview) -> bool:
        """Whether `data` is that piece."""
        return len(data) == self.length(piece) and self.are_leaves(piece, merkle.leaves(data))

    def are_leaves(self, piece: int, leaves: bytes) -> bool:
        """Whether these are the digests of that piece's blocks, one after the other."""
        if len(leaves) != -(-self.length(piece) // BLOCK) * merkle.DIGEST:
            return False
        # A file of one piece has the root over just its own blocks; elsewhere a piece is filled up with zero leaves.
        width = merkle.width(leaves) if self.pieces == 1 else self.piece_size // BLOCK
        place = piece * merkle.DIGEST
        return merkle.root(leaves, width) == self.layer[place : place + merkle.DIGEST]

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
        whole: Any = lt.bdecode(torrent)
        info = whole[b"info"]
        # Of the dictionary as it was read: whatever else its bytes say is not looked at.
        found = hashlib.sha256(lt.bencode(info)).hexdigest()
        if found != blob.info_hash:
            raise RookeryError(
                f"the torrent of {blob.name} is not the one that the signed manifest names",
                kind=ErrorKind.CORRUPT,
                details=f"v2 info-hash signed: {blob.info_hash}\nv2 info-hash of the torrent: {found}",
                hint="publish the version again; if it happens again, find out who answers in the head's place",
            )
        described = describe(whole)
        size, piece_size, root, layer = described.size, described.piece_size, described.root, described.layer
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RookeryError(
            f"the torrent of {blob.name} cannot be read: {error or type(error).__name__}", kind=ErrorKind.INVALID
        ) from error
    if size != blob.size:
        raise RookeryError(
            f"the torrent of {blob.name} has {size} bytes, the manifest {blob.size}", kind=ErrorKind.CORRUPT
        )
    empty = merkle.root(b"", piece_size // BLOCK)
    if blob.pieces_root not in ("", root.hex()):
        raise RookeryError(f"the torrent of {blob.name} has another root than the manifest", kind=ErrorKind.CORRUPT)
    if len(layer) != -(-size // piece_size) * merkle.DIGEST or merkle.root(layer, merkle.width(layer), empty) != root:
        raise RookeryError(f"the piece digests in the torrent of {blob.name} are wrong", kind=ErrorKind.CORRUPT)
    return Metainfo(torrent, size, piece_size, layer)
