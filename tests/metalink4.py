# SPDX-License-Identifier: Apache-2.0
"""A strict reader of Metalink 4: what RFC 5854 (sections 3, 4 and its RELAX NG schema) does not allow is a failure."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

NAMESPACE = "urn:ietf:params:xml:ns:metalink"
_IN_METALINK = {"file": (1, None), "generator": (0, 1), "origin": (0, 1), "published": (0, 1), "updated": (0, 1)}
_IN_FILE = {
    "copyright": (0, 1),
    "description": (0, 1),
    "hash": (0, None),
    "identity": (0, 1),
    "language": (0, None),
    "logo": (0, 1),
    "metaurl": (0, None),
    "os": (0, None),
    "pieces": (0, None),
    "publisher": (0, 1),
    "signature": (0, 1),
    "size": (0, 1),
    "url": (0, None),
    "version": (0, 1),
}
# The IANA registry of hash function names, those that are in use, with the digits of their digests.
_DIGITS = {"sha-1": 40, "sha-224": 56, "sha-256": 64, "sha-384": 96, "sha-512": 128, "md5": 32}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class File:
    name: str
    size: int
    hashes: dict[str, str]
    piece_length: int
    piece_kind: str
    pieces: tuple[str, ...]
    urls: tuple[tuple[str, int, str], ...]  # URL, priority, location
    torrents: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)


def read(document: bytes) -> tuple[File, ...]:
    root = ET.fromstring(document)
    assert root.tag == f"{{{NAMESPACE}}}metalink", root.tag
    assert document.startswith(b'<?xml version="1.0" encoding="UTF-8"?>')
    _attributes(root)
    _count(root, _IN_METALINK)
    for name in ("published", "updated"):
        for element in _of(root, name):
            text = _text(element)
            assert _TIME.fullmatch(text), text
            dt.datetime.fromisoformat(text)
    files = tuple(_file(element) for element in _of(root, "file"))
    names = [file.name for file in files]
    assert len(set(names)) == len(names), "4.1.2: each file has another name"
    return files


def _file(element: Element) -> File:
    _attributes(element, "name")
    name = element.attrib["name"]
    path = PurePosixPath(name)
    assert name, "4.1.2.1: a name"
    assert not path.is_absolute(), "4.1.2.1: no absolute path"
    assert ".." not in path.parts, "4.1.2.1: no way out"
    _count(element, _IN_FILE)
    assert _of(element, "url") or _of(element, "metaurl"), "4.1.2: a url or a metaurl"
    hashes: dict[str, str] = {}
    for found in _of(element, "hash"):
        _attributes(found, "type")
        kind = found.attrib["type"]
        assert kind not in hashes, "one of each kind"
        hashes[kind] = _digest(found, kind)
    length, kind, pieces = _pieces(element)
    torrents = []
    for found in _of(element, "metaurl"):
        _attributes(found, "mediatype", "priority", "name", needed=("mediatype",))
        _priority(found)
        assert found.attrib["mediatype"] == "torrent"
        torrents.append(_iri(found))
    (size,) = (int(_text(found)) for found in _of(element, "size"))
    assert size >= 0
    if pieces:
        assert len(pieces) == -(-size // length), "4.1.15: the digests of all pieces"
    texts = {key: _text(found[0]) for key in ("identity", "version") if (found := _of(element, key))}
    return File(name, size, hashes, length, kind, pieces, _urls(element), tuple(torrents), texts)


def _urls(element: Element) -> tuple[tuple[str, int, str], ...]:
    urls = []
    for found in _of(element, "url"):
        _attributes(found, "location", "priority", needed=())
        location = found.attrib.get("location", "")
        assert re.fullmatch(r"[A-Za-z]{2}|", location), "4.1.16: ISO 3166-1 alpha-2"
        urls.append((_iri(found), _priority(found), location))
    return tuple(urls)


def _pieces(element: Element) -> tuple[int, str, tuple[str, ...]]:
    found = _of(element, "pieces")
    assert len({one.attrib["type"] for one in found}) == len(found)
    if not found:
        return 0, "", ()
    (pieces,) = found
    _attributes(pieces, "length", "type")
    assert all(child.tag == f"{{{NAMESPACE}}}hash" for child in pieces)
    kind = pieces.attrib["type"]
    for child in pieces:
        _attributes(child)
    return int(pieces.attrib["length"]), kind, tuple(_digest(child, kind) for child in pieces)


def _digest(element: Element, kind: str) -> str:
    text = _text(element)
    assert re.fullmatch(rf"[0-9a-f]{{{_DIGITS[kind]}}}", text), text
    return text


def _priority(element: Element) -> int:
    text = element.attrib.get("priority", "999999")
    assert text.isdigit(), text
    assert 1 <= int(text) <= 999_999
    return int(text)


def _iri(element: Element) -> str:
    text = _text(element)
    assert urlsplit(text).scheme in ("http", "https"), text
    assert not re.search(r'[\s<>"{}|\\^`]', text), text
    return text


def _text(element: Element) -> str:
    assert not len(element), f"{element.tag} holds text alone"
    assert element.text, element.tag
    return element.text


def _attributes(element: Element, *known: str, needed: tuple[str, ...] | None = None) -> None:
    there = set(element.attrib) - {"{http://www.w3.org/XML/1998/namespace}lang"}
    assert there <= set(known), element.attrib
    assert set(known if needed is None else needed) <= there, element.attrib


def _count(element: Element, known: dict[str, tuple[int, int | None]]) -> None:
    assert not (element.text or "").strip()
    for child in element:
        assert child.tag.removeprefix(f"{{{NAMESPACE}}}") in known, child.tag
        assert not (child.tail or "").strip()
    for name, (least, most) in known.items():
        count = len(_of(element, name))
        assert count >= least, name
        assert most is None or count <= most, name


def _of(element: Element, name: str) -> list[Element]:
    return element.findall(f"{{{NAMESPACE}}}{name}")
