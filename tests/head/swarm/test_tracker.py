# SPDX-License-Identifier: Apache-2.0
import contextlib
import random
from typing import Any
from urllib.parse import quote_from_bytes

import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.head.swarm.tracker import (
    MAX_QUERY,
    MAX_WANTED,
    Announce,
    AnnounceReply,
    Peer,
    Rack,
    Tracker,
    bencode,
    drawn,
    encode,
    failure,
    handout,
    interval_for,
    parse,
    parse_endpoint,
)
from rookery.wire.engine import FROM_OTHER_RACKS, FULL_MESH, NEIGHBOURS

V2, V1 = "ab" * 32, "cd" * 20
HASH = bytes.fromhex(V2)[:20]
HEAD = Peer("10.0.0.1", 8471, complete=True)


def call(number: int, **words: Any) -> Announce:
    found: dict[str, Any] = {
        "info_hash": HASH,
        "peer_id": b"%020d" % number,
        "address": f"10.0.{number // 250}.{number % 250 + 2}",
        "port": 8472,
        "left": 100,
        "key": "k",
    }
    return Announce(**(found | words))


@pytest.fixture
def tracker() -> Tracker:
    found = Tracker(["10.0.0.1:8471"], random.Random(1))
    found.serve(V2, V1)
    return found


# -- the policy


def rack(*peers: Peer) -> Rack:
    return Rack([peer for peer in peers if peer.complete], [peer for peer in peers if not peer.complete])


def room(*sizes: int, complete: int = 0) -> list[Rack]:
    """Racks of so many members; the first `complete` of each have everything."""
    return [
        rack(*(Peer(f"10.{r}.{n // 250}.{n % 250}", 1, complete=n < complete) for n in range(size)))
        for r, size in enumerate(sizes)
    ]


def named(racks: list[Rack], own: int, asker: Peer, numwant: int | None = None, seed: int = 1) -> tuple[Peer, ...]:
    return handout(racks, own, asker, [HEAD], numwant, random.Random(seed))


def in_rack(peer: Peer, number: int) -> bool:
    return peer.address.startswith(f"10.{number}.")


def test_a_lone_node_gets_the_heads_seeder() -> None:
    lone = Peer("10.0.0.2", 1)
    assert named([], 0, lone) == named([rack(lone)], 0, lone) == (HEAD,)


@pytest.mark.parametrize("sizes", [(FULL_MESH,), (4, FULL_MESH - 5, 1)])
def test_in_a_small_swarm_everybody_learns_of_everybody_but_themselves(sizes: tuple[int, ...]) -> None:
    racks = room(*sizes, complete=2)
    members = {peer for r in racks for peer in (*r.complete, *r.lacking)}
    asker = racks[0].lacking[0]
    got = named(racks, 0, asker)
    assert got[0] == HEAD
    assert set(got[1:]) == members - {asker}
    assert len(got) == len(members)


def test_in_a_large_swarm_neighbours_are_bounded_and_differ() -> None:
    racks, dice = room(10_000), random.Random(1)
    handed = [handout(racks, 0, asker, [HEAD], None, dice) for asker in racks[0].lacking[:200]]
    for asker, got in zip(racks[0].lacking, handed, strict=False):
        assert len(got) == 1 + NEIGHBOURS
        assert got[0] == HEAD
        assert asker not in got
        assert len(set(got)) == len(got)
    assert len({peer for got in handed for peer in got}) > 100 * NEIGHBOURS


def test_most_neighbours_are_of_the_own_rack_and_one_of_the_next() -> None:
    racks = room(100, 100, 100, 100)
    for seed in range(50):
        got = named(racks, 3, racks[3].lacking[seed], seed=seed)[1:]
        assert len(got) == NEIGHBOURS
        assert sum(in_rack(peer, 3) for peer in got) == NEIGHBOURS - FROM_OTHER_RACKS
        assert any(in_rack(peer, 0) for peer in got)


def test_who_stands_alone_in_a_rack_gets_half_a_neighbourhood_of_others() -> None:
    racks = room(1, 50, 1, 50)
    got = named(racks, 0, racks[0].lacking[0])[1:]
    assert len(got) == NEIGHBOURS // 2
    assert {number for peer in got for number in range(4) if in_rack(peer, number)} == {1, 2, 3}


@pytest.mark.parametrize(("complete", "least", "most"), [(0, 0, 0), (1, 1, 1), (50, 4, 12), (96, 10, 12), (99, 12, 15)])
def test_complete_ones_and_others_are_mixed(complete: int, least: int, most: int) -> None:
    racks = room(100, complete=complete)
    for seed in range(50):
        found = drawn(racks[0], NEIGHBOURS, random.Random(seed))
        assert len(set(found)) == NEIGHBOURS
        assert least <= sum(peer.complete for peer in found) <= most


