# SPDX-License-Identifier: Apache-2.0
"""The operator's API: the real client, sockets, catalog, store and seeder."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from rookery.api.client import Client
from rookery.api.types import AddNodes, Build, Change, Deploy, JobState, Machine, NewTicket, Publish, SetNodes
from rookery.errors import ErrorKind, RookeryError
from rookery.wire.manifest import Role

if TYPE_CHECKING:
    from conftest import RunningHead

MAC = "52:54:00:00:00:0{}"


def add(head: RunningHead, noderange: str = "n[1-3]") -> None:
    head.operator.add_nodes(AddNodes(noderange, settings={"rack": "a1"}))


def ended(head: RunningHead, job_id: str) -> JobState:
    job = head.operator.job(job_id)
    while job.ended_at is None:
        job = head.operator.job(job_id, after=job.revision, wait=10)
    return job.state


def test_nodes_from_adding_to_removing(head: RunningHead) -> None:
    machines = tuple(Machine(f"n{number}", (MAC.format(number),), f"10.0.0.{number}") for number in (1, 2))
    head.operator.add_nodes(AddNodes("n[1-2]", machines, {"rack": "a1", "groups": "compute"}))
    assert [node.name for node in head.operator.nodes("@compute").nodes] == ["n1", "n2"]
    assert head.operator.node("n2").node.address == "10.0.0.2"
    assert head.operator.remove_nodes("n1").removed == ("n1",)
    assert [node.name for node in head.operator.nodes().nodes] == ["n2"]
    assert len(head.changes) == 2  # dnsmasq hears of both


def test_two_nodes_with_one_mac(head: RunningHead) -> None:
    machines = (Machine("n1", (MAC.format(1),)), Machine("n2", (MAC.format(1).upper(),)))
    with pytest.raises(RookeryError) as raised:
        head.operator.add_nodes(AddNodes("n[1-2]", machines))
    assert raised.value.kind is ErrorKind.CONFLICT
    assert "n1" in str(raised.value)
    assert "n2" in str(raised.value)
    assert head.operator.nodes().nodes == ()


@pytest.mark.parametrize(
    ("nodes", "machines", "named"),
    [
        ("n[1-3]", (Machine("n1"), Machine("n9")), "n9"),
        ("n[1-3]", (Machine("n1"),), "n[2-3]"),
        ("n1", (Machine("n1"), Machine("n1")), "twice"),
    ],
)
def test_machines_that_do_not_fit_the_nodes(
    head: RunningHead, nodes: str, machines: tuple[Machine, ...], named: str
) -> None:
    with pytest.raises(RookeryError) as raised:
        head.operator.add_nodes(AddNodes(nodes, machines))
    assert named in f"{raised.value} {raised.value.record.details}"


@pytest.mark.parametrize(
    ("noderange", "kind"),
    [
        ("n[1-", ErrorKind.INVALID),
        ("n[3-1]", ErrorKind.INVALID),
        ("@nothing", ErrorKind.NOT_FOUND),
        ("n9", ErrorKind.NOT_FOUND),
        ("n[1-150000]", ErrorKind.TOO_LARGE),
        ("n[1-999999999]", ErrorKind.TOO_LARGE),
    ],
)
def test_noderanges_with_errors(head: RunningHead, noderange: str, kind: ErrorKind) -> None:
    add(head)
    with pytest.raises(RookeryError) as raised:
        head.operator.set_nodes(SetNodes(noderange, {"rack": "b"}))
    assert raised.value.kind is kind


def test_set_shows_before_it_does(head: RunningHead) -> None:
    add(head)
    wanted = SetNodes("n[1-2]", {"rack": "b2", "kernel_arguments": "quiet"}, dry_run=True)
    preview = head.operator.set_nodes(wanted)
    assert set(preview.changes) == {
        Change("n[1-2]", "rack", "a1", "b2"),
        Change("n[1-2]", "kernel_arguments", "", "quiet"),
    }
    assert not preview.applied
    assert head.operator.node("n1").node.attributes == {"rack": "a1"}
    done = head.operator.set_nodes(SetNodes(wanted.nodes, wanted.settings))
    assert (done.changes, done.applied) == (preview.changes, True)
    assert head.operator.node("n2").node.kernel_arguments == "quiet"
    assert head.operator.node("n3").node.kernel_arguments == ""


def test_renaming_adopts_a_discovered_machine(head: RunningHead) -> None:
    asked = head.get("/boot/script.ipxe?mac=52-54-00-00-00-01&uuid=&arch=x86_64&firmware=efi")
    assert "x-525400000001" in asked.text
    assert [node.state for node in head.operator.nodes().nodes] == ["discovered"]
    head.operator.set_nodes(SetNodes("x-525400000001", {"name": "n1"}))
    assert head.operator.node("n1").node.macs == ("52:54:00:00:00:01",)
    add(head, "n2")
    with pytest.raises(RookeryError) as raised:
        head.operator.set_nodes(SetNodes("n2", {"name": "n1"}, dry_run=True))
    assert raised.value.kind is ErrorKind.CONFLICT
    with pytest.raises(RookeryError, match="2 nodes cannot have one name"):
        head.operator.set_nodes(SetNodes("n[1-2]", {"name": "n3"}))


def test_deploy(head: RunningHead) -> None:
    add(head)
    version = head.publish_image()
    preview = head.operator.deploy(Deploy("n[1-2]", "base", dry_run=True))
    assert preview.changes == (Change("n[1-2]", "image", "", "base:latest"),)
    assert head.operator.node("n1").node.image == ""
    head.operator.deploy(Deploy("n[1-2]", "base"))
    assert head.operator.node("n1").node.image == "base:latest"
    assert head.operator.deploy(Deploy("n[1-3]", "base")).changes == (Change("n3", "image", "", "base:latest"),)
    with pytest.raises(RookeryError) as raised:
        head.operator.remove_image("base")
    assert raised.value.kind is ErrorKind.CONFLICT
    pinned = head.operator.deploy(Deploy("n1", f"base@{version.id[:12]}"))
    assert pinned.changes[0].after == f"base@{version.id[:12]}"
    with pytest.raises(RookeryError) as raised:
        head.operator.deploy(Deploy("n1", "nothing"))
    assert raised.value.kind is ErrorKind.NOT_FOUND


def test_publish_a_file_and_take_it_away_again(head: RunningHead) -> None:
    source = head.services.paths.directory / "data.bin"
    source.write_bytes(os.urandom(300_000))
    job = head.operator.publish(Publish(str(source), "data", "v1"))
    assert ended(head, job.id) is JobState.DONE
    details = head.operator.version("data:v1")
    (blob,) = details.version.blobs
    assert (details.version.kind, blob.size) == ("file", 300_000)
    assert [given.info_hash for given in head.operator.head().seeding] == [blob.info_hash]
    head.operator.tag("data", "stable", "v1")
    assert set(head.operator.version("data:stable").version.tags) == {"stable", "v1"}
    assert head.operator.remove_image("data").removed == (details.version.id,)
    assert head.operator.head().seeding == ()
    assert blob.sha256 not in head.services.store
    assert head.operator.images().images == ()


def test_removing_one_version_keeps_the_other(head: RunningHead) -> None:
    first, second = head.publish_image(tag="one"), head.publish_image(tag="two")
    assert head.operator.remove_image("base", "one").removed == (first.id,)
    assert [version.id for version in head.operator.image("base").versions] == [second.id]
    root = next(blob.sha256 for blob in head.operator.version("base:two").version.blobs if blob.role == Role.ROOT)
    assert root in head.services.store
    assert len(head.operator.head().seeding) == 1


def test_a_job_that_fails_says_why(head: RunningHead) -> None:
    source = head.services.paths.directory / "tree"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "secret").write_bytes(b"x")
    with pytest.raises(RookeryError, match="absolute"):
        head.operator.publish(Publish("relative", "data"))
    with pytest.raises(RookeryError) as raised:
        head.operator.publish(Publish(str(source / "nothing"), "data"))
    assert raised.value.kind is ErrorKind.NOT_FOUND
    job = head.operator.publish(Publish(str(source / "pipe"), "data"))
    assert ended(head, job.id) is JobState.FAILED
    error = head.operator.job(job.id).error
    assert error is not None
    assert "pipe" in error.message
    assert head.operator.images().images == ()


def test_a_cancelled_job_leaves_nothing(head: RunningHead) -> None:
    source = head.services.paths.directory / "big.bin"
    with source.open("wb") as file:
        file.truncate(1 << 30)
    job = head.operator.publish(Publish(str(source), "big"))
    head.operator.cancel_job(job.id)
    assert ended(head, job.id) is JobState.CANCELLED
    assert head.operator.images().images == ()
    assert list(head.services.paths.blobs.iterdir()) == []
    assert [known.id for known in head.operator.jobs().jobs] == [job.id]


def test_a_recipe_with_an_error_names_file_and_line(head: RunningHead) -> None:
    with pytest.raises(RookeryError) as raised:
        head.operator.build(Build("base", 'distribution = "debian"\nsuite = 7\n', "my.toml"))
    assert raised.value.kind is ErrorKind.INVALID
    assert "my.toml:2" in f"{raised.value} {raised.value.record.details}"
    assert head.operator.jobs().jobs == ()


def test_tickets(head: RunningHead) -> None:
    version = head.publish_image()
    ticket = head.operator.ticket(NewTicket("base", 3600))
    assert ticket.version == version.id
    assert f"key={head.services.key.public}" in ticket.url
    assert ticket.url.startswith(f"{head.url}/fetch/base@")


def test_events_wait_for_what_comes(head: RunningHead) -> None:
    last = head.operator.events().last
    assert head.operator.events(last, wait=0.2).events == ()
    later = threading.Timer(0.3, lambda: head.services.catalog.add_event("node:n1", "test", "came"))
    later.start()
    found = head.operator.events(last, wait=20, subject="node:n1")
    later.join()
    assert [(event.kind, event.message) for event in found.events] == [("test", "came")]
    assert head.operator.events(found.last).events == ()


def test_status_folds_and_counts(head: RunningHead) -> None:
    add(head)
    status = head.operator.status("n[1-2]")
    assert [(item.state, item.nodes, item.count) for item in status.states] == [("new", "n[1-2]", 2)]
    assert status.copies == ()


def test_head(head: RunningHead) -> None:
    found = head.operator.head()
    assert (found.url, found.dhcp, found.key) == (head.url, "off", head.services.key.public)
    assert found.agent_size == len(b"an agent")


def test_over_tcp_as_over_the_socket(head: RunningHead) -> None:
    with Client(head.token, url=head.url) as remote:
        assert remote.nodes() == head.operator.nodes()


@pytest.mark.parametrize("credential", ["", "wrong", "x" * 300])
def test_without_the_operators_token(head: RunningHead, credential: str) -> None:
    for path in ("/api/v1/nodes", "/api/v1/head", "/api/v1/jobs/x"):
        answer = head.get(path, credential)
        assert (answer.status_code, answer.json()["kind"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert head.ask("POST", "/api/v1/nodes", credential, b"not even JSON").status_code == 401


def test_a_nodes_credential_is_not_the_operators(head: RunningHead) -> None:
    add(head)
    session = head.services.credentials.session("n1", "0" * 32)
    answer = head.get("/api/v1/nodes", session)
    assert (answer.status_code, answer.json()["kind"]) == (403, "forbidden")
