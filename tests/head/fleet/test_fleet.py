# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot.answer import BootRequest, Firmware
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Node, Version
from rookery.head.config import Config, Swarm
from rookery.head.fleet import fleet as module
from rookery.head.fleet.credentials import SESSION_SECONDS, Credentials, Kind
from rookery.head.fleet.fleet import Boot, Fleet, assigned_reference
from rookery.wire.facts import Facts
from rookery.wire.manifest import VersionKind
from rookery.wire.orders import Hello, Word
from rookery.wire.report import NodeState, Report, Step

HEAD = "http://10.0.0.254:8470"
AGENT = "e" * 64
MAC = "52:54:00:00:00:01"
A, B = "a" * 32, "b" * 32
Make = Callable[..., Version]


def _request(*macs: str, architecture: str = "x86_64") -> BootRequest:
    return BootRequest(macs or (MAC,), None, architecture, Firmware.BIOS, "10.0.0.7")


def _fleet(catalog: Catalog, clock) -> Fleet:
    agents = {"x86_64": AGENT}
    return Fleet(catalog, Credentials(catalog, clock), Config(), HEAD, agents, ("10.0.0.254:8471",), clock)


@pytest.fixture
def fleet(catalog: Catalog, clock) -> Fleet:
    return _fleet(catalog, clock)


def _node(boot: Boot) -> Node:
    assert boot.node is not None
    return boot.node


def _hello(fleet: Fleet, boot: Boot, facts: Facts, boot_id: str = A) -> str:
    assert boot.files is not None
    return fleet.hello(Hello(boot.files.token, boot_id, facts)).credential


def _kind(call: Callable[..., object], *arguments: object) -> ErrorKind:
    with pytest.raises(RookeryError) as caught:
        call(*arguments)
    return caught.value.kind


def test_an_assigned_machine_goes_all_the_way(fleet: Fleet, catalog: Catalog, clock, make_version: Make, facts) -> None:
    version = make_version("base", "a")
    catalog.add_version(version, "stable")
    catalog.add_nodes([Node("n1", macs=(MAC,), address="10.0.0.1", kernel_arguments="quiet")])
    fleet.deploy(["n1"], "base:stable")
    boot = fleet.boot(_request())
    assert _node(boot).state is NodeState.BOOTING
    assert boot.files is not None
    assert (boot.files.version, boot.files.agent, boot.files.head) == (version.id, AGENT, HEAD)
    assert f"rookery.token={boot.files.token}" in boot.script
    assert "quiet" in boot.script
    clock.now += 20
    welcome = fleet.hello(Hello(boot.files.token, A, facts))
    assert (welcome.node, welcome.seconds, welcome.time) == ("n1", SESSION_SECONDS, clock.now)
    assert catalog.node("n1").facts == facts
    orders = fleet.orders("n1", welcome.credential)
    assert (orders.node, orders.manifest, orders.hosts) == ("n1", version.manifest, ("10.0.0.1 n1",))
    assert (orders.source.head, orders.source.credential) == (HEAD, welcome.credential)
    assert orders.source.seeders == ("10.0.0.254:8471",)
    clock.now += 30
    answer = fleet.report("n1", Report(A, 1, Step.READY, version=version.id, system="running"))
    assert answer.word is Word.GO_ON
    node = catalog.node("n1")
    assert (node.state, node.version, node.reported_at) == (NodeState.READY, version.id, clock.now)
    assert [event.kind for event in catalog.events(subject="node:n1")] == [
        "assigned",
        "booting",
        "provisioning",
        "ready",
    ]
    assert catalog.events()[-1].message.startswith("ready after 50 s")


def test_an_unknown_machine_is_discovered_waits_and_boots_when_assigned(
    fleet: Fleet, catalog: Catalog, make_version: Make
) -> None:
    boot = fleet.boot(_request(MAC, "52:54:00:00:00:02"))
    assert boot.files is None
    assert "kernel" not in boot.script
    assert "x-525400000001" in boot.script
    (node,) = catalog.nodes()
    assert (node.name, node.state, node.macs) == ("x-525400000001", NodeState.DISCOVERED, (MAC, "52:54:00:00:00:02"))
    (event,) = catalog.events()
    assert (event.kind, event.subject) == ("discovered", "node:x-525400000001")
    for _ in range(3):
        assert _node(fleet.boot(_request("52:54:00:00:00:02"))) == node
    assert len(catalog.events()) == 1
    catalog.update_node("x-525400000001", name="n1")
    assert _node(fleet.boot(_request())).state is NodeState.WAITING
    catalog.add_version(make_version("base", "a"))
    fleet.deploy(["n1"], "base")
    booted = fleet.boot(_request())
    assert booted.files is not None
    assert (_node(booted).name, _node(booted).state) == ("n1", NodeState.BOOTING)
    assert len(catalog.nodes()) == 1


