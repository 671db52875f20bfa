# SPDX-License-Identifier: Apache-2.0
"""Real swarms: processes in network namespaces on one bridge, links shaped both ways."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

MBIT = 1_000_000
PIECE = 65536


def flip(path: Path, *places: int) -> None:
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def received(stats: dict[str, Any]) -> int:
    return int(stats["bytes_from_head"] + stats["bytes_from_peers"])


def test_a_lone_node_gets_everything_from_the_heads_seeder(swarm: Any) -> None:
    content = swarm.put(8)
    head = swarm.head()
    host = swarm.host(2)
    stats = swarm.node(host).stats()
    assert swarm.path(host).read_bytes() == content
    assert not list(swarm.path(host).parent.glob(".*"))
    assert stats["bytes_from_head_swarm"] == stats["bytes_total"] == len(content)
    assert (stats["bytes_from_head_http"], stats["peers"], stats["hash_failures"]) == (0, {}, 0)
    said = head.end()[-2]
    assert (said["swarm"], said["http"]) == (len(content), 0)


def test_nodes_that_start_together_give_to_each_other_and_every_byte_is_accounted_for(swarm: Any) -> None:
    content = swarm.put(12)
    head = swarm.head()
    swarm.room.shape(swarm.head_host, 40 * MBIT)
    hosts = [swarm.host(number, 40 * MBIT) for number in (2, 3, 4)]
    nodes = [swarm.node(host, "--seed", 60) for host in hosts]
    account = [node.stats() for node in nodes]
    for host in hosts:
        assert swarm.path(host).read_bytes() == content
    addresses = {host.address for host in hosts}
    for host, stats in zip(hosts, account, strict=True):
        assert received(stats) == len(content)
        assert set(stats["peers"]) <= addresses - {host.address}
        assert sum(stats["peers"].values()) == stats["bytes_from_peers"] > 0
    said = head.end()[-2]
    from_head = sum(stats["bytes_from_head_swarm"] for stats in account)
    # What was received was sent; more was sent, on its way when somebody else's copy of the block came first.
    assert len(content) <= from_head <= said["swarm"]
    assert from_head < 3 * len(content)


def test_a_bad_copy_at_the_head_is_told_and_never_taken(swarm: Any) -> None:
    content = swarm.put(4)
    good = swarm.directory / "good"
    good.write_bytes(content)
    head = swarm.head()
    head.end()
    flip(swarm.blob, 7 * PIECE + 100)
    head = swarm.head()
    alone, helper = swarm.host(2), swarm.host(3)
    node = swarm.node(alone)
    told = head.wait_for("bad")
    assert "head's own copy" in told["message"]
    assert "piece 7" in told["message"]
    # By HTTP the same bad piece comes, and is refused as well.
    node.wait_for("hash_failures", 1)
    assert not swarm.path(alone).exists()
    swarm.path(helper).write_bytes(content)
    other = swarm.node(helper, "--seed", 60)
    stats = node.stats()
    assert swarm.path(alone).read_bytes() == content
    assert other.stats()["bytes_had"] == len(content)
    assert stats["hash_failures_http"] >= 1
    assert stats["peers"][helper.address] >= PIECE


def test_a_peer_that_gives_garbage_is_found_out(swarm: Any) -> None:
    content = swarm.put(8)
    swarm.head()
    swarm.room.shape(swarm.head_host, 10 * MBIT)
    liar, host = swarm.host(2), swarm.host(3)
    garbage = swarm.path(liar)
    garbage.write_bytes(content)
    flip(garbage, *range(50, len(content), PIECE))
    swarm.start(liar, "liar_process.py", swarm.offer, garbage).wait_for("gave")
    stats = swarm.node(host).stats()
    assert swarm.path(host).read_bytes() == content
    assert stats["hash_failures"] > 0
    assert liar.address in stats["banned"]
    assert stats["bytes_failed"] > 0


def test_bytes_that_flip_on_the_wire_are_fetched_again_another_way(swarm: Any) -> None:
    content = swarm.put(6)
    swarm.head().end()
    wire = swarm.host(2)
    through = f"{wire.address}:8471"
    # The node knows the head's seeder only through the bad cable; HTTP goes around it.
    swarm.head("--no-tracker-seeder")
    swarm.start(wire, "wire_process.py", swarm.head_host.address, 8471, 8471, 1_000_003).wait_for("ready")
    host = swarm.host(3)
    stats = swarm.node(host, offer=swarm.offer_with(seeders=[through])).stats()
    assert swarm.path(host).read_bytes() == content
    assert stats["hash_failures"] > 0
    assert stats["hash_failures_http"] == 0
    assert stats["bytes_from_head_http"] > 0


def test_the_head_is_killed_in_the_middle_and_started_again(swarm: Any) -> None:
    content = swarm.put(12)
    head = swarm.head()
    swarm.room.shape(swarm.head_host, 16 * MBIT)
    hosts = [swarm.host(number) for number in (2, 3)]
    nodes = [swarm.node(host, "--seed", 60) for host in hosts]
    for node in nodes:
        node.wait_for("done", len(content) // 5)
    head.kill()
    head = swarm.head()
    for node in nodes:
        assert received(node.stats()) >= len(content)
    for host in hosts:
        assert swarm.path(host).read_bytes() == content
    said = head.end()[-2]
    assert said["swarm"] + said["http"] > 0


def test_a_node_is_killed_in_the_middle_and_the_others_finish(swarm: Any) -> None:
    content = swarm.put(12)
    swarm.head()
    swarm.room.shape(swarm.head_host, 24 * MBIT)
    hosts = [swarm.host(number) for number in (2, 3, 4)]
    nodes = [swarm.node(host, "--seed", 60) for host in hosts]
    nodes[0].wait_for("done", len(content) // 4)
    nodes[0].kill()
    for node, host in zip(nodes[1:], hosts[1:], strict=True):
        # What the dead node gave before it died is in the account all the same.
        assert received(node.stats()) >= len(content)
        assert swarm.path(host).read_bytes() == content
    assert not swarm.path(hosts[0]).exists()


def test_a_killed_node_goes_on_where_it_was(swarm: Any) -> None:
    content = swarm.put(10)
    swarm.head()
    swarm.room.shape(swarm.head_host, 24 * MBIT)
    host = swarm.host(2)
    node = swarm.node(host)
    node.wait_for("done", len(content) // 3)
    node.kill()
    stats = swarm.node(host).stats()
    assert swarm.path(host).read_bytes() == content
    # All but the pieces that were on their way is still there.
    assert stats["bytes_had"] > len(content) // 5
    assert stats["bytes_had"] + received(stats) - stats["bytes_redundant"] >= len(content)
    assert received(stats) < len(content)


def test_with_the_swarm_port_closed_everything_comes_by_http(swarm: Any) -> None:
    content = swarm.put(6)
    head = swarm.head("--no-seeder")
    host = swarm.host(2)
    # Nobody is at that address: connecting hangs, as behind a firewall that drops.
    stats = swarm.node(host, offer=swarm.offer_with(seeders=["10.77.0.99:8471"])).stats()
    assert swarm.path(host).read_bytes() == content
    assert stats["bytes_from_head_http"] == stats["bytes_from_head"] == len(content)
    said = head.end()[-2]
    assert (said["swarm"], said["http"]) == (0, len(content))


def test_two_nodes_without_the_heads_seeder_share_what_http_brings(swarm: Any) -> None:
    content = swarm.put(10)
    head = swarm.head("--no-seeder")
    swarm.room.shape(swarm.head_host, 16 * MBIT)
    hosts = [swarm.host(number) for number in (2, 3)]
    nodes = [swarm.node(host, "--seed", 60) for host in hosts]
    account = [node.stats() for node in nodes]
    for host in hosts:
        assert swarm.path(host).read_bytes() == content
    assert sum(stats["bytes_from_peers"] for stats in account) > 0
    assert head.end()[-2]["http"] < 2 * len(content)


def test_without_a_credential_there_is_no_tracker_and_no_http(swarm: Any) -> None:
    swarm.put(2)
    head = swarm.head("--no-seeder")
    host = swarm.host(2)
    node = swarm.node(host, "--credential", "stolen")
    assert node.wait_for("error")["error"] == "unauthorized"
    assert not swarm.path(host).exists()
    said = head.end()[-2]
    assert said["refused"] >= 2
    assert said["http"] == 0


def test_nothing_comes_from_anywhere(swarm: Any) -> None:
    swarm.put(2)
    swarm.head("--no-seeder").end()
    host = swarm.host(2)
    failed = swarm.node(host, "--give-up", 3).wait_for("error")
    assert failed["error"] == "unavailable"
    assert "HTTP: the head at 10.77.0.1 does not answer" in failed["details"]
    assert "tracker: " in failed["details"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(swarm: Any, small_disk: Path) -> None:
    swarm.put(20)
    head = swarm.head()
    host = swarm.host(2)
    node = swarm.start(host, "node_process.py", swarm.offer, small_disk / "got")
    assert node.wait_for("error")["error"] == "no-space"
    assert head.end()[-2]["swarm"] == 0


def test_a_disk_that_fills_up_in_the_middle_is_told_too(swarm: Any, small_disk: Path) -> None:
    content = swarm.put(12)
    swarm.head()
    swarm.room.shape(swarm.head_host, 24 * MBIT)
    host = swarm.host(2)
    node = swarm.start(host, "node_process.py", swarm.offer, small_disk / "got")
    node.wait_for("done", len(content) // 4)
    with pytest.raises(OSError, match="No space"):
        fill(small_disk / "filler")
    failed = node.wait_for("error")
    assert failed["error"] == "no-space"
    assert not (small_disk / "got").exists()
    (small_disk / "filler").unlink()
    stats = swarm.start(host, "node_process.py", swarm.offer, small_disk / "got").stats()
    assert (small_disk / "got").read_bytes() == content
    assert stats["bytes_had"] > 0
