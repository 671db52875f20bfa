# SPDX-License-Identifier: Apache-2.0
"""The tracker: who is in which swarm, and whom to hand to whom.

BEP 3 (announce), BEP 7 (IPv6), BEP 23 (compact). Everything is in memory and comes back by itself: after a restart the
nodes announce again within one interval. Who may announce is decided before this module is asked (the credential is in
the URL's path); which info-hashes exist is told to it with `serve` and `forget`.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from rookery.errors import ErrorKind, RookeryError
from rookery.wire.engine import FROM_OTHER_RACKS, FULL_MESH, NEIGHBOURS

MAX_QUERY = 4096  # bytes; libtorrent's announces have about 400
MAX_WANTED = 200
MOST_PEERS = 50_000  # of one swarm
SHORTEST_INTERVAL = 10  # s
LONGEST_INTERVAL = 1800  # s
ANNOUNCES_PER_SECOND = 50  # that all the nodes of a swarm together make, about
MIN_INTERVAL = 1  # s
EVENTS = frozenset({"", "started", "stopped", "completed", "paused"})


@dataclass(frozen=True, slots=True)
class Announce:
    """One announce, parsed. info_hash: 20 bytes (a v2 hash truncated, BEP 52). address: where the call came from.
    left: bytes that the caller lacks. numwant: peers asked for, None for as many as we like. key: BEP 3, opaque."""

    info_hash: bytes
    peer_id: bytes
    address: str
    port: int
    left: int = 0
    uploaded: int = 0
    downloaded: int = 0
    event: str = ""
    numwant: int | None = None
    key: str = ""
    compact: bool = True
    no_peer_id: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """A member of a swarm, as handed out. complete: it has everything. peer_id: empty for the head's own seeders."""

    address: str
    port: int
    peer_id: bytes = b""
    complete: bool = False


@dataclass(frozen=True, slots=True)
class AnnounceReply:
    """The answer. interval, min_interval: s. complete, incomplete: members with and without everything."""

    interval: int
    min_interval: int
    complete: int
    incomplete: int
    peers: tuple[Peer, ...]
    compact: bool = True
    no_peer_id: bool = False


@dataclass(slots=True)
class Rack:
    """The members of a swarm that stand in one rack: those that have everything, and those that lack something."""

    complete: list[Peer] = field(default_factory=list)
    lacking: list[Peer] = field(default_factory=list)
    place: int = 0  # among the racks of its swarm

    def __len__(self) -> int:
        return len(self.complete) + len(self.lacking)


@dataclass(slots=True)
class _Member:
    peer: Peer
    key: str
    seen: float
    rack: str
    place: int  # in its rack's list: to be taken out of it costs no search


@dataclass
class _Swarm:
    members: dict[bytes, _Member] = field(default_factory=dict)  # by peer_id
    ports: dict[tuple[str, int], bytes] = field(default_factory=dict)
    racks: dict[str, Rack] = field(default_factory=dict)  # the same members
    ring: list[Rack] = field(default_factory=list)  # the same racks
    complete: int = 0
    swept: float = 0.0