def test_a_machine_is_discovered_once_however_often_it_asks(fleet: Fleet, catalog: Catalog, clock) -> None:
    second = _fleet(catalog, clock)  # another head on the same database
    with ThreadPoolExecutor(40) as pool:
        boots = list(pool.map(lambda number: (fleet, second)[number % 2].boot(_request()), range(40)))
    assert {_node(boot).name for boot in boots} == {"x-525400000001"}
    assert len(catalog.nodes()) == 1
    assert len(catalog.events()) == 1


def test_discovery_is_bounded(fleet: Fleet, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DISCOVERED", 3)
    for number in range(3):
        fleet.boot(_request(f"52:54:00:00:01:{number:02x}"))
    assert _kind(fleet.boot, _request("52:54:00:00:01:99")) is ErrorKind.TOO_LARGE
    assert len(catalog.nodes()) == 3
    assert _node(fleet.boot(_request("52:54:00:00:01:00"))).name == "x-525400000100"
    catalog.update_node("x-525400000100", state=NodeState.WAITING)
    assert _node(fleet.boot(_request("52:54:00:00:01:99"))).state is NodeState.DISCOVERED


def test_a_taken_name_is_not_in_the_way(fleet: Fleet, catalog: Catalog) -> None:
    fleet.boot(_request())
    catalog.update_node("x-525400000001", macs=("52:54:00:00:00:99",))
    assert _node(fleet.boot(_request())).name == "x-525400000001-2"
    assert _node(fleet.boot(_request())).state is NodeState.DISCOVERED


def test_what_keeps_an_assigned_node_waiting_is_told(fleet: Fleet, catalog: Catalog, make_version: Make) -> None:
    catalog.add_version(make_version("arm", "a", architecture="aarch64"))
    catalog.add_version(make_version("data", "b", kind=VersionKind.FILE))
    for image, words in (
        ("gone:latest", "gone"),
        ("arm:latest", "aarch64"),
        ("data:latest", "not an image"),
    ):
        catalog.remove_nodes([node.name for node in catalog.nodes()])
        catalog.add_nodes([Node("n1", macs=(MAC,), image=image)])
        boot = fleet.boot(_request())
        assert boot.files is None
        assert _node(boot).state is NodeState.WAITING
        assert words in boot.script
        assert words in catalog.events()[-1].message
    catalog.add_version(make_version("gone", "c"))
    catalog.remove_nodes(["n1"])
    catalog.add_nodes([Node("n1", macs=(MAC,), image="gone:latest", kernel_arguments="a|b")])
    assert fleet.boot(_request()).files is None
    assert "'|'" in catalog.events()[-1].message
    catalog.update_node("n1", kernel_arguments="")
    assert fleet.boot(_request()).files is not None


def test_no_agent_for_the_architecture(fleet: Fleet, catalog: Catalog, make_version: Make) -> None:
    catalog.add_version(make_version("arm", "a", architecture="aarch64"))
    catalog.add_nodes([Node("n1", macs=(MAC,), image="arm")])
    boot = fleet.boot(_request(architecture="aarch64"))
    assert boot.files is None
    assert "no agent for aarch64, only for x86_64" in boot.script
    assert "take the image to a head that is aarch64" in boot.script
    assert catalog.node("n1").state is NodeState.WAITING


def test_a_tag_that_moves_during_a_boot_does_not_mix_versions(
    fleet: Fleet, catalog: Catalog, make_version: Make, facts: Facts
) -> None:
    old, new = make_version("base", "a"), make_version("base", "b", at=2.0)
    catalog.add_version(old)
    catalog.add_nodes([Node("n1", macs=(MAC,), image="base:latest")])
    boot = fleet.boot(_request())
    catalog.add_version(new)
    credential = _hello(fleet, boot, facts)
    assert fleet.orders("n1", credential).manifest == old.manifest
    assert _kind(catalog.remove_version, old.id) is ErrorKind.CONFLICT
    again = fleet.boot(_request())
    assert again.files is not None
    assert again.files.version == new.id


def test_the_cap_of_a_fetching_node_is_in_what_it_is_told(catalog: Catalog, clock, make_version: Make) -> None:
    credentials, config = Credentials(catalog, clock), Config(swarm=Swarm(node_rate=12_500_000))
    version = make_version("base", "one")
    catalog.add_version(version)
    ticket = credentials.ticket(version.id, 60)
    offer = Fleet(catalog, credentials, config, HEAD, {}, (), clock).offer("base", ticket)
    assert offer.source.rate == 12_500_000


def test_orders_need_a_version(fleet: Fleet, catalog: Catalog) -> None:
    catalog.add_nodes([Node("n1")])
    assert _kind(fleet.orders, "n1", "secret") is ErrorKind.CONFLICT
    assert _kind(fleet.orders, "n2", "secret") is ErrorKind.NOT_FOUND


def test_a_head_that_was_killed_goes_on_where_it_was(
    fleet: Fleet, catalog: Catalog, clock, make_version: Make, facts: Facts, tmp_path: Path
) -> None:
    version = make_version("base", "a")
    catalog.add_version(version)
    catalog.add_nodes([Node("n1", macs=(MAC,), image="base:latest")])
    credential = _hello(fleet, fleet.boot(_request()), facts)
    fleet.report("n1", Report(A, 4, Step.FETCH))
    reopened = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")  # the first one was never closed
    try:
        after = _fleet(reopened, clock)
        assert Credentials(reopened, clock).check(credential).subject == "n1"
        assert after.orders("n1", credential).manifest == version.manifest
        after.report("n1", Report(A, 3, Step.ORDERS))  # overtaken
        assert reopened.node("n1").report == catalog.node("n1").report
        after.report("n1", Report(A, 5, Step.READY))
        assert reopened.node("n1").state is NodeState.READY
    finally:
        reopened.close()


def test_seeding_stops_on_the_heads_word(fleet: Fleet, catalog: Catalog, make_version: Make, facts: Facts) -> None:
    catalog.add_version(make_version("base", "a"))
    catalog.add_nodes([Node("n1", macs=(MAC,), image="base:latest"), Node("n2")])
    session = _hello(fleet, fleet.boot(_request()), facts)
    assert fleet.report("n1", Report(A, 1, Step.READY, seeding=True)).word is Word.GO_ON
    assert fleet.set_seeding(["n1", "n2"], allowed=False) == ("n1", "n2")
    assert fleet.set_seeding(["n1", "n2"], allowed=False) == ()
    assert fleet.report("n1", Report(A, 2, Step.READY, seeding=True)).word is Word.STOP_SEEDING
    assert fleet.orders("n1", session).seed.enabled is False
    assert fleet.set_seeding(["n1"], allowed=True) == ("n1",)
    assert fleet.report("n1", Report(A, 3, Step.READY)).word is Word.GO_ON
    assert _kind(lambda: fleet.set_seeding(["n1", "n9"], allowed=False)) is ErrorKind.NOT_FOUND


def test_what_a_credential_opens(fleet: Fleet, catalog: Catalog, clock, make_version: Make, facts: Facts) -> None:
    credentials = Credentials(catalog, clock)
    version, newer = make_version("base", "a"), make_version("base", "b", at=2.0)
    catalog.add_version(version)
    catalog.add_nodes([Node("n1", macs=(MAC,), image="base:latest")])
    session = credentials.check(_hello(fleet, fleet.boot(_request()), facts))
    assert fleet.version_for(session) == version.id
    fleet.report("n1", Report(A, 1, Step.READY))
    assert fleet.version_for(session) == version.id
    fleet.set_seeding(["n1"], allowed=False)
    assert _kind(fleet.version_for, session) is ErrorKind.FORBIDDEN
    ticket = credentials.ticket(version.id, 60)
    assert fleet.version_for(credentials.check(ticket)) == version.id
    operator = credentials.operator()
    assert fleet.version_for(credentials.check(operator)) is None
    assert fleet.offer("base", ticket).source.credential == ticket
    offered = fleet.offer("base:latest", operator)
    assert offered.manifest == version.manifest
    assert credentials.check(offered.source.credential).kind == Kind.TICKET
    catalog.add_version(newer)
    assert _kind(fleet.offer, "base", ticket) is ErrorKind.FORBIDDEN
    assert fleet.offer(f"base@{version.id[:8]}", ticket).manifest == version.manifest
    assert _kind(fleet.offer, "none", ticket) is ErrorKind.NOT_FOUND
    assert _kind(fleet.offer, "base", "rubbish") is ErrorKind.UNAUTHORIZED


def test_deploy_says_what_it_changes(fleet: Fleet, catalog: Catalog, make_version: Make) -> None:
    version = make_version("base", "a")
    catalog.add_version(version)
    catalog.add_version(make_version("data", "b", kind=VersionKind.TREE))
    catalog.add_version(make_version("arm", "c", architecture="aarch64"))
    catalog.add_nodes([Node("n1"), Node("n2", image="base:latest"), Node("n10", image="old:x")])
    planned = fleet.deploy(["n10", "n1", "n2"], "base", dry_run=True)
    assert (planned.image, planned.version.id) == ("base:latest", version.id)
    assert (planned.changed, planned.same) == ((("n1", ""), ("n10", "old:x")), ("n2",))
    assert catalog.node("n1").image is None
    assert catalog.events() == ()
    assert fleet.deploy(["n10", "n1", "n2"], "base") == planned
    assert {node.image for node in catalog.nodes()} == {"base:latest"}
    assert [event.subject for event in catalog.events()] == ["node:n1", "node:n10"]
    assert "instead of old:x" in catalog.events()[-1].message
    for reference, kind in (
        ("nope", ErrorKind.NOT_FOUND),
        ("data", ErrorKind.INVALID),
        ("arm", ErrorKind.MISSING),  # no machine could boot it from here
    ):
        assert _kind(fleet.deploy, ["n1"], reference) is kind
    assert _kind(fleet.deploy, ["n1", "n3"], "base") is ErrorKind.NOT_FOUND
    assert catalog.node("n1").image == "base:latest"


def test_how_assignments_are_written_down(make_version: Make) -> None:
    version = make_version("base", "a")
    assert assigned_reference("base", version) == "base:latest"
    assert assigned_reference("base:", version) == "base:latest"
    assert assigned_reference("base:stable", version) == "base:stable"
    for reference in (version.id, version.id[:8], f"base@{version.id[:9]}"):
        assert assigned_reference(reference, version) == f"base@{version.id[:12]}"


def test_a_crowd_boots_at_once(fleet: Fleet, catalog: Catalog, make_version: Make, facts: Facts) -> None:
    """200 machines through 40 threads: each its own state, nothing lost, nothing mixed."""
    catalog.add_version(make_version("base", "a"))
    macs = {f"n{number}": f"52:54:00:00:02:{number:02x}" for number in range(200)}
    catalog.add_nodes([Node(name, macs=(mac,), image="base:latest") for name, mac in macs.items()])

    def journey(name: str) -> None:
        boot = fleet.boot(_request(macs[name]))
        assert boot.files is not None
        welcome = fleet.hello(Hello(boot.files.token, A, dataclasses.replace(facts, serial=name, network_cards=())))
        assert welcome.node == name
        assert fleet.orders(name, welcome.credential).node == name
        for sequence, step in enumerate((Step.FETCH, Step.VERIFY, Step.READY), 1):
            fleet.report(name, Report(A, sequence, step))

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(journey, macs))
    for node in catalog.nodes():
        assert (node.state, node.facts and node.facts.serial) == (NodeState.READY, node.name)
    assert len(catalog.events()) == 3 * len(macs)


