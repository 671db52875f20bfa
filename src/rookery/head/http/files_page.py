# SPDX-License-Identifier: Apache-2.0
"""The page that lists published files for people; pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from html import escape

from rookery.api.files import Offered, OfferedFile, OfferedVersion

HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # links hold tickets
    "Vary": "Accept, Authorization",
}
_STYLE = (
    "body{font:16px/1.5 sans-serif;margin:2em auto;max-width:64em;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}"
    "th{border-bottom:1px solid}.n{text-align:right;white-space:nowrap}code{font-size:85%;word-break:break-all}"
)


def wants_json(accept: str) -> bool:
    """Whether a caller's Accept header names JSON, and HTML not before it."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "application/json" in kinds and "text/html" not in kinds[: kinds.index("application/json")]


def page(offered: Offered, title: str) -> str:
    """The page; with a single version, with the digests of its files."""
    alone = len(offered.versions) == 1
    parts = [_version(version, alone) for version in offered.versions] or ["<p>Nothing is published here yet.</p>"]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _version(version: OfferedVersion, alone: bool) -> str:
    names = ", ".join(f"{version.image}:{tag}" for tag in version.tags) or version.image
    at = dt.datetime.fromtimestamp(version.published_at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    shown = version.version if alone else version.version[:12]
    head = (
        f"<h2>{_link(version.url, names)}</h2>\n<p>{escape(version.kind)}, version <code>{shown}</code>, {at}, "
        f"{_size(version.size)}; all its files: {_link(version.metalink, 'metalink')}</p>"
    )
    columns = ("file", "size", "as", *(("mirrors", "SHA-256") if alone else ()))
    titles = "".join(f"<th>{column}</th>" for column in columns)
    rows = "\n".join(_file(file, alone) for file in version.files)
    return f"{head}\n<table><tr>{titles}</tr>\n{rows}\n</table>"


def _file(file: OfferedFile, alone: bool) -> str:
    forms = [_link(file.metalink, "metalink"), *([_link(file.torrent, "torrent")] if file.torrent else [])]
    cells = [
        f"<td>{_link(file.url, file.name)}</td>",
        f'<td class="n">{_size(file.size)}</td>',
        f"<td>{' '.join(forms)}</td>",
    ]
    if alone:
        cells.append(f"<td>{_joined(_link(url, str(number)) for number, url in enumerate(file.mirrors, 1))}</td>")
        cells.append(f"<td><code>{file.sha256}</code></td>")
    return f"<tr>{''.join(cells)}</tr>"


def _joined(links: Iterable[str]) -> str:
    return " ".join(links) or "none"


def _link(url: str, text: str) -> str:
    return f'<a href="{escape(url)}">{escape(text)}</a>'


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"
