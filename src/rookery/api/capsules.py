# SPDX-License-Identifier: Apache-2.0
"""Bodies of the routes that take versions from site to site: capsules, and whose are believed.

Times are seconds since 1970 (UTC), sizes bytes. A key is the public half of a site's key, 64 hex digits; its
fingerprint is what people compare (wire/capsule.fingerprint).
"""

from __future__ import annotations

from dataclasses import dataclass

from rookery.api.types import HeadPath, Name, Short


@dataclass(frozen=True)
class Export:
    """A version to write into a new file of the head: `name[:tag]`, `name@id` or an id; path: absolute."""

    image: Name
    path: HeadPath


@dataclass(frozen=True)
class LookAt:
    """A capsule to look at: an absolute path on the head, or an http(s) URL; or the URL of another head's ticket."""

    source: HeadPath


@dataclass(frozen=True)
class CapsuleInfo:
    """What the signed head of a capsule says; the rest of it was not read. site: the name under which this site trusts
    the key, `this site` for its own, empty for one that is not trusted. created: when the version was built."""

    image: str
    version: str
    kind: str
    architecture: str
    size: int
    created: int
    exported_at: int
    key: str
    fingerprint: str
    site: str


@dataclass(frozen=True)
class Import:
    """A capsule to take in, or what another head's ticket opens. name: empty for the one that it has there. trust: a
    key, or its fingerprint, that is believed this once besides the trusted ones."""

    source: HeadPath
    name: Short = ""
    tag: Short = "latest"
    trust: Short = ""


@dataclass(frozen=True)
class TrustedKey:
    """A site's key. added_at: 0 for this site's own."""

    name: str
    key: str
    fingerprint: str
    added_at: float


@dataclass(frozen=True)
class TrustedKeys:
    """This site's own key, and those of other sites whose capsules are taken, by name."""

    own: TrustedKey
    keys: tuple[TrustedKey, ...]


@dataclass(frozen=True)
class Trust:
    """A key to trust from now on, under a name for its site."""

    key: Short
    name: Short
