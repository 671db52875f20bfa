# SPDX-License-Identifier: Apache-2.0
"""What a fetching node decides, without doing any of it: which pieces are its own to bring into the swarm first, and
when to ask the head by HTTP, and for what.

Every function is pure. Times are seconds, rates bytes per second, pieces indices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

CELLS = 128  # the file is dealt out in this many runs of pieces
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Limits:
    """The numbers of the HTTP fallback.

    start: how long the swarm may take to give its first block; with the head's seeder up it takes a tenth of that, so
    a lone node loses nothing and a node whose swarm port is blocked loses this. quiet: how long it may then give
    nothing. end: the same with at most end_pieces missing: a request that was lost between a choke and its reject
    otherwise waits for 60 s, and asking twice for so few costs nothing. stuck: how long blocks may come without any
    piece getting whole. slow: a rate below it (over `quiet`) counts as nothing. nobody: how long no connected peer may
    have a piece before it is asked for by HTTP; for pieces that are another node's own it is nobody_else, since that
    node asks for them itself. range: bytes asked for at once. give_up: how long nothing at all may come. put: how long
    no piece at all may get whole before one that was put in is taken for stuck. put_last: the same when nothing else is
    missing, so that no other piece could get whole meanwhile. look: how long looking through the file may stand still,
    beside the time in which a slow disk writes what waits.
    """

    start: float = 1.0
    quiet: float = 5.0
    end: float = 2.0
    end_pieces: int = 16
    stuck: float = 15.0
    slow: float = 32_768.0
    nobody: float = 1.0
    nobody_else: float = 4.0
    range: int = 4 << 20
    give_up: float = 120.0
    put: float = 20.0
    put_last: float = 5.0
    look: float = 30.0


class Why(StrEnum):
    """Why HTTP is asked, or not."""

    NOT_YET = "the swarm has just begun"
    SWARM_GIVES = "the swarm gives"
    SILENT = "the swarm gave nothing yet"
    QUIET = "the swarm stopped giving"
    SLOW = "the swarm gives too little"
    STUCK = "blocks come, but no piece gets whole"
    NOBODY = "no peer has these pieces"
    NOTHING_MISSING = "nothing is missing"


@dataclass(frozen=True)
class Situation:
    """How a fetch stands. elapsed: since it began. gave: whether the swarm ever gave a block. quiet: since its last
    block (since the beginning when there was none). stuck: since the last piece got whole from the swarm, counted from
    the first block after it. rate: of the swarm, over the last `Limits.quiet`. orphans: pieces that no connected
    peer has, and for how long."""

    elapsed: float
    gave: bool
    quiet: float
    stuck: float
    rate: float
    orphans: Mapping[int, float]


def choose(
    situation: Situation, missing: Sequence[int], own: Collection[int], limits: Limits
) -> tuple[Why, tuple[int, ...]]:
    """Which of the `missing` pieces to ask for by HTTP now, the most wanted first; none while the swarm does its work.

    Own pieces come first, then the rest from where the own ones begin: so a hundred nodes whose swarm is silent ask the
    head for different pieces, and have something to trade when it is not.
    """
    if not missing:
        return Why.NOTHING_MISSING, ()
    if not situation.gave:
        if situation.elapsed < limits.start:
            return Why.NOT_YET, ()
        return Why.SILENT, _order(missing, own)
    few = len(missing) <= limits.end_pieces
    if situation.quiet >= (limits.end if few else limits.quiet):
        return Why.QUIET, _order(missing, own)
    if situation.stuck >= limits.stuck:
        return Why.STUCK, _order(missing, own)
    if situation.elapsed >= limits.quiet + limits.start and situation.rate < limits.slow and not few:
        return Why.SLOW, _order(missing, own)
    wanted = [
        piece
        for piece in missing
        if situation.orphans.get(piece, -1.0) >= (limits.nobody if piece in own else limits.nobody_else)
    ]
    return (Why.NOBODY, _order(wanted, own)) if wanted else (Why.SWARM_GIVES, ())


def first_run(pieces: Sequence[int], busy: Collection[int], most: int) -> range:
    """The first run of consecutive pieces at the head of the list, at most `most`, without those that are `busy`."""
    for place, piece in enumerate(pieces):
        if piece in busy:
            continue
        end = piece + 1
        for following in pieces[place + 1 : place + most]:
            if following != end or following in busy:
                break
            end += 1
        return range(piece, end)
    return range(0)


def own_pieces(me: str, others: Collection[str], pieces: int) -> frozenset[int]:
    """The pieces that this node fetches before all others, so that the head sends each piece to another node.

    Rendezvous hashing (highest random weight) over the addresses of the nodes that it knows of: every node comes to the
    same division without a word, and one that joins or leaves moves only its own share. In runs, so that neighbours on
    disk stay neighbours. Alone, everything is its own.
    """
    names = sorted({me, *others})
    seeds = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in names}
    mine: list[int] = []
    for cell, run in enumerate(cells(pieces)):
        if max(names, key=lambda name, cell=cell: (_weight(seeds[name], cell), name)) == me:  # type: ignore[misc]
            mine.extend(run)
    return frozenset(mine)


def cells(pieces: int) -> Iterator[range]:
    """The runs of pieces in which a file is dealt out: at most CELLS, of almost equal length."""
    count = min(CELLS, pieces)
    for cell in range(count):
        yield range(cell * pieces // count, (cell + 1) * pieces // count)


def retry_delay(failures: int, dice: float) -> float:
    """Seconds until the next try after `failures` in a row: 0.5, 1, 2, 4, then 8, each times 0.5 to 1.5 by `dice` (0
    to 1), so that a cluster that lost its head does not come back to it in one instant."""
    return float(min(0.5 * 2 ** min(failures - 1, 10), 8.0) * (0.5 + dice))


def rest(times: int) -> float:
    """Seconds for which a piece is not asked for by HTTP after it came with a wrong digest, when that had happened
    `times` times before: 5, 10, 20, 40, then 60. A copy that is bad on the head stays bad for a while."""
    return float(min(5 * 2 ** min(times, 10), 60))


def _order(pieces: Sequence[int], own: Collection[int]) -> tuple[int, ...]:
    mine = [piece for piece in pieces if piece in own]
    if not mine:
        return tuple(pieces)
    begin = mine[0]
    rest = [piece for piece in pieces if piece not in own]
    return tuple(mine + [piece for piece in rest if piece > begin] + [piece for piece in rest if piece < begin])


def _weight(seed: int, cell: int) -> int:
    # splitmix64's finalizer: cheap, and every bit of the cell reaches every bit of the weight.
    mixed = (seed ^ (cell * 0x9E3779B97F4A7C15)) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