def test_a_version_that_is_collected_while_a_machine_asks(
    fleet: Fleet, catalog: Catalog, make_version: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script was made of a version that is gone when this is written down: it is told so, and asks again."""
    old, new = make_version("base", "a", at=1.0), make_version("base", "b", at=2.0)
    catalog.add_version(old)
    catalog.add_nodes([Node("n1", macs=(MAC,), image="base:latest")])
    files = fleet._files
    moved: list[str] = []

    def slowly(request: BootRequest, node: Node) -> object:
        found = files(request, node)
        if not moved:
            moved.append(found.version)
            catalog.add_version(new)
            assert [row.id for row in catalog.collect(0, {}, 0.0, dry_run=False).going] == [old.id]
        return found

    monkeypatch.setattr(fleet, "_files", slowly)
    boot = fleet.boot(_request())
    assert (boot.files, _node(boot).version) == (None, None)
    assert "was removed meanwhile" in boot.script
    again = fleet.boot(_request())
    assert again.files is not None
    assert again.files.version == _node(again).version == new.id


def test_a_version_that_is_collected_while_it_is_deployed(
    fleet: Fleet, catalog: Catalog, make_version: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_version("base", "a", at=1.0)
    catalog.add_version(old, tag=None)
    catalog.add_nodes([Node("n1", macs=(MAC,))])
    nodes = catalog.nodes

    def slowly(names: object = None) -> object:
        catalog.collect(0, {}, 0.0, dry_run=False)
        return nodes(names)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "nodes", slowly)
    assert _kind(fleet.deploy, ["n1"], f"base@{old.id}") is ErrorKind.NOT_FOUND
    assert nodes()[0].image is None
