# SPDX-License-Identifier: Apache-2.0
"""Addresses of mirrors: which are taken, and where a file lies on one; pure.

A mirror's URL is the directory that has the same layout as `/files` on the head (`URL/{image}/{version}/{name}`), or it
says where a file lies by placeholders: `http://mirror/blobs/{sha256}` fits a copy of the head's directory `blobs`.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from rookery.errors import ErrorKind, RookeryError

PLACEHOLDERS = ("image", "version", "name", "sha256")
USUAL = "/{image}/{version}/{name}"
MOST = 2048
_PORTS = {"http": 80, "https": 443}
_BRACES = re.compile(r"\{([^{}]*)\}")
_SAFE = "/%:@!$&'()*+,;=~-._{}?"  # a URL's own characters; what is not among them is percent-encoded


def normal(text: str) -> str:
    """The one form of a mirror's URL. Raises RookeryError `invalid` for what cannot be one."""
    try:
        parts = urlsplit(text.strip())
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except (ValueError, UnicodeError) as error:
        raise _invalid(text, f"it is not a URL: {error}") from None
    if parts.scheme.lower() not in _PORTS or not host:
        raise _invalid(text, "it is not a URL of http or https")
    if parts.username is not None or parts.password is not None:
        raise _invalid(
            "the URL",
            "it holds a login, and everybody who fetches is told it",
            hint="let the mirror give the files without a login, or leave it out",
        )
    if parts.fragment:
        raise _invalid(text, "it has a fragment ('#…'), which no server is told")
    if any(ord(character) < 0x20 or character == "\x7f" for character in text):
        raise _invalid(text, "it holds control characters")
    usual = not _BRACES.search(parts.path + parts.query)
    path = quote(parts.path, safe=_SAFE)
    rest = path.rstrip("/") if usual else path + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    _require_placeholders(text, rest, query=bool(usual and parts.query))
    shown = f"[{host}]" if ":" in host else host
    where = shown if port in (None, _PORTS[parts.scheme.lower()]) else f"{shown}:{port}"
    url = f"{parts.scheme.lower()}://{where}{rest}"
    if len(url) > MOST:
        raise _invalid(text, f"it is longer than {MOST} characters")
    return url


def file_url(mirror: str, image: str, version: str, name: str, sha256: str) -> str:
    """Where a file lies on a mirror, whose URL is a normal one."""
    template = mirror if _BRACES.search(mirror) else mirror + USUAL
    known = {"image": image, "version": version, "name": name, "sha256": sha256}
    return _BRACES.sub(lambda found: quote(known[found[1]], safe=""), template)


def _require_placeholders(text: str, rest: str, *, query: bool) -> None:
    names = set(_BRACES.findall(rest))
    if query:
        raise _invalid(text, "it has a query ('?…') and no placeholders that would say where a file goes")
    if unknown := sorted(names - set(PLACEHOLDERS)):
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise _invalid(text, f"{{{unknown[0][:40]}}} is no placeholder", hint=f"placeholders are {known}")
    if "{" in _BRACES.sub("", rest) or "}" in _BRACES.sub("", rest):
        raise _invalid(text, "a brace has no partner")
    if names and "sha256" not in names and not {"version", "name"} <= names:
        raise _invalid(text, "all files would lie at one place", hint="use {sha256}, or {version} and {name}")


def _invalid(text: str, why: str, hint: str = "as in http://mirror.example/images") -> RookeryError:
    return RookeryError(f"{text[:200]} cannot be a mirror: {why}", kind=ErrorKind.INVALID, hint=hint)
