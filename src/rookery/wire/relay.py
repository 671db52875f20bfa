# SPDX-License-Identifier: Apache-2.0
"""What a node and the head say about the node's place in the chain of a blob (docs/explanation/swarm.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rookery.codec import Length, Range

Endpoint = Annotated[str, Length(64)]  # `address:port` or `[address]:port`


@dataclass(frozen=True)
class Ask:
    """A node asks for its place, and says how it stands.

    port: where it gives to others (TCP). pieces: whole and right ones that it has. total: of the blob, 0 while it has
    no torrent. parents: whom it takes from now, one for each of its feeds. rate: bytes per second of its link from its
    parent, measured while that had something to send all the time; 0 is not measured. steady: the same without what a
    link lets through at once when it was idle; 0 is not measured. hungry: it lacks pieces and nothing came for a while.
    lost: parents that do not answer any more. bad: parents that gave pieces with a wrong digest. leaving: it will not
    give any more. opening: it has nothing of the blob yet, wants its opening, and gives it on.
    """

    port: Annotated[int, Range(1, 65535)]
    pieces: Annotated[int, Range(0, 1 << 31)]
    total: Annotated[int, Range(0, 1 << 31)]
    parents: Annotated[tuple[Endpoint, ...], Length(2)] = ()
    rate: Annotated[float, Range(0, 2**53)] = 0.0
    steady: Annotated[float, Range(0, 2**53)] = 0.0
    hungry: bool = False
    lost: Annotated[tuple[Endpoint, ...], Length(16)] = ()
    bad: Annotated[tuple[Endpoint, ...], Length(16)] = ()
    leaving: bool = False
    opening: bool = False


@dataclass(frozen=True)
class Feed:
    """From whom to take the pieces whose index is `stripe` modulo `stripes`. parents: nearest first; the next one
    counts when the one before does not answer. The head's own relay may be among them."""

    stripe: Annotated[int, Range(0, 63)]
    stripes: Annotated[int, Range(1, 64)]
    parents: Annotated[tuple[Endpoint, ...], Length(16)]


@dataclass(frozen=True)
class Place:
    """The head's answer. feeds: every piece is in exactly one of them; none at all when the blob has no chain. key: 64
    hex digits that the members of this chain show to each other. seconds: when to ask again, if nothing happens.
    opener: whom to ask for the blob's opening (wire/opening.py), empty: nobody."""

    feeds: Annotated[tuple[Feed, ...], Length(64)]
    key: Annotated[str, Length(64)]
    seconds: Annotated[float, Range(0, 3600)]
    opener: Annotated[str, Length(64)] = ""
