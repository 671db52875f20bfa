# SPDX-License-Identifier: Apache-2.0
"""The planner: who takes from whom, so that one copy of a blob leaves the head and one enters each rack.

Members stand in **segments**, chains in which each takes everything from the one before. Up to twice SEGMENT members
there is one line: the next segment's first member takes from the last one's tail. Above, segments (of SEGMENT members
at most) form two interior-disjoint binary trees (`layout`), each of which carries every other piece, so that the way to
the last member grows with the logarithm of their number. A segment is of one rack. Members whose link is much slower
than the others' stand behind everybody.

Members that come together form one **wave**, and as long as none of it has much, it may be arranged anew. Who comes
later is put at the end of a segment; who comes when everybody is done begins a new wave behind one who is done.

Pure: no clock, no I/O; the caller gives the time, and lets one call in at a time (`Planner` is not thread-safe).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rookery.head.swarm.members import Member, Speeds
from rookery.wire.relay import Ask, Feed, Place

SEGMENT = 32  # members of one segment at most, in a wave of more than LONGEST
LONGEST = 2 * SEGMENT  # members up to which all segments form one line
STRIPES = 2
YOUNG_PIECES = 16  # a wave is young until a member has so many pieces, or 2 %
SETTLE = 0.35  # s: the first asks come so soon after each other, until links are measured and places found
SETTLE_ASKS = 8
SETTLING_PER_SECOND = 500  # asks that all of them together make then, at most
HASTE = 0.05  # s: the same for who may wait behind a slow one
HASTY_PER_SECOND = 250
ASKS_PER_SECOND = 200  # that all members of a swarm together make, about, later on
SHORTEST, LONGEST_PAUSE = 2.0, 20.0  # s between two asks of one member
STALLED = 48  # pieces that a member is behind its parent, and keeps a hungry child waiting, before it counts as slow
PATIENT = 2.0  # s that it must have had its parent for that
ANCESTORS = 4  # named to a member beside its parent
FAN = 4  # to how many a member gives the opening: the 64th is 3 steps away, and each sends few bytes for it
NEAR = 4  # earlier members that are looked at where the one that should give it is gone
FORGET = 4.0  # a member is forgotten after so many pauses without a word


@dataclass(frozen=True)
class Asker:
    """Who asks. endpoint: `address:port` where it gives. rack: a name for its place."""

    endpoint: str
    rack: str


@dataclass
class Segment:
    """A chain. members: endpoints, each takes from the one before. sources: by stripe, whom the first takes from."""

    rack: str
    slow: bool
    sources: list[str]
    members: list[str] = field(default_factory=list)


@dataclass
class Wave:
    """Members that came together. root: whom the first one takes from: the head, or a member that is done. openers: who
    asked for the blob's opening while it was young, in order; the first FAN get it from the root, each gives it to
    FAN."""

    root: str
    openers: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    young: bool = True

    def size(self) -> int:
        """How many members."""
        return sum(len(segment.members) for segment in self.segments)


def layout(segments: int, line: bool, stripes: int = STRIPES) -> tuple[tuple[int, ...], ...]:
    """By segment and stripe, the segment whose tail feeds its first member; -1 is the root.

    In a line each follows the one before. Else there is a tree for each stripe, full, filled level by level, the
    interior segments first. Segment j is interior in the tree of stripe j modulo `stripes`, where its tail feeds that
    stripe to `stripes` others, and a leaf in all other trees. Every tail gives what its link can give, every first
    member gets what its link can take, and the root sends one copy. Where a stripe has too few segments of its own
    (only with more than two stripes), its last leaves hang on segments that would feed fewer. Source: SplitStream
    (Castro et al., SOSP 2003), with chains in place of single nodes.
    """
    if line or segments <= 2:
        return tuple((number - 1,) * stripes for number in range(segments))
    stripes = min(stripes, segments)
    own = [list(range(stripe, segments, stripes)) for stripe in range(stripes)]
    spare = [mine[-1] for mine in own for _ in range(stripes * len(mine) - (segments - 1))]
    lenders = sorted(set(spare)) if any(stripes * len(mine) < segments - 1 for mine in own) else []
    found = [[-1] * stripes for _ in range(segments)]
    for stripe, mine in enumerate(own):
        # Lenders before the other leaves: what they lend goes to later ones, so no tree bites its tail.
        leaves = [number for number in lenders if number % stripes != stripe]
        leaves += [number for number in range(segments) if number % stripes != stripe and number not in lenders]
        order = mine + leaves
        for position, number in enumerate(order[1:], start=1):
            parent = (position - 1) // stripes
            found[number][stripe] = order[parent] if parent < len(mine) else spare.pop()
    return tuple(tuple(sources) for sources in found)


def pause(members: int) -> float:
    """Seconds between two asks of one member of a settled swarm."""
    return min(max(members / ASKS_PER_SECOND, SHORTEST), LONGEST_PAUSE)


class Swarm:
    """The members of one blob's swarm and their places. root: endpoint of the head's relay. segment: members of a
    segment at most; twice as many form one line."""

    def __init__(self, root: str, segment: int = SEGMENT) -> None:
        self._root, self._segment, self._longest = root, segment, 2 * segment
        self.members: dict[str, Member] = {}
        self.waves: list[Wave] = []
        self._place: dict[str, tuple[Wave, Segment]] = {}
        self.speeds = Speeds(root, self.members)
        self._swept = 0.0

    def ask(self, asker: Asker, ask: Ask, now: float) -> tuple[Feed, ...]:
        """Take in what a member says, and tell it from whom to take."""
        self.sweep(now)
        if ask.leaving:
            self._remove(asker.endpoint)
            return ()
        member = self._note(asker, ask, now)
        self._accuse(member, ask)
        if member.endpoint not in self._place:
            if not member.complete:
                self._unplace(member.endpoint)  # one who was done has begun anew: nobody stands behind it any more
            self._enter(member)
        self._judge(member, ask, now)
        feeds = self._feeds(member)
        told = tuple(feed.parents[0] for feed in feeds)
        if told != member.told:
            member.told, member.told_at = told, now
        return feeds

    @property
    def young(self) -> bool:
        """Whether the newest wave may still be arranged anew."""
        return bool(self.waves) and self.waves[-1].young

    def line(self) -> tuple[tuple[str, ...], ...]:
        """The segments of the newest wave, for a look."""
        return tuple(tuple(segment.members) for segment in self.waves[-1].segments) if self.waves else ()

    def parent(self, endpoint: str, stripe: int = 0) -> str:
        """Whom a member takes a stripe from."""
        _, segment = self._place[endpoint]
        at = segment.members.index(endpoint)
        return segment.members[at - 1] if at else segment.sources[stripe]

    # -- what is said

    def _note(self, asker: Asker, ask: Ask, now: float) -> Member:
        member = self.members.get(asker.endpoint)
        if member is None:
            member = self.members[asker.endpoint] = Member(asker.endpoint, asker.rack, total=ask.total)
        member.pieces, member.total, member.seen = ask.pieces, ask.total, now
        self.speeds.note(member, ask, now)
        member.hungry = ask.hungry
        place = self._place.get(member.endpoint)
        if place and place[0].young and YOUNG_PIECES < ask.pieces > ask.total // 50 and not member.complete:
            place[0].young = False
        return member

    def _accuse(self, member: Member, ask: Ask) -> None:
        """Only a member's own parents may be accused by it: nobody can turn others out."""
        if member.endpoint not in self._place:
            return
        # As they are now: who is behind a lost one is not this member's to accuse.
        for parent in {self.parent(member.endpoint, stripe) for stripe in range(STRIPES)}:
            if parent not in self.members:
                continue
            if parent in ask.bad:
                self.members[parent].banned = True
                self._to_the_end(self.members[parent])
            elif parent in ask.lost:
                # If it lives, it asks again and is put at an end.
                self._unplace(parent)

    def _judge(self, member: Member, ask: Ask, now: float) -> None:
        """Who is much slower than the others goes to the end."""
        self.speeds.look(now)
        for one in self.speeds.found(member, now):
            if one.endpoint in self._place:
                self._slow(one)
        if member.endpoint not in self._place:
            return
        parent = self.members.get(self.parent(member.endpoint))
        if not ask.hungry or parent is None or parent.endpoint not in self._place or parent.complete or parent.slow:
            return
        # Who waits itself is not the slow one.
        above = self.members.get(self.parent(parent.endpoint))
        if above is None or parent.hungry or parent.told != (above.endpoint,) or now - parent.told_at < PATIENT:
            return
        if above.pieces - parent.pieces > max(STALLED, parent.total // 100):
            self._slow(parent)

    def _slow(self, member: Member) -> None:
        member.slow = True
        self._to_the_end(member)

    # -- places

    def _enter(self, member: Member) -> None:
        """Give a new member (or one that was put out) a place."""
        if member.complete:
            return  # it stands nowhere: it only gives
        if not any(not self.members[endpoint].complete for endpoint in self._place):
            self._place = {}
            self.waves = [Wave(self._giver_for(member.rack))]
        wave = self.waves[-1]
        line = [s for s in wave.segments if s.rack == member.rack and s.slow == (member.slow or member.banned)]
        if wave.young and not (member.slow or member.banned):
            self._enter_young(wave, member, line)
        else:
            self._append(wave, member, line)

    def _enter_young(self, wave: Wave, member: Member, line: Sequence[Segment]) -> None:
        count = wave.size() + 1
        # One segment for a rack while all are one line: a rack's members stay together, and one copy enters.
        room = next((s for s in line if count <= self._longest or len(s.members) < self._segment), None)
        if room is None:
            room = Segment(member.rack, False, [wave.root] * STRIPES)
            fast = sum(not segment.slow for segment in wave.segments)
            wave.segments.insert(fast, room)
        tail = room.members[-1] if room.members else None
        room.members.append(member.endpoint)
        self._place[member.endpoint] = wave, room
        if count == self._longest + 1:
            self._split(wave)
        elif tail is not None:
            for segment in wave.segments:
                segment.sources = [member.endpoint if source == tail else source for source in segment.sources]
        if tail is None or count == self._longest + 1:
            self._arrange(wave)

    def opener(self, endpoint: str) -> str:
        """Who gives the opening to a member that asks for it, and passes it on; empty: nobody, the chain is as fast."""
        member, wave = self.members[endpoint], self.waves[-1] if self.waves else None
        if member.opener or wave is None or not wave.young or self._place.get(endpoint, (None,))[0] is not wave:
            return member.opener
        above = len(wave.openers) // FAN - 1
        wave.openers.append(endpoint)
        near = (wave.openers[number] for number in range(above, max(above - NEAR, -1), -1))
        there = (one for one in near if one in self._place and not self.members[one].banned)
        member.opener = wave.root if above < 0 else next(there, "")
        return member.opener

    def _split(self, wave: Wave) -> None:
        """The line has become too long: cut its segments into short ones."""
        cut: list[Segment] = []
        for segment in wave.segments:
            step = len(segment.members) if segment.slow else self._segment
            for at in range(0, len(segment.members), step):
                piece = Segment(segment.rack, segment.slow, list(segment.sources), segment.members[at : at + step])
                cut.append(piece)
                for endpoint in piece.members:
                    self._place[endpoint] = wave, piece
        wave.segments = cut

    def _arrange(self, wave: Wave) -> None:
        """Lay the segments of a young wave out anew."""
        fast = [segment for segment in wave.segments if not segment.slow and segment.members]
        for segment, sources in zip(fast, layout(len(fast), wave.size() <= self._longest), strict=True):
            segment.sources = [wave.root if source < 0 else fast[source].members[-1] for source in sources]
        if fast:
            for segment in wave.segments:
                if segment.slow:
                    segment.sources = [fast[-1].members[-1]] * STRIPES

    def _append(self, wave: Wave, member: Member, line: Sequence[Segment]) -> None:
        """At the end of a segment of its rack that feeds nobody, else behind tails that have room."""
        feeding, _ = self._feeding(wave)
        for segment in reversed(line):
            if segment.members and (segment.slow or not feeding[segment.members[-1]]):
                segment.members.append(member.endpoint)
                self._place[member.endpoint] = wave, segment
                return
        slow = member.slow or member.banned
        if slow and (late := [s for s in wave.segments if s.slow and s.members]):
            behind = [late[-1].members[-1]] * STRIPES
        else:
            behind = self._spare(wave)
        room = Segment(member.rack, slow, behind, [member.endpoint])
        fast = sum(not segment.slow for segment in wave.segments)
        wave.segments.insert(len(wave.segments) if slow else fast, room)
        self._place[member.endpoint] = wave, room

    def _spare(self, wave: Wave) -> list[str]:
        """By stripe, a tail whose wire has room: the last that feeds nobody, for all; else those that feed the fewest;
        the root where each feeds all that it can."""
        feeding, tails = self._feeding(wave)
        if idle := [tail for tail in tails if not feeding[tail]]:
            return idle[:1] * STRIPES
        found: list[str] = []
        for _ in range(STRIPES):
            free = [tail for tail in tails if feeding[tail] < STRIPES]
            found.append(min(free, key=feeding.__getitem__, default=wave.root))
            feeding[found[-1]] += 1
        return found

    def _feeding(self, wave: Wave) -> tuple[Counter[str], list[str]]:
        """How many stripes each source feeds to segments, and the tails that may feed, the last one first."""
        fast = [segment for segment in wave.segments if not segment.slow and segment.members]
        tails = [segment.members[-1] for segment in reversed(fast)]
        fed = Counter(source for segment in fast for source in segment.sources)
        return fed, [tail for tail in tails if not self.members[tail].banned]

    def _relieve(self, wave: Wave, orphans: Sequence[tuple[Segment, int]]) -> None:
        """Of segments whose source is lost, those that its own source has no room for go behind a tail that has."""
        for segment, stripe in orphans:
            feeding, tails = self._feeding(wave)
            if feeding[segment.sources[stripe]] <= STRIPES or segment.slow:
                continue
            free = [tail for tail in tails if feeding[tail] < STRIPES and not self._hangs(tail, segment, stripe)]
            if free:
                segment.sources[stripe] = min(free, key=feeding.__getitem__)

    def _hangs(self, endpoint: str, segment: Segment, stripe: int) -> bool:
        """Whether a member gets a stripe by way of a segment."""
        while endpoint in self._place:
            _, at = self._place[endpoint]
            if at is segment:
                return True
            endpoint = at.sources[stripe]
        return False

    def _to_the_end(self, member: Member) -> None:
        self._unplace(member.endpoint)
        if not member.complete:
            self._enter(member)

    def _unplace(self, endpoint: str) -> None:
        """Take a member out of its segment: who took from it takes from the one before it."""
        place = self._place.pop(endpoint, None)
        if place is None:
            for wave in self.waves:
                if wave.root == endpoint:
                    wave.root = self._giver_for(wave.segments[0].rack if wave.segments else "", endpoint)
                self._replace(wave, endpoint, [wave.root] * STRIPES)
            return
        wave, segment = place
        at = segment.members.index(endpoint)
        before = [segment.members[at - 1]] * STRIPES if at else list(segment.sources)
        del segment.members[at]
        orphans = self._replace(wave, endpoint, before)
        if not segment.members:
            wave.segments.remove(segment)
            self._relieve(wave, orphans)

    def _replace(self, wave: Wave, endpoint: str, before: Sequence[str]) -> list[tuple[Segment, int]]:
        """Put others in the place of a source; the segments and stripes that it fed."""
        found = [(one, stripe) for one in wave.segments for stripe in range(STRIPES) if one.sources[stripe] == endpoint]
        for segment, stripe in found:
            segment.sources[stripe] = before[stripe]
        return found

    def _giver_for(self, rack: str, but: str = "") -> str:
        """Behind whom a wave begins: a member that is done and stands nowhere, of the same rack if there is one, else
        the head. but: one that it shall not be."""
        done = [
            one
            for one in self.members.values()
            if one.complete and not one.banned and one.endpoint != but and one.endpoint not in self._place
        ]
        near = [one for one in done if one.rack == rack]
        fast = [one for one in near or done if not one.slow] or near or done
        return max(fast, key=lambda one: one.seen).endpoint if fast else self._root

    def _feeds(self, member: Member) -> tuple[Feed, ...]:
        if member.complete or member.endpoint not in self._place:
            return (Feed(0, 1, (self._root,)),)
        nearest = [self.parent(member.endpoint, stripe) for stripe in range(STRIPES)]
        if len(set(nearest)) == 1:
            return (Feed(0, 1, self._ancestors(member, 0)),)
        return tuple(Feed(stripe, STRIPES, self._ancestors(member, stripe)) for stripe in range(STRIPES))

    def _ancestors(self, member: Member, stripe: int) -> tuple[str, ...]:
        found: list[str] = []
        at = member.endpoint
        while len(found) <= ANCESTORS and at in self._place:
            at = self.parent(at, stripe)
            if at in found or at == member.endpoint:
                break
            if at not in self.members or not self.members[at].banned:
                found.append(at)
        if self._root not in found:
            found.append(self._root)
        return tuple(found)

    # -- who is there

    def _remove(self, endpoint: str) -> None:
        self._unplace(endpoint)
        self.members.pop(endpoint, None)

    def sweep(self, now: float) -> None:
        """Forget who has not said anything for long."""
        interval = pause(len(self.members))
        if now - self._swept < interval:
            return
        self._swept = now
        for endpoint in [
            e for e, one in self.members.items() if now - one.seen > FORGET * max(interval, one.pause) + 5
        ]:
            self._remove(endpoint)


class Planner:
    """All swarms of a head. root, segment: as of `Swarm`. Not thread-safe."""

    def __init__(self, root: str, segment: int = SEGMENT) -> None:
        self._root, self._segment = root, segment
        self.swarms: dict[str, Swarm] = {}

    def ask(self, sha256: str, key: str, asker: Asker, ask: Ask, now: float) -> Place:
        """The place of a caller in the chain of a blob. key: of that chain."""
        if sha256 not in self.swarms:
            for swarm in self.swarms.values():
                swarm.sweep(now)
            # The others are of versions that nobody runs any more.
            self.swarms = {name: swarm for name, swarm in self.swarms.items() if swarm.members}
            self.swarms[sha256] = Swarm(self._root, self._segment)
        swarm = self.swarms[sha256]
        feeds = swarm.ask(asker, ask, now)
        member = swarm.members.get(asker.endpoint)
        count = len(swarm.members)
        hasty = settling = False
        if member is not None and not member.complete:
            hasty = swarm.speeds.is_waiting(member, now)
            member.asks += not hasty
            settling = member.asks < SETTLE_ASKS or swarm.young
        if hasty:  # where many begin, processors are busy, and links seem slow that are not
            seconds = max(HASTE, count / HASTY_PER_SECOND)
        else:
            seconds = max(SETTLE, count / SETTLING_PER_SECOND) if settling else pause(count)
        if member is not None:
            member.pause = seconds
        opener = swarm.opener(asker.endpoint) if member is not None and ask.opening else ""
        return Place(feeds, key, seconds, opener)

    def forget(self, sha256: str) -> None:
        """A blob is not published any more."""
        self.swarms.pop(sha256, None)