@pytest.mark.parametrize(("wanted", "got"), [(0, 0), (1, 1), (5, 5), (None, 31), (10**6, 31)])
def test_numwant_is_kept_and_bounded(wanted: int | None, got: int) -> None:
    assert len(named(room(30), 0, Peer("10.9.9.9", 1), wanted)) == got <= MAX_WANTED


def test_who_has_everything_gets_nobody() -> None:
    racks = room(30, complete=1)
    assert named(racks, 0, racks[0].complete[0]) == ()


layouts = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(layouts, st.integers(0, 40), st.none() | st.integers(0, 60), st.integers(0, 2**32))
def test_nobody_is_named_twice_or_to_itself(sizes: list[int], complete: int, wanted: int | None, seed: int) -> None:
    racks = room(*sizes, complete=complete)
    for number, there in enumerate(racks):
        for asker in there.lacking[:2]:
            got = named(racks, number, asker, wanted, seed)
            assert len({(peer.address, peer.port) for peer in got}) == len(got)
            assert asker not in got
            assert len(got) <= (MAX_WANTED if wanted is None else wanted)
            if sum(sizes) > FULL_MESH:
                assert len(got) <= 1 + NEIGHBOURS
                if wanted is None:
                    assert len(got) >= 1 + min(NEIGHBOURS // 2, sum(sizes) - 1, len(there) - 1)


@given(layouts, st.integers(0, 2**32))
def test_the_swarm_stays_in_one_part_without_the_head(sizes: list[int], seed: int) -> None:
    """Whoever starts from one node and asks whom each knows, and who knows it, comes to all of them."""
    racks, dice = room(*sizes), random.Random(seed)
    links: dict[Peer, set[Peer]] = {}
    for number, there in enumerate(racks):
        for asker in there.lacking:
            for peer in handout(racks, number, asker, [], None, dice):
                links.setdefault(asker, set()).add(peer)
                links.setdefault(peer, set()).add(asker)
    seen = {racks[0].lacking[0]}
    todo = list(seen)
    while todo:
        new = links.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    assert len(seen) == sum(sizes)


def test_intervals_grow_with_the_swarm() -> None:
    assert [interval_for(count) for count in (0, 3, 250, 1000, 10_000, 10**6)] == [10, 10, 10, 40, 400, 1800]


# -- the registry


def test_both_info_hashes_lead_to_one_swarm(tracker: Tracker) -> None:
    tracker.announce(call(1), 0.0)
    reply = tracker.announce(call(2, info_hash=bytes.fromhex(V1)), 0.0)
    assert [peer.address for peer in reply.peers] == ["10.0.0.1", "10.0.0.3"]
    assert (reply.complete, reply.incomplete) == (1, 2)
    # The same node under its other name is still one.
    assert tracker.announce(call(2), 0.0).incomplete == 2


def test_an_unknown_info_hash_is_refused(tracker: Tracker) -> None:
    with pytest.raises(RookeryError) as caught:
        tracker.announce(call(1, info_hash=bytes(20)), 0.0)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    tracker.forget(V2, V1)
    with pytest.raises(RookeryError):
        tracker.announce(call(1), 0.0)
    assert tracker.members(V2) == ()


def test_who_stops_is_gone_at_once_and_who_falls_silent_after_two_intervals(tracker: Tracker) -> None:
    for number in (1, 2, 3):
        tracker.announce(call(number), 0.0)
    assert tracker.announce(call(1, event="stopped"), 1.0).peers == ()
    assert len(tracker.members(V2)) == 2
    tracker.announce(call(2), 20.0)
    reply = tracker.announce(call(4), 26.0)
    assert {peer.address for peer in reply.peers} == {"10.0.0.1", "10.0.0.4"}
    assert reply.incomplete == 2


def test_completion_is_counted(tracker: Tracker) -> None:
    assert tracker.announce(call(1), 0.0).complete == 1
    reply = tracker.announce(call(1, left=0, event="completed"), 1.0)
    assert (reply.complete, reply.incomplete, reply.peers) == (2, 0, ())


def test_a_client_that_was_started_again_replaces_its_former_self(tracker: Tracker) -> None:
    tracker.announce(call(1), 0.0)
    tracker.announce(call(2, address="10.0.0.3", port=8472), 1.0)
    assert [peer.peer_id for peer in tracker.members(V2)] == [b"%020d" % 2]


def test_a_peer_id_moves_only_with_its_key(tracker: Tracker) -> None:
    tracker.announce(call(1), 0.0)
    with pytest.raises(RookeryError) as caught:
        tracker.announce(call(1, address="10.6.6.6", key="guessed"), 1.0)
    assert caught.value.kind is ErrorKind.CONFLICT
    tracker.announce(call(1, address="10.6.6.6", key="guessed", event="stopped"), 1.0)
    assert [peer.address for peer in tracker.members(V2)] == ["10.0.0.3"]
    tracker.announce(call(1, address="10.0.7.7"), 1.0)
    assert [peer.address for peer in tracker.members(V2)] == ["10.0.7.7"]


def test_a_node_that_may_not_seed_any_more_is_taken_out(tracker: Tracker) -> None:
    tracker.announce(call(1, left=0), 0.0)
    tracker.announce(call(2), 0.0)
    tracker.remove_address("10.0.0.3")
    assert [peer.address for peer in tracker.members(V2)] == ["10.0.0.4"]
    assert tracker.announce(call(2), 0.0).complete == 1


happenings = st.tuples(
    st.integers(0, 12),
    st.sampled_from(["", "stopped", "completed"]),
    st.integers(0, 15),
    st.sampled_from(["r1", "r2", "r3", ""]),
)


@given(st.lists(happenings))
def test_the_registry_stays_consistent(calls: list[tuple[int, str, int, str]]) -> None:
    tracker = Tracker([], random.Random(1))
    tracker.serve(V2, V1)
    now, there = 0.0, {}
    for number, event, wait, where in calls:
        now += wait
        tracker.announce(call(number, event=event, left=0 if event == "completed" else 1), now, where)
        there.pop(number, None)
        if event != "stopped":
            there[number] = (event == "completed", now)
    members = tracker.members(V2)
    assert len({peer.peer_id for peer in members}) == len(members)
    known = {b"%020d" % number: complete for number, (complete, _) in there.items()}
    assert all(known[peer.peer_id] == peer.complete for peer in members)
    alive = {b"%020d" % number for number, (_, seen) in there.items() if seen >= now - 25}
    assert alive <= {peer.peer_id for peer in members}
    reply = tracker.announce(call(99), now)
    members = tracker.members(V2)
    assert reply.complete == sum(peer.complete for peer in members)
    # Up to FULL_MESH everybody is named: what is in the racks is what is in the registry.
    assert {peer.peer_id for peer in reply.peers} == {peer.peer_id for peer in members} - {b"%020d" % 99}
    for number in range(100):
        tracker.announce(call(number, event="stopped"), now)
    assert tracker.members(V2) == ()
    assert tracker.announce(call(99), now).peers == ()


def test_neighbours_come_from_the_rack_that_a_caller_stands_in(tracker: Tracker) -> None:
    for number in range(200):
        tracker.announce(call(number), 0.0, f"r{number % 4}")
    got = tracker.announce(call(0), 1.0, "r0").peers[1:]
    numbers = {peer.peer_id: number % 4 for number in range(200) for peer in [Peer("", 1, b"%020d" % number)]}
    assert sum(numbers[peer.peer_id] == 0 for peer in got) == NEIGHBOURS - FROM_OTHER_RACKS
    # A node that was moved to another rack is found there.
    got = tracker.announce(call(0), 2.0, "r1").peers[1:]
    assert sum(numbers[peer.peer_id] == 1 for peer in got) == NEIGHBOURS - FROM_OTHER_RACKS
    assert tracker.announce(call(0), 2.0, "r1").incomplete == 200


def test_ten_thousand_nodes(tracker: Tracker) -> None:
    for number in range(10_000):
        reply = tracker.announce(call(number), 0.0)
    assert reply.incomplete == 10_000
    assert len(reply.peers) == 1 + NEIGHBOURS
    for number in range(0, 10_000, 2):
        tracker.announce(call(number, event="stopped"), 1.0)
    assert len(tracker.members(V2)) == 5_000


# -- the wire


def query(**words: object) -> bytes:
    found: dict[str, object] = {"info_hash": HASH, "peer_id": b"-RN0100-" + bytes(12), "port": 8472, "left": 5}
    pairs = [
        f"{name}={quote_from_bytes(value) if isinstance(value, bytes) else value}"
        for name, value in (found | words).items()
        if value is not None
    ]
    return "&".join(pairs).encode()


def test_an_announce_is_parsed() -> None:
    text = query(uploaded=1, downloaded=2, event="started", numwant=50, key="3F", compact=1, no_peer_id=1)
    assert parse(text, "10.0.0.9") == Announce(
        HASH, b"-RN0100-" + bytes(12), "10.0.0.9", 8472, 5, 1, 2, "started", 50, "3F", True, True
    )


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=20, max_size=20), st.integers(1, 65535))
def test_any_hash_and_peer_id_come_through(info_hash: bytes, peer_id: bytes, port: int) -> None:
    found = parse(query(info_hash=info_hash, peer_id=peer_id, port=port), "10.0.0.9")
    assert (found.info_hash, found.peer_id, found.port) == (info_hash, peer_id, port)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"info_hash": None}, "info_hash is missing"),
        ({"info_hash": b"short"}, "info_hash has 5 bytes"),
        ({"peer_id": bytes(21)}, "peer_id has 21 bytes"),
        ({"port": 0}, "port is not a number from 1"),
        ({"port": 65536}, "port"),
        ({"port": "-1"}, "port"),
        ({"port": None}, "port is missing"),
        ({"left": "x"}, "left"),
        ({"left": 2**64}, "left"),
        ({"numwant": "many"}, "numwant"),
        ({"event": "exploded"}, "event 'exploded'"),
    ],
)
def test_a_malformed_announce_is_refused(words: dict[str, object], said: str) -> None:
    with pytest.raises(RookeryError, match=said) as caught:
        parse(query(**words), "10.0.0.9")
    assert caught.value.kind is ErrorKind.INVALID


