# SPDX-License-Identifier: Apache-2.0
"""One torrent, two forms: the hybrid one (BEP 52) that a manifest vouches for, and the v1 one (BEP 3) in it that swarms
use.

Everything of the v1 form stands in the hybrid's info dictionary, so the signed v2 info-hash vouches for it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_OF_V2 = (b"file tree", b"meta version")


@dataclass(frozen=True)
class Described:
    """What a torrent of one file says of it (BEP 52). size, piece_size: bytes. root: of the tree over its blocks.
    layer: the roots of its pieces, 32 bytes each."""

    size: int
    piece_size: int
    root: bytes
    layer: bytes


def describe(entry: dict[bytes, Any]) -> Described:
    """The one file of a decoded v2 torrent. Raises KeyError, ValueError or TypeError where there is no such thing;
    nothing is checked."""
    info = entry[b"info"]
    (described,) = info[b"file tree"].values()
    size, root, piece_size = described[b""][b"length"], described[b""][b"pieces root"], info[b"piece length"]
    return Described(size, piece_size, root, entry[b"piece layers"][root] if size > piece_size else root)


def v1_form(entry: dict[bytes, Any]) -> dict[bytes, Any]:
    """The v1 torrent in a decoded hybrid one, with nothing beside its info dictionary. KeyError without that."""
    info: dict[bytes, Any] = entry[b"info"]
    return {b"info": {key: value for key, value in info.items() if key not in _OF_V2}}
