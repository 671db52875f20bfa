# SPDX-License-Identifier: Apache-2.0
"""One torrent, two forms: the hybrid one (BEP 52) that a manifest vouches for, and the v1 one (BEP 3) in it that swarms
use.

Everything of the v1 form stands in the hybrid's info dictionary, so the signed v2 info-hash vouches for it, too.
"""

from __future__ import annotations

from typing import Any

_OF_V2 = (b"file tree", b"meta version")


def v1_form(entry: dict[bytes, Any]) -> dict[bytes, Any]:
    """The v1 torrent in a decoded hybrid one, with nothing beside its info dictionary. KeyError without that."""
    info: dict[bytes, Any] = entry[b"info"]
    return {b"info": {key: value for key, value in info.items() if key not in _OF_V2}}