def test_doubled_and_oversized_announces_are_refused() -> None:
    with pytest.raises(RookeryError, match="twice"):
        parse(query() + b"&port=1", "10.0.0.9")
    with pytest.raises(RookeryError) as caught:
        parse(query() + b"&x=" + b"y" * MAX_QUERY, "10.0.0.9")
    assert caught.value.kind is ErrorKind.TOO_LARGE


@given(st.binary(max_size=300))
def test_no_query_does_anything_but_parse_or_be_refused(text: bytes) -> None:
    with contextlib.suppress(RookeryError):  # anything else fails
        assert len(parse(text, "10.0.0.9").info_hash) == 20


def test_what_a_caller_says_of_its_own_address_does_not_count() -> None:
    found = parse(query(ip="8.8.8.8", ipv4="8.8.8.8:53", ipv6="[2001:db8::1]:53"), "::ffff:10.0.0.9")
    assert found.address == "10.0.0.9"
    assert parse(query(), "fd00::9").address == "fd00::9"


def test_the_answer_is_compact_for_both_families() -> None:
    peers = (Peer("10.0.0.1", 8471), Peer("fd00::2", 8472, b"x" * 20))
    answer: Any = lt.bdecode(encode(AnnounceReply(10, 1, 2, 3, peers)))
    assert answer == {
        b"complete": 2,
        b"incomplete": 3,
        b"interval": 10,
        b"min interval": 1,
        b"peers": bytes([10, 0, 0, 1, 0x21, 0x17]),
        b"peers6": bytes([0xFD] + [0] * 14 + [2, 0x21, 0x18]),
    }


