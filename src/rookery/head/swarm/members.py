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
KNOWN = 4  # the part of all members, one in so many, whose links must be measured before any of them counts as slow
REFRESH = 0.175  # s between two looks at all members for the median, with QUICK and more; with fewer as much shorter
QUICK = 350
ALONE = 1.0  # s after the first measure of a link from which a member is judged by that alone
STEADY = 0.25  # s: the same where it is measured for so long that it was no burst


@dataclass
class Member:
    """One node of a swarm. asks: how often it asked. rate, steady: as in Ask, 0 until its link is measured. behind:
    from whom, empty when it is from several; since: from when on. feeding, feeding_steady: of the best link to a child
    that takes all from it; fed: who measured last. banned: gave garbage; it gets no children any more. hungry: as it
    said last. pause: seconds that it was told to wait. told: its parents when it asked last; told_at: since when these.
    opener: who gives it the opening."""

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
    """Who of `members` (by endpoint) is slow. root: endpoint of the head's relay."""

    def __init__(self, root: str, members: Mapping[str, Member]) -> None:
        self._root, self._members = root, members
        self._median, self._best, self._sure, self._at = 0.0, 0.0, False, -1.0

    def note(self, member: Member, ask: Ask, now: float) -> None:
        """Take in what a member measured, `told` being what it was told before."""
        if not ask.rate:
            return
        behind = ask.parents[0] if len(ask.parents) == 1 == len(member.told) else ""
        if behind != member.behind or not member.rate:
            member.since = now
        member.rate, member.steady, member.behind = ask.rate, ask.steady, behind
        # Nobody speaks for one that it was not told to take from.
        parent = self._members.get(behind) if member.told == (behind,) else None
        if parent is not None:
            parent.feeding = max(parent.feeding, ask.rate)
            parent.feeding_steady = max(parent.feeding_steady, ask.steady)
            parent.fed = member.endpoint

    def look(self, now: float) -> None:
        """Compare all links, if that was not done a moment ago."""
        everybody = self._members.values()
        if now - self._at < REFRESH * min(len(everybody) / QUICK, 1.0):
            return
        self._at = now
        rates = [rate for one in everybody if (rate := max(one.feeding, 0.0 if self._explained(one) else one.rate))]
        steady = [rate for one in everybody if (rate := max(one.steady, one.feeding_steady))]
        self._median = statistics.median(rates) if len(rates) > max(len(everybody) // KNOWN, 1) else 0.0
        self._best, self._sure = max(steady, default=0.0), 2 * len(steady) > len(rates)

    def slow(self, member: Member, now: float) -> Iterator[Member]:
        """Those that are known to be slow by what a member has just said: it, or one at the other end of a link of
        it or of its parent."""
        parent = self._members.get(member.behind)
        near = (member.endpoint, member.behind, member.fed, parent.behind if parent else "")
        for one in (self._members[endpoint] for endpoint in near if endpoint in self._members):
            if not one.slow and not one.complete and self._is_slow(one, now):
                yield one

    def is_waiting(self, member: Member, now: float) -> bool:
        """Whether its link is slow, or not measured yet behind one that is, and that may be its parent's fault: it
        shall ask again soon."""
        parent = self._members.get(member.told[0]) if member.told else None
        one = member if member.rate or parent is None else parent
        is_new = now - max(member.told_at, one.since) < ALONE
        return is_new and not member.slow and self._lags(one.rate, one.steady)

    def _is_slow(self, one: Member, now: float) -> bool:
        if not self._lags(one.rate, one.steady) or (one.feeding and not self._lags(one.feeding, one.feeding_steady)):
            return False
        parent, child = self._members.get(one.behind), self._members.get(one.fed)
        if one.feeding and any(end is not None and self._is_fast(end) for end in (parent, child)):
            return True
        # Without a child, or amid others of whom nothing is known: if it cannot be its parent's fault.
        if one.told != (one.behind,) or now - one.since < (STEADY if one.steady else ALONE):
            return False
        return one.behind == self._root or (parent is not None and not parent.slow and self._may_be_fast(parent))

    def _may_be_fast(self, parent: Member) -> bool:
        unknown = parent.complete and not parent.rate and not parent.feeding
        return unknown or self._is_fast(parent)

    def _is_fast(self, one: Member) -> bool:
        """Whether one of its links is, beyond doubt."""
        if self._sure and (one.steady or one.feeding_steady):
            return max(one.steady, one.feeding_steady) >= SLOW * self._best
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
