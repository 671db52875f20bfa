# SPDX-License-Identifier: Apache-2.0
"""What machines and nodes call, as they call it: HTTP over a real socket, from the first boot script to `ready`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from rookery import codec
from rookery.api.types import AddNodes, Deploy, Machine, NewTicket
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Version
from rookery.head.http.views import manifest
from rookery.node.talk import Head as NodeHead
from rookery.wire import routes
from rookery.wire.facts import Facts
from rookery.wire.manifest import Role
from rookery.wire.orders import FetchOffer, Hello, Word
from rookery.wire.report import Report, Step, Transfer

if TYPE_CHECKING:
    from conftest import RunningHead

MAC = "52:54:00:00:00:01"
BOOT = "ab" * 16
FACTS = Facts("x86_64", "uefi", 2, "QEMU", 1 << 30, "6.1.0", "0.1.0")


def script(head: RunningHead, mac: str = MAC) -> str:
    answer = head.get(f"{routes.SCRIPT}?mac={mac.replace(':', '-')}&uuid=&arch=x86_64&firmware=efi")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text


def deployed(head: RunningHead) -> Version:
    version = head.publish_image()
    head.operator.add_nodes(AddNodes("n1", (Machine("n1", (MAC,)),)))
    head.operator.deploy(Deploy("n1", "base"))
    return version


def token_of(head: RunningHead) -> str:
    found = re.search(r"rookery\.token=(\S+)", script(head))
    assert found
    return found[1]


def session_of(head: RunningHead) -> str:
    return NodeHead(head.url).hello(Hello(token_of(head), BOOT, FACTS)).credential


def announce(head: RunningHead, credential: str, info_hash: str, port: int = 7000) -> bytes:
    named = quote(bytes.fromhex(info_hash)[:20])
    query = f"info_hash={named}&peer_id={'p' * 20}&port={port}&left=1&compact=1"
    return head.get(f"{routes.ANNOUNCE}/{credential}?{query}").content


def test_a_journey(head: RunningHead) -> None:
    version = deployed(head)
    root = manifest(version).blob(Role.ROOT)
    start = head.get(routes.START).text
    assert f"{head.url}{routes.SCRIPT}?" in start
    asked = script(head)
    for name, route in (("kernel", routes.KERNEL), ("drivers", routes.DRIVERS), ("agent", routes.AGENT)):
        found = re.search(rf"--name {name} (http\S+/([0-9a-f]{{64}}))", asked)
        assert found, name
        assert route in found[1]
        content = head.get(urlsplit(found[1]).path).content
        assert hashlib.sha256(content).hexdigest() == found[2]
    node = NodeHead(head.url, session_of(head))
    orders = node.orders()
    assert (orders.node, orders.image, orders.manifest) == ("n1", "base:latest", version.manifest)
    path = f"{routes.BLOB}/{root.sha256}"
    assert hashlib.sha256(node.get(path)).hexdigest() == root.sha256
    assert node.get(f"{routes.TORRENT}/{root.sha256}") == head.services.store.torrent(root.sha256).read_bytes()
    report = Report(BOOT, 1, Step.FETCH, {"kernel": 1.5}, Transfer(root.size, 100, 60, 10, 40), version.id)
    assert node.report(report).word is Word.GO_ON
    (status,) = head.operator.status("n1").nodes
    assert (status.state, status.step, status.transfer.from_peers) == ("provisioning", "fetch", 40)
    assert status.seconds["kernel"] == 1.5
    node.report(replace(report, sequence=2, step=Step.READY, system="running", seeding=True))
    (copies,) = (found := head.operator.status("n1")).copies
    assert (found.nodes[0].state, found.nodes[0].system, found.nodes[0].seeding) == ("ready", "running", True)
    assert (copies.version, copies.sent, copies.size, copies.nodes) == (version.id, 60, root.size, 1)
    head.operator.stop_seeding("n1")
    assert node.report(replace(report, sequence=3, step=Step.READY)).word is Word.STOP_SEEDING
    assert head.operator.node("n1").facts is not None


def test_an_unknown_machine_waits_and_boots_when_assigned(head: RunningHead) -> None:
    head.publish_image()
    assert "waits for an image" in script(head)
    assert "sleep" in script(head)
    head.operator.deploy(Deploy("x-525400000001", "base"))
    assert "boot kernel" in script(head)


@pytest.mark.parametrize(
    "query", ["", "mac=zz&uuid=&arch=x86_64&firmware=efi", "mac=52-54-00-00-00-01&arch=vax&firmware=efi", "what=ever"]
)
def test_a_wrong_question_gets_a_script_that_says_so(head: RunningHead, query: str) -> None:
    answer = head.get(f"{routes.SCRIPT}?{query}")
    assert answer.text.startswith("#!ipxe\necho Rookery: ")
    assert "sleep" in answer.text
    assert head.operator.nodes().nodes == ()


def test_kernel_and_drivers_only_are_open_to_everybody(head: RunningHead) -> None:
    whole = manifest(head.publish_image())
    root = whole.blob(Role.ROOT).sha256
    for route in (routes.KERNEL, routes.DRIVERS, routes.AGENT):
        assert head.get(f"{route}/{root}").status_code == 404
        assert head.get(f"{route}/..%2f..%2fsite.key").status_code == 404
    assert head.get(f"{routes.DRIVERS}/{whole.blob(Role.KERNEL).sha256}").status_code == 404
    assert head.get(f"{routes.BLOB}/{root}").status_code == 401
    assert head.get(f"{routes.TORRENT}/{root}").status_code == 401


def test_loaders(head: RunningHead) -> None:
    answer = head.get(f"{routes.LOADER}/snponly.efi")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/efi")
    assert answer.content[:2] == b"MZ"
    for name in ("nothing.efi", "..%2f..%2fsite.key", "agent.cpio"):
        assert head.get(f"{routes.LOADER}/{name}").status_code == 404


def test_ranges(head: RunningHead) -> None:
    deployed(head)
    root = manifest(head.services.catalog.resolve("base")).blob(Role.ROOT)
    session, path = session_of(head), f"{routes.BLOB}/{root.sha256}"
    content = head.services.store.path(root.sha256).read_bytes()
    part = head.get(path, session, Range="bytes=1000-1999")
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{root.size}"
    etag = part.headers["etag"]
    assert etag == f'"{root.sha256}"'
    assert head.get(path, session, Range="bytes=-7").content == content[-7:]
    assert head.get(path, session, Range="bytes=5-", If_Range=etag).status_code == 206
    assert head.get(path, session, Range="bytes=5-", If_Range='"other"').content == content
    assert head.get(path, session, If_None_Match=etag).status_code == 304
    beyond = head.get(path, session, Range=f"bytes={root.size}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{root.size}")
    only_head = head.ask("HEAD", path, session)
    assert (only_head.content, only_head.headers["content-length"]) == (b"", str(root.size))


def test_a_boot_token_is_for_one_boot(head: RunningHead) -> None:
    deployed(head)
    token = token_of(head)
    first = NodeHead(head.url).hello(Hello(token, BOOT, FACTS))
    again = NodeHead(head.url).hello(Hello(token, BOOT, FACTS))
    assert NodeHead(head.url, first.credential).orders().node == NodeHead(head.url, again.credential).orders().node
    for wrong in (Hello(token, "cd" * 16, FACTS), Hello("guess", BOOT, FACTS)):
        with pytest.raises(RookeryError) as raised:
            NodeHead(head.url).hello(wrong)
        assert raised.value.kind is ErrorKind.UNAUTHORIZED
    with pytest.raises(RookeryError) as raised:
        NodeHead(head.url, token).orders()
    assert raised.value.kind is ErrorKind.UNAUTHORIZED


def test_the_tracker_asks_for_a_credential(head: RunningHead) -> None:
    deployed(head)
    root = manifest(head.services.catalog.resolve("base")).blob(Role.ROOT)
    session = session_of(head)
    assert b"failure reason" in announce(head, "guess", root.info_hash)
    assert head.get(f"{routes.ANNOUNCE}/").status_code == 404
    assert b"failure reason" in head.get(f"{routes.ANNOUNCE}?info_hash=x").content
    assert b"failure reason" in announce(head, session, "00" * 20)
    assert head.services.tracker.members(root.info_hash) == ()
    for info_hash in (root.info_hash, root.info_hash_v1):
        answer = announce(head, session, info_hash)
        assert b"failure reason" not in answer
        assert b"5:peers6:" in answer  # one seeder: the head
    assert [peer.port for peer in head.services.tracker.members(root.info_hash)] == [7000]


def test_a_tickets_holder_gets_one_version_only(head: RunningHead) -> None:
    mine, other = head.publish_image("mine"), head.publish_image("other")
    ticket = head.operator.ticket(NewTicket("mine"))
    where = urlsplit(ticket.url)
    offer = codec.loads(FetchOffer, head.get(f"{where.path}?{where.query}").content)
    assert offer.manifest == mine.manifest
    secret = offer.source.credential
    assert head.get(f"{routes.BLOB}/{manifest(mine).blob(Role.ROOT).sha256}", secret).status_code == 200
    foreign = manifest(other).blob(Role.ROOT)
    assert head.get(f"{routes.BLOB}/{foreign.sha256}", secret).status_code == 404
    assert b"failure reason" in announce(head, secret, foreign.info_hash)
    assert head.get(f"{routes.FETCH}/other?ticket={secret}").status_code == 403
    assert head.get(f"{routes.FETCH}/mine?ticket=guess").status_code == 401
    assert head.get(f"{routes.FETCH}/mine").status_code == 401
    assert head.get(routes.ORDERS, secret).status_code == 403
    assert head.get(f"{routes.FETCH}/mine", head.token).status_code == 200


def test_failing_digests_make_the_head_look_at_its_own_copy(head: RunningHead) -> None:
    version = deployed(head)
    root = manifest(version).blob(Role.ROOT)
    node = NodeHead(head.url, session_of(head))
    path = head.services.store.path(root.sha256)
    path.chmod(0o644)
    damaged = bytearray(path.read_bytes())
    damaged[70_000] ^= 1
    path.write_bytes(damaged)
    node.report(Report(BOOT, 1, Step.FETCH, {}, Transfer(root.size, hash_failures=1), version.id))
    last = 0
    while not head.bad_copies:  # the seeder tells from its own thread
        last = head.operator.events(last, wait=0.2).last
    assert head.bad_copies == [root.sha256]
    assert head.operator.head().seeding[0].bad_pieces == 1


def test_a_node_that_is_gone_has_no_access(head: RunningHead) -> None:
    deployed(head)
    session = session_of(head)
    head.operator.remove_nodes("n1")
    with pytest.raises(RookeryError) as raised:
        NodeHead(head.url, session).orders()
    assert raised.value.kind in {ErrorKind.UNAUTHORIZED, ErrorKind.NOT_FOUND}


def test_machines_that_call_one_url_together_cost_one_look_up(
    head: RunningHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, other = head.publish_image("mine"), head.publish_image("other")
    where, elsewhere = (urlsplit(head.operator.ticket(NewTicket(name)).url) for name in ("mine", "other"))
    offer, asked = head.services.fleet.offer, []

    def counted(reference: str, secret: str) -> FetchOffer:
        asked.append(reference)
        return offer(reference, secret)

    monkeypatch.setattr(head.services.fleet, "offer", counted)
    for place, wanted in [(where, version), (elsewhere, other)] * 10:
        said = codec.loads(FetchOffer, head.get(f"{place.path}?{place.query}").content)
        assert said.manifest.signed_bytes == wanted.manifest.signed_bytes
        assert said.source.credential in place.query
    assert 2 <= len(asked) <= 10  # one each, and again after two seconds
    for _ in range(3):  # an operator gets a ticket of its own each time
        head.get(f"{routes.FETCH}/mine", head.token)
    assert asked.count("mine") >= 3
