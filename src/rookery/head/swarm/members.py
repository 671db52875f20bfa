# SPDX-License-Identifier: Apache-2.0
"""The members of a swarm, and which of them have a slow link.

A link is measured by the child, and is as fast as the slower one of its two ends. So who has one fast link is fast,
and a slow link has a slow end: which one, is known when the other end is known to be fast.

Pure, as the planner.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rookery.wire.relay import Ask

SLOW = 0.4  # a link below this part of the median is slow
BURST = 1.5  # a link's rate counts up to so many times what it keeps up, where that is known
KNOWN = 4  # the part of all members, one in so many, whose links must be measured before any of them counts as slow
REFRESH = 0.175  # s between two looks at all members for the median, with QUICK and more; with fewer as much shorter
QUICK = 350
ALONE = 1.0  # s after the first measure of a link from which a member is judged by that alone
ALONE_STEADY = 0.25  # s: the same when the link was measured for so long that it was no burst, and the parent is known
AGAIN = 2  # measures of that link at least: the first one may be of a parent that was busy


@dataclass
class Member:
    """One node of a swarm. asks: how often it asked, but for those in haste. rate, steady: as in Ask, 0 until its link
    is measured. behind: from whom, empty when it is from several; since: when it told this first; measures: how often.
    feeding, feeding_steady: of the best link to a child that takes all from it; fed: the last of these. banned: gave
    garbage; it gets no children any more. hungry: as it said last. pause: seconds that it was told to wait. told: its
    parents when it asked last; told_at: since when these. opener: who gives it the opening."""

    endpoint: str
    rack: str
    pieces: int = 0
    total: int = 1
    seen: float = 0.0
    asks: int = 0
    rate: float = 0.0
    steady: float = 0.0
    behind: str = ""
    since: float = 0.0
    measures: int = 0
    feeding: float = 0.0
    feeding_steady: float = 0.0
    fed: str = ""
    slow: bool = False
    banned: bool = False
    hungry: bool = False
    pause: float = 0.0
    told: tuple[str, ...] = ()
    told_at: float = 0.0
    opener: str = ""

    @property
    def complete(self) -> bool:
        """Whether it has everything."""
        return 0 < self.total <= self.pieces


class Speeds:
    """Who of `members` (by endpoint) is slow. root: endpoint of the head's relay. Times (`now`) are seconds of any
    clock that does not go back; `look` comes before the questions."""

    def __init__(self, root: str, members: Mapping[str, Member]) -> None:
        self._root, self._members = root, members
        self._median, self._steady, self._at = 0.0, 0.0, -1.0

    def note(self, member: Member, ask: Ask, now: float) -> None:
        """Take in what a member measured, `told` being what it was told before."""
        if not ask.rate:
            return
        behind = ask.parents[0] if len(ask.parents) == 1 == len(member.told) else ""
        if behind != member.behind or not member.rate:
            member.since, member.measures = now, 0
        member.rate, member.steady, member.behind = ask.rate, ask.steady, behind
        member.measures += 1
        # Nobody speaks for one that it was not told to take from.
        parent = self._members.get(behind) if member.told == (behind,) else None
        if parent is not None:
            is_more = _kept(ask.rate, ask.steady) > _kept(parent.feeding, parent.feeding_steady)
            is_exact = parent.fed == member.endpoint and ask.steady and ask.rate >= parent.feeding
            if is_more or is_exact:
                parent.feeding, parent.feeding_steady = ask.rate, ask.steady
            parent.fed = member.endpoint

    def look(self, now: float) -> None:
        """Compare all links, if that was not done a moment ago."""
        everybody = self._members.values()
        if now - self._at < REFRESH * min(len(everybody) / QUICK, 1.0):
            return
        self._at = now
        speeds = [speed for one in everybody if (speed := self._speed(one))]
        steady = [one.steady for one in everybody if one.steady and one.behind and not self._explained(one)]
        self._median = statistics.median(speeds) if len(speeds) > max(len(everybody) // KNOWN, 1) else 0.0
        self._steady = statistics.median(steady) if steady else 0.0

    def found(self, member: Member, now: float) -> Iterator[Member]:
        """Those that are known to be slow by what a member has just said, and were not: it, or one at the other end of
        a link of it or of its parent."""
        parent = self._members.get(member.behind)
        near = (member.endpoint, member.behind, member.fed, parent.behind if parent else "")
        for one in (self._members[endpoint] for endpoint in near if endpoint in self._members):
            if not one.slow and not one.complete and self._is_slow(one, now):
                yield one

    def is_waiting(self, member: Member, now: float) -> bool:
        """Whether its link is slow, or not measured yet behind one that is, and that may be its parent's fault: it
        shall ask again soon."""
        parent = self._members.get(member.told[0]) if member.told else None
        one = member if member.told == (member.behind,) or parent is None else parent
        is_new = now - max(member.told_at, one.since) < ALONE
        return is_new and not member.slow and self._lags(one.rate, one.steady)

    def _is_slow(self, one: Member, now: float) -> bool:
        if not self._lags(one.rate, one.steady) or (one.feeding and not self._lags(one.feeding, one.feeding_steady)):
            return False
        parent, child = self._members.get(one.behind), self._members.get(one.fed)
        if one.feeding and any(end is not None and self._is_fast(end) for end in (parent, child)):
            return True
        return one.measures >= AGAIN and now - one.since >= self._patience(one, parent)

    def _patience(self, one: Member, parent: Member | None) -> float:
        """For how long a member that lags must have done so without a neighbour that shows whose fault it is."""
        if not one.behind:
            return ALONE if one.feeding else math.inf  # the sum of several links, of which one may be missing
        if one.told != (one.behind,):
            return math.inf
        if parent is None:  # the head, which may be slow itself, or one that is gone
            return ALONE if one.behind == self._root else math.inf
        # Between racks the wire may be narrow.
        if parent.slow or parent.rack != one.rack or not self._is_fast(parent):
            return math.inf
        return ALONE_STEADY if one.steady else ALONE

    def _speed(self, one: Member) -> float:
        """That of the best of its links that says something; 0 when none does."""
        own = 0.0 if self._explained(one) else _kept(one.rate, one.steady)
        return max(own, _kept(one.feeding, one.feeding_steady))

    def _is_fast(self, one: Member) -> bool:
        """Whether one of its links is known to be."""
        return self._speed(one) >= SLOW * self._median

    def _lags(self, rate: float, steady: float) -> bool:
        """Whether a link (bytes per second, 0 unknown) is slow. A link that was idle may seem much faster than it is,
        and all others slow beside it: so not by that alone."""
        as_others = self._steady and steady >= SLOW * self._steady
        return 0 < _kept(rate, steady) < SLOW * self._median and not as_others

    def _explained(self, one: Member) -> bool:
        """Whether it was measured behind a slow one, so that its link says nothing."""
        parent = self._members.get(one.behind)
        return parent is not None and parent.slow


def _kept(rate: float, steady: float) -> float:
    """What counts of a link's rate, bytes per second."""
    return min(rate, BURST * steady) if steady else rate