def interval_for(members: int) -> int:
    """Seconds between two announces of one node, so that all together stay at half of ANNOUNCES_PER_SECOND."""
    return min(max(SHORTEST_INTERVAL, 2 * members // ANNOUNCES_PER_SECOND), LONGEST_INTERVAL)


def handout(
    racks: Sequence[Rack],
    own: int,
    asker: Peer,
    seeders: Sequence[Peer],
    numwant: int | None,
    dice: random.Random,
) -> tuple[Peer, ...]:
    """Whom the tracker names to `asker`, who stands in `racks[own]`; pure but for the `dice`.

    A caller that has everything gets nobody: those who lack something come to it. The others get the head's seeders
    first, and then, in a swarm of up to FULL_MESH, everybody. Above that at most NEIGHBOURS: a full mesh costs more
    than it gives (64 nodes: 46.6 s in a full mesh, 30.5 s with 8 to 16 neighbours). They are of the asker's rack but
    for FROM_OTHER_RACKS, or as many as make half of NEIGHBOURS with those of a small rack. One of the others is in the
    next rack of the ring that all racks make, so no group of racks is ever cut off from the rest.
    """
    if asker.complete:
        return ()
    known = {(peer.address, peer.port) for peer in seeders} | {(asker.address, asker.port)}

    def new(peers: Iterable[Peer], most: int) -> list[Peer]:
        return list(itertools.islice((peer for peer in peers if (peer.address, peer.port) not in known), most))

    room = MAX_WANTED if numwant is None else min(numwant, MAX_WANTED)
    chosen = list(seeders[:room])
    room -= len(chosen)
    # A few more are drawn than there is room for: the asker itself, or a seeder, may be among them.
    spare = len(known)
    if sum(map(len, racks)) <= FULL_MESH:
        everybody = [peer for rack in racks for peers in (rack.complete, rack.lacking) for peer in peers]
        return (*chosen, *new(dice.sample(everybody, min(len(everybody), room + spare)), room))
    room = min(room, NEIGHBOURS)
    few = min(FROM_OTHER_RACKS, room // 4) if len(racks) > 1 else 0
    near = new(drawn(racks[own], room - few + spare, dice), room - few)
    most = min(room - len(near), max(few, NEIGHBOURS // 2 - len(near)))
    return (*chosen, *near, *new(_from_others(racks, own, most, dice), most))


def drawn(rack: Rack, count: int, dice: random.Random) -> list[Peer]:
    """`count` members of a rack at random, all when it has no more: complete ones and others as they are there, but at
    least a quarter of each kind while there are so many. Who is complete gives everything, and who is not will need it
    and has room to give: neither kind alone makes a good neighbourhood."""
    complete, lacking = len(rack.complete), len(rack.lacking)
    count = min(count, complete + lacking)
    if not count:
        return []
    share = int(count * complete / (complete + lacking) + dice.random())
    share = min(max(share, count // 4), count - count // 4)
    share = min(max(share, count - lacking), complete)
    found = _some(rack.complete, share, dice) + _some(rack.lacking, count - share, dice)
    dice.shuffle(found)
    return found


def _some(peers: list[Peer], count: int, dice: random.Random) -> list[Peer]:
    return [peers[index] for index in dice.sample(range(len(peers)), count)]


def _from_others(racks: Sequence[Rack], own: int, count: int, dice: random.Random) -> list[Peer]:
    """Members of other racks, from as many racks as possible, the next one of the ring first."""
    others = len(racks) - 1
    if count <= 0 or others < 1:
        return []
    steps = (step + 2 for step in dice.sample(range(others - 1), min(count, others) - 1))
    further = [racks[(own + step) % len(racks)] for step in steps]
    chosen = [racks[(own + 1) % len(racks)], *sorted(further, key=len)]  # what small ones cannot give, the others do
    found: list[Peer] = []
    for index, rack in enumerate(chosen):
        found += drawn(rack, -(-(count - len(found)) // (len(chosen) - index)), dice)
    return found


class Tracker:
    """The registry of swarms. Thread-safe; no call does I/O.

    seeders: `address:port` of the head's own seeders, in every swarm for good. now, in every call: seconds of any one
    clock that does not go back.
    """

    def __init__(self, seeders: Iterable[str] = (), dice: random.Random | None = None) -> None:
        self._seeders = tuple(parse_endpoint(text) for text in seeders)
        self._dice = dice or random.Random()  # noqa: S311 - no secret is made of it
        self._lock = threading.Lock()
        self._swarms: dict[bytes, _Swarm] = {}

    def serve(self, info_hash: str, info_hash_v1: str = "") -> None:
        """Let a blob's swarm exist. Its v2 and v1 info-hash (hex) are two names of one swarm. Again changes nothing."""
        names = _names(info_hash, info_hash_v1)
        with self._lock:
            swarm = next((self._swarms[name] for name in names if name in self._swarms), _Swarm())
            self._swarms.update(dict.fromkeys(names, swarm))

    def forget(self, info_hash: str, info_hash_v1: str = "") -> None:
        """Let it exist no longer."""
        with self._lock:
            for name in _names(info_hash, info_hash_v1):
                self._swarms.pop(name, None)

    def announce(self, announce: Announce, now: float, rack: str = "") -> AnnounceReply:
        """Take a caller in (or out, when it says `stopped`) and name it others. rack: where it stands (racks.py).

        Raises RookeryError: `not-found` for an unknown info-hash, `conflict` when the peer id is another's, and
        `unavailable` when the swarm is full.
        """
        asker = Peer(announce.address, announce.port, announce.peer_id, announce.left == 0)
        with self._lock:
            swarm = self._swarms.get(announce.info_hash)
            if swarm is None:
                raise RookeryError("this tracker does not know that info-hash", kind=ErrorKind.NOT_FOUND)
            _sweep(swarm, now)
            peers: tuple[Peer, ...] = ()
            if announce.event == "stopped":
                _leave(swarm, announce)
            else:
                _enter(swarm, asker, announce.key, now, rack)
                own = swarm.racks[rack].place
                peers = handout(swarm.ring, own, asker, self._seeders, announce.numwant, self._dice)
            seeds = len(self._seeders)
            complete, everybody = swarm.complete, len(swarm.members)
        return AnnounceReply(
            interval_for(everybody),
            MIN_INTERVAL,
            complete + seeds,
            everybody - complete,
            peers,
            announce.compact,
            announce.no_peer_id,
        )

    def remove_address(self, address: str) -> None:
        """Take everybody at an address out of every swarm, as when a node may no longer seed."""
        with self._lock:
            for swarm in self._swarms.values():
                for member in [member for member in swarm.members.values() if member.peer.address == address]:
                    _drop(swarm, member.peer.peer_id)

    def present(self, info_hash: str, now: float) -> int:
        """How many are in a swarm who have announced themselves lately, without the head's seeders; unknown: none."""
        with self._lock:
            swarm = self._swarms.get(bytes.fromhex(info_hash)[:20])
            if swarm is None:
                return 0
            _sweep(swarm, now)
            return len(swarm.members)

    def members(self, info_hash: str) -> tuple[Peer, ...]:
        """Who is in a swarm (by v2 or v1 info-hash, hex), without the head's seeders; unknown: nobody."""
        with self._lock:
            swarm = self._swarms.get(bytes.fromhex(info_hash)[:20])
            return tuple(member.peer for member in swarm.members.values()) if swarm else ()


def parse(query: bytes, address: str) -> Announce:
    """The announce in a query string (what follows `?`, as it came over the wire).

    address: where the connection came from; what the caller says of its own address (`ip`, `ipv4`, `ipv6`) does not
    count, since it could make nodes connect to anybody. Raises RookeryError `invalid` or `too-large`.
    """
    if len(query) > MAX_QUERY:
        raise RookeryError(f"the announce is larger than {MAX_QUERY} bytes", kind=ErrorKind.TOO_LARGE)
    words: dict[str, bytes] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        key = unquote_to_bytes(name).decode("latin-1")
        if key in words:
            raise _invalid(f"{key[:40]!r} is there twice")
        words[key] = unquote_to_bytes(value.replace(b"+", b" "))
    event = words.get("event", b"").decode("latin-1")
    if event == "empty":
        event = ""
    if event not in EVENTS:
        raise _invalid(f"event {event[:40]!r} is none of started, stopped, completed, paused")
    return Announce(
        info_hash=_twenty(words, "info_hash"),
        peer_id=_twenty(words, "peer_id"),
        address=_plain_address(address),
        port=_number(words, "port", 1, 65535),
        left=_number(words, "left", 0, 2**63, 1),
        uploaded=_number(words, "uploaded", 0, 2**63, 0),
        downloaded=_number(words, "downloaded", 0, 2**63, 0),
        event=event,
        numwant=_wanted(words),
        key=words.get("key", b"")[:64].decode("latin-1"),
        compact=words.get("compact", b"1") != b"0",
        no_peer_id=words.get("no_peer_id", b"0") == b"1",
    )


def encode(reply: AnnounceReply) -> bytes:
    """The bencoded answer: peers as BEP 23 (6 bytes each) and BEP 7 (18 bytes each), or as dictionaries (BEP 3)."""
    answer: dict[str, object] = {
        "complete": reply.complete,
        "incomplete": reply.incomplete,
        "interval": reply.interval,
        "min interval": reply.min_interval,
    }
    if reply.compact:
        four = [_compact(peer) for peer in reply.peers if ":" not in peer.address]
        six = [_compact(peer) for peer in reply.peers if ":" in peer.address]
        answer["peers"] = b"".join(four)
        if six:
            answer["peers6"] = b"".join(six)
    else:
        answer["peers"] = [
            {"ip": peer.address, "port": peer.port}
            | ({} if reply.no_peer_id or not peer.peer_id else {"peer id": peer.peer_id})
            for peer in reply.peers
        ]
    return bencode(answer)


def failure(text: str) -> bytes:
    """The answer that says why not (BEP 3: `failure reason`)."""
    return bencode({"failure reason": text})


def bencode(value: object) -> bytes:
    """Bencoding (BEP 3) of int, bytes, str (as UTF-8), list and dict with str keys. TypeError for anything else."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(bencode(item) for item in value) + b"e"
    if isinstance(value, dict):
        items = sorted((str(key).encode(), item) for key, item in value.items())
        return b"d" + b"".join(bencode(key) + bencode(item) for key, item in items) + b"e"
    raise TypeError(f"cannot bencode {type(value).__name__}")


def parse_endpoint(text: str) -> Peer:
    """The peer at `address:port` or `[address]:port`. Raises RookeryError `invalid`."""
    host, _, port = text.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise RookeryError(f"{text[:80]!r} is not address:port", kind=ErrorKind.INVALID) from None
    return Peer(address, int(port), complete=True)


def _names(info_hash: str, info_hash_v1: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(text)[:20] for text in (info_hash, info_hash_v1) if text)


def _enter(swarm: _Swarm, peer: Peer, key: str, now: float, rack: str) -> None:
    known = swarm.members.get(peer.peer_id)
    if known is not None:
        moved = (known.peer.address, known.peer.port) != (peer.address, peer.port)
        if moved and known.key != key:
            raise RookeryError("this peer id is in use at another address", kind=ErrorKind.CONFLICT)
        if not moved and known.rack == rack and known.peer.complete == peer.complete:
            known.key, known.seen = key, now
            return
        _drop(swarm, peer.peer_id)
    # A client that was started again is at the same port under a new id: the old one is gone.
    if (former := swarm.ports.get((peer.address, peer.port))) is not None:
        _drop(swarm, former)
    if len(swarm.members) >= MOST_PEERS:
        raise RookeryError(f"this swarm has {MOST_PEERS} members already", kind=ErrorKind.UNAVAILABLE)
    if (there := swarm.racks.get(rack)) is None:
        there = swarm.racks[rack] = Rack(place=len(swarm.ring))
        swarm.ring.append(there)
    shelf = there.complete if peer.complete else there.lacking
    swarm.members[peer.peer_id] = _Member(peer, key, now, rack, len(shelf))
    swarm.ports[peer.address, peer.port] = peer.peer_id
    shelf.append(peer)
    swarm.complete += peer.complete


def _leave(swarm: _Swarm, announce: Announce) -> None:
    known = swarm.members.get(announce.peer_id)
    if known is not None and (known.key == announce.key or known.peer.address == announce.address):
        _drop(swarm, announce.peer_id)


def _drop(swarm: _Swarm, peer_id: bytes) -> None:
    gone = swarm.members.pop(peer_id)
    swarm.ports.pop((gone.peer.address, gone.peer.port), None)
    swarm.complete -= gone.peer.complete
    rack = swarm.racks[gone.rack]
    shelf = rack.complete if gone.peer.complete else rack.lacking
    last = shelf.pop()
    if gone.place < len(shelf):
        shelf[gone.place] = last
        swarm.members[last.peer_id].place = gone.place
    if not len(rack):
        del swarm.racks[gone.rack]
        end = swarm.ring.pop()
        if end is not rack:
            swarm.ring[rack.place], end.place = end, rack.place


def _sweep(swarm: _Swarm, now: float) -> None:
    """Take out who missed two announces and some more. Once a few seconds: it looks at everybody."""
    interval = interval_for(len(swarm.members))
    if now - swarm.swept < interval / 4:
        return
    swarm.swept = now
    oldest = now - 2.5 * interval
    for peer_id in [member.peer.peer_id for member in swarm.members.values() if member.seen < oldest]:
        _drop(swarm, peer_id)


def _compact(peer: Peer) -> bytes:
    return _packed(peer.address) + peer.port.to_bytes(2, "big")


# The same addresses come again and again: reading one costs more than the rest of an announce.
@functools.lru_cache(maxsize=1 << 16)
def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


@functools.lru_cache(maxsize=1 << 16)
def _plain_address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise _invalid(f"{text[:40]!r} is not an address") from None
    # A dual-stack socket shows IPv4 callers as ::ffff:a.b.c.d.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _invalid(what: str) -> RookeryError:
    return RookeryError(f"announce: {what}", kind=ErrorKind.INVALID)


def _twenty(words: dict[str, bytes], name: str) -> bytes:
    value = words.get(name)
    if value is None:
        raise _invalid(f"{name} is missing")
    if len(value) != 20:
        raise _invalid(f"{name} has {len(value)} bytes, not 20")
    return value


def _number(words: dict[str, bytes], name: str, low: int, high: int, default: int | None = None) -> int:
    value = words.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise _invalid(f"{name} is missing")
    if not (value.isascii() and value.isdigit() and len(value) <= 20 and low <= int(value) <= high):
        raise _invalid(f"{name} is not a number from {low} to {high}")
    return int(value)


def _wanted(words: dict[str, bytes]) -> int | None:
    # -1 is what some clients send for "as many as you like".
    if words.get("numwant", b"-1") in (b"-1", b""):
        return None
    return _number(words, "numwant", 0, 2**31)
