# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from rookery.head.http.metalink import File, Url, metalink
from rookery.head.swarm.dressing import Pieces
from tests import metalink4

PIECES = Pieces("sha-1", 65536, ("a" * 40, "b" * 40))


def made(**words: object) -> metalink4.File:
    plain = {
        "name": "root.squashfs",
        "size": 70_000,
        "sha256": "c" * 64,
        "identity": "base",
        "version": "d" * 64,
        "pieces": PIECES,
        "torrent": "http://head/x.torrent",
        "urls": (Url("http://near/x", 1, "de"), Url("http://head/x?ticket=a&b=c", 100)),
    }
    (found,) = metalink4.read(metalink([File(**{**plain, **words})], 1_800_000_000.7, "Rookery/1"))  # type: ignore[arg-type]
    return found


def test_everything_that_a_client_can_use_is_there() -> None:
    found = made()
    assert (found.name, found.size, found.hashes) == ("root.squashfs", 70_000, {"sha-256": "c" * 64})
    assert (found.piece_kind, found.piece_length, found.pieces) == ("sha-1", 65536, ("a" * 40, "b" * 40))
    assert found.urls == (("http://near/x", 1, "de"), ("http://head/x?ticket=a&b=c", 100, ""))
    assert found.torrents == ("http://head/x.torrent",)
    assert found.texts == {"identity": "base", "version": "d" * 64}


def test_what_the_swarm_does_not_carry_has_no_torrent_and_perhaps_no_pieces() -> None:
    found = made(torrent="", pieces=None, size=0)
    assert (found.torrents, found.pieces, found.size) == ((), (), 0)


@pytest.mark.parametrize("text", ["<&>\"'", "a&amp;b", "Größe ☃", "tab\there", "]]>"])
def test_names_come_through_xml_as_they_are(text: str) -> None:
    found = made(name=text, identity=text)
    assert (found.name, found.texts["identity"]) == (text, text)


def test_what_xml_cannot_carry_is_left_out() -> None:
    assert made(identity="a\0b\x1b\ud800\ufffe").texts["identity"] == "ab"
