# SPDX-License-Identifier: Apache-2.0
"""Orders: everything one node must do on this boot; and the words of hello that lead to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from rookery.codec import Length, Range
from rookery.wire.capsule import SignedCapsule
from rookery.wire.facts import Facts, Name
from rookery.wire.manifest import SignedManifest


@dataclass(frozen=True)
class SeedPolicy:
    """How a booted node goes on giving. rate: bytes per second (0: no cap). cpu: percent of one processor.
    memory: bytes of the seeding process. seconds: how long after boot, None until the head says stop."""

    enabled: bool = True
    rate: Annotated[int, Range(0, 2**40)] = 50_000_000
    cpu: Annotated[int, Range(1, 100_000)] = 20
    memory: Annotated[int, Range(16 << 20, 1 << 40)] = 256 << 20
    seconds: Annotated[int, Range(0, 10**9)] | None = None


@dataclass(frozen=True)
class Source:
    """Where a version's blobs are to be had.

    head: base URL of the head's HTTP (`http://10.0.0.1:8470`); blobs and torrents are under it (wire/routes.py).
    credential: bearer for those, and the last path element of the announce URL. seeders: `address:port` of the head's
    own seeders, so that a node can tell the head's bytes from its peers'. rate: cap on what a node gives while it
    fetches, bytes per second, 0 none. mirrors: by SHA-256 of a blob, URLs of further copies: web seeds (BEP 19).
    """

    head: Annotated[str, Length(512)]
    credential: Annotated[str, Length(256)]
    seeders: Annotated[tuple[str, ...], Length(64)] = ()
    rate: Annotated[int, Range(0, 2**40)] = 0
    mirrors: Annotated[dict[str, tuple[str, ...]], Length(64)] = field(default_factory=dict)


@dataclass(frozen=True)
class OrderedFile:
    """A file to write into the new root. path: absolute. content: text. mode: permission bits."""

    path: Annotated[str, Length(4096)]
    content: str
    mode: Annotated[int, Range(0, 0o7777)] = 0o644

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or ".." in self.path.split("/") or "\0" in self.path:
            raise ValueError(f"{self.path[:80]!r} is not an absolute path without '..'")


@dataclass(frozen=True)
class Orders:
    """What a node shall become on this boot.

    node: its name, also its host name. mode: how (`ram`). image: `name:tag` as assigned. manifest: the version, signed.
    report_seconds: how often to report progress. authorized_keys: lines for root's authorized_keys.
    kernel_arguments: what the machine was booted with, for the record. hosts: lines of /etc/hosts.
    """

    node: Name
    mode: Name
    image: Name
    manifest: SignedManifest
    source: Source
    seed: SeedPolicy = field(default_factory=SeedPolicy)
    report_seconds: Annotated[float, Range(0.1, 3600)] = 1.0
    authorized_keys: Annotated[tuple[str, ...], Length(1000)] = ()
    hosts: Annotated[tuple[str, ...], Length(200_000)] = ()
    files: Annotated[tuple[OrderedFile, ...], Length(10_000)] = ()
    kernel_arguments: Annotated[str, Length(4096)] = ""


@dataclass(frozen=True)
class Hello:
    """A node's first words. token: the one-time boot token. boot_id: 32 hex digits that the node chose at random for
    this boot: a token that was spent by this boot_id may be shown again by it (the answer may have been lost)."""

    token: Annotated[str, Length(256)]
    boot_id: Annotated[str, Length(64)]
    facts: Facts


@dataclass(frozen=True)
class Welcome:
    """The head's answer: the session credential, and how long it holds (seconds). Orders are fetched with it."""

    node: Name
    credential: Annotated[str, Length(256)]
    seconds: Annotated[int, Range(1, 10**9)]
    time: Annotated[float, Range(0, 2**53)]  # the head's clock, seconds since 1970: the node sets its own by it


class Word(StrEnum):
    """The head's word to a node, in answer to each report."""

    GO_ON = "go-on"
    STOP_SEEDING = "stop-seeding"


@dataclass(frozen=True)
class Answer:
    """What the head answers to a report."""

    word: Word = Word.GO_ON


@dataclass(frozen=True)
class FetchOffer:
    """What `rookery fetch URL` gets: a version, signed, and where its blobs are."""

    manifest: SignedManifest
    source: Source


@dataclass(frozen=True)
class CapsuleOffer:
    """What `rookery image import URL` gets of another head: the head of a capsule, and where the blobs are."""

    capsule: SignedCapsule
    source: Source
