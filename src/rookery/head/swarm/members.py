# SPDX-License-Identifier: Apache-2.0
"""The members of a swarm, and which of them have a slow link.

A link is measured by the child, and is as fast as the slower one of its two ends. So who has one fast link is fast,
and a slow link has a slow end: which one, is known when the other end is known to be fast.

Pure, as the planner.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rookery.wire.relay import Ask

SLOW = 0.4  # a link below this part of the median is slow
REFRESH = 0.175  # s between two looks at all members for the median, with QUICK and more; with fewer as much shorter
QUICK = 350
ALONE = 1.0  # s of one parent after which a member is judged by the link from it alone


@dataclass
class Member:
    """One node of a swarm. asks: how often it asked. rate, steady: of its link from `behind`, as in Ask, 0 until it is
    measured. feeding, feeding_steady: of the best link to a child; fed: who measured last. banned: gave garbage; it
    gets no children any more. hungry: as it said last. pause: seconds that it was told to wait. told: its parents when
    it asked last; told_at: since when these. opener: who gives it the opening."""

    endpoint: str
    rack: str
    pieces: int = 0
    total: int = 1
    seen: float = 0.0
    asks: int = 0
    rate: float = 0.0
    steady: float = 0.0
    behind: str = ""
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
    """Who of `members` (by endpoint) is slow."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self._median, self._best, self._at = 0.0, 0.0, -1.0

    def note(self, member: Member, ask: Ask) -> None:
        """Take in what a member measured."""
        if not ask.rate:
            return
        member.rate, member.steady = ask.rate, ask.steady
        member.behind = ask.parents[0] if ask.parents else ""
        parent = self._members.get(member.behind)
        if parent is not None and len(ask.parents) == 1:
            parent.feeding = max(parent.feeding, ask.rate)
            parent.feeding_steady = max(parent.feeding_steady, ask.steady)
            parent.fed = member.endpoint

    def look(self, now: float) -> None:
        """Compare all links, if that was not done a moment ago."""
        if now - self._at < REFRESH * min(len(self._members) / QUICK, 1.0):
            return
        self._at = now
        rates = [max(one.feeding, 0.0 if self._explained(one) else one.rate) for one in self._members.values()]
        self._median = statistics.median(known) if (known := [rate for rate in rates if rate]) else 0.0
        self._best = max((max(one.steady, one.feeding_steady) for one in self._members.values()), default=0.0)

    def slow(self, member: Member, now: float) -> Iterator[Member]:
        """Those that are known to be slow by what a member has just said: it, or one at the other end of a link of
        it or of its parent."""
        parent = self._members.get(member.behind)
        near = (member.endpoint, member.behind, member.fed, parent.behind if parent else "")
        for one in (self._members[endpoint] for endpoint in near if endpoint in self._members):
            if not one.slow and self._is_slow(one, now):
                yield one

    def is_waiting(self, member: Member, now: float) -> bool:
        """Whether its link is slow, and that may be its parent's fault: it shall ask again soon."""
        is_new = now - member.told_at < ALONE
        return is_new and not member.slow and self._lags(member.rate, member.steady)

    def _is_slow(self, one: Member, now: float) -> bool:
        if not self._lags(one.rate, one.steady) or (one.feeding and not self._lags(one.feeding, one.feeding_steady)):
            return False
        parent, child = self._members.get(one.behind), self._members.get(one.fed)
        if one.feeding and any(end is not None and self._is_fast(end) for end in (parent, child)):
            return True
        # Without a child, or amid others of whom nothing is known: if it cannot be its parent's fault.
        blameless = parent is None or parent.complete or self._is_fast(parent)
        return blameless and now - one.told_at >= ALONE

    def _is_fast(self, one: Member) -> bool:
        """Whether one of its links is, beyond doubt."""
        return max(one.rate, one.feeding) >= SLOW * self._median

    def _lags(self, rate: float, steady: float) -> bool:
        """Whether a link (bytes per second, 0 unknown) is slow. A link that was idle may seem much faster than it is,
        and all others slow beside it: so not by that alone."""
        as_others = self._best and steady >= SLOW * self._best
        return 0 < rate < SLOW * self._median and not as_others

    def _explained(self, one: Member) -> bool:
        """Whether it was measured behind a slow one, so that its link says nothing."""
        parent = self._members.get(one.behind)
        return parent is not None and parent.slow
