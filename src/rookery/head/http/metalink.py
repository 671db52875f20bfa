# SPDX-License-Identifier: Apache-2.0
"""Metalink 4 (RFC 5854): what a file is, how its pieces are checked, and everywhere it is to be had; pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from rookery.head.swarm.dressing import Pieces

MEDIA_TYPE = "application/metalink4+xml"
NAMESPACE = "urn:ietf:params:xml:ns:metalink"


@dataclass(frozen=True)
class Url:
    """A place of the whole file. priority: 1 is asked first. location: a country (ISO 3166-1 alpha-2), or empty."""

    url: str
    priority: int
    location: str = ""


@dataclass(frozen=True)
class File:
    """One file of a metalink. name: its file name. sha256: 64 hex digits. identity, version: whose file it is, for
    people. torrent: URL of its torrent, or empty."""

    name: str
    size: int
    sha256: str
    identity: str
    version: str
    pieces: Pieces | None
    torrent: str
    urls: tuple[Url, ...]


def metalink(files: Sequence[File], published: float, generator: str) -> bytes:
    """The document. published: seconds since 1970."""
    at = dt.datetime.fromtimestamp(int(published), tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<metalink xmlns="{NAMESPACE}">',
        f"  <generator>{_text(generator)}</generator>",
        f"  <published>{at}</published>",
    ]
    for file in files:
        lines += _file(file)
    lines += ["</metalink>", ""]
    return "\n".join(lines).encode()


def _file(file: File) -> list[str]:
    lines = [
        f"  <file name={_attribute(file.name)}>",
        f"    <size>{file.size}</size>",
        f"    <identity>{_text(file.identity)}</identity>",
        f"    <version>{_text(file.version)}</version>",
        f'    <hash type="sha-256">{file.sha256}</hash>',
    ]
    if file.pieces is not None:
        lines.append(f'    <pieces length="{file.pieces.length}" type="{file.pieces.kind}">')
        lines += [f"      <hash>{digest}</hash>" for digest in file.pieces.digests]
        lines.append("    </pieces>")
    if file.torrent:
        lines.append(f'    <metaurl mediatype="torrent" priority="1">{_text(file.torrent)}</metaurl>')
    for place in file.urls:
        location = f" location={_attribute(place.location)}" if place.location else ""
        lines.append(f'    <url{location} priority="{place.priority}">{_text(place.url)}</url>')
    return [*lines, "  </file>"]


def _text(text: str) -> str:
    return escape(_legal(text))


def _attribute(text: str) -> str:
    return quoteattr(_legal(text))


def _legal(text: str) -> str:
    """`text` without what XML cannot carry at all, not even escaped (XML 1.0, 2.2)."""
    return "".join(character for character in text if character in "\t\n\r" or _is_char(ord(character)))


def _is_char(code: int) -> bool:
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