def test_the_answer_in_dictionaries() -> None:
    peers = (Peer("10.0.0.1", 8471, b"x" * 20),)
    full: Any = lt.bdecode(encode(AnnounceReply(10, 1, 0, 0, peers, compact=False)))
    assert full[b"peers"] == [{b"ip": b"10.0.0.1", b"peer id": b"x" * 20, b"port": 8471}]
    short: Any = lt.bdecode(encode(AnnounceReply(10, 1, 0, 0, peers, compact=False, no_peer_id=True)))
    assert short[b"peers"] == [{b"ip": b"10.0.0.1", b"port": 8471}]


def test_a_failure_is_told() -> None:
    assert lt.bdecode(failure("no such credential")) == {b"failure reason": b"no such credential"}


plain = st.recursive(
    st.integers(-(2**62), 2**62) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


def as_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.encode(): as_bytes(item) for key, item in value.items()}
    return [as_bytes(item) for item in value] if isinstance(value, list) else value


@given(plain)
def test_bencoding_is_read_back_by_libtorrent(value: Any) -> None:
    assert lt.bdecode(bencode(value)) == as_bytes(value)


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:x", "name:80", "10.0.0.1:65536"])
def test_a_seeder_that_is_no_endpoint(text: str) -> None:
    with pytest.raises(RookeryError, match="address:port"):
        parse_endpoint(text)
    assert parse_endpoint("[fd00::1]:80") == Peer("fd00::1", 80, complete=True)
