# SPDX-License-Identifier: Apache-2.0
"""`/files` as other people's clients call it."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import libtorrent as lt

from rookery import codec
from rookery.api.files import Offered, OfferedFile
from rookery.api.types import NewTicket, Ticket
from rookery.head.catalog.rows import Mirror, MirrorFile, MirrorState, Node, Version
from rookery.head.http.views import manifest
from rookery.wire import routes
from rookery.wire.manifest import Role
from rookery.wire.report import NodeState
from tests import metalink4

if TYPE_CHECKING:
    from conftest import RunningHead

SIZE = 200_000


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def bare(url: str) -> str:
    return urlsplit(url).path


def file_of(ticket: Ticket, role: Role = Role.ROOT) -> OfferedFile:
    return next(file for file in ticket.offer.files if file.role == role)


def blob_of(head: RunningHead, version: Version, role: Role = Role.ROOT) -> bytes:
    return head.services.store.path(manifest(version).blob(role).sha256).read_bytes()


def with_mirror(head: RunningHead, sha256: str, url: str = "http://near.example/root?a=1&b=2") -> None:
    mirror = Mirror("near", "http://near.example", 5, "de", 1.0, MirrorState.GOOD, "", 1.0)
    head.services.catalog.add_mirror(mirror, [MirrorFile(sha256, url, MirrorState.GOOD)])


def test_a_url_has_the_file_its_digest_ranges_and_a_name(head: RunningHead) -> None:
    version = head.publish_image("base")
    file = file_of(head.operator.ticket(NewTicket("base")))
    content = blob_of(head, version)
    with_mirror(head, file.sha256)
    whole = head.get(path_of(file.url))
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["etag"] == f'"{file.sha256}"'
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert whole.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert whole.headers["digest"] == f"SHA-256={digest}"
    assert whole.headers["content-disposition"] == 'attachment; filename="root.squashfs"'
    assert whole.headers["accept-ranges"] == "bytes"
    links = whole.headers["link"].split(", ")
    assert links[0].startswith(f'<{file.metalink}>; rel=describedby; type="application/metalink4+xml"')
    assert links[1] == f'<{file.torrent}>; rel=describedby; type="application/x-bittorrent"'
    assert links[2] == "<http://near.example/root?a=1&b=2>; rel=duplicate; pri=5; geo=de"
    part = head.get(path_of(file.url), Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{SIZE}"
    assert head.get(path_of(file.url), If_None_Match=whole.headers["etag"]).status_code == 304
    assert head.get(path_of(file.url), Range=f"bytes={SIZE}-").status_code == 416
    asked = head.ask("HEAD", path_of(file.url))
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == str(SIZE)
    assert asked.headers["etag"] == whole.headers["etag"]


def test_the_torrent_is_the_blobs_with_tracker_and_web_seeds(head: RunningHead) -> None:
    version = head.publish_image("base")
    blob = manifest(version).blob(Role.ROOT)
    file = file_of(head.operator.ticket(NewTicket("base")))
    said = head.get(path_of(file.torrent))
    assert said.headers["content-type"] == "application/x-bittorrent"
    assert said.headers["content-disposition"] == 'attachment; filename="root.squashfs.torrent"'
    entry: Any = lt.bdecode(said.content)
    assert set(entry) == {b"announce", b"info"}
    params = lt.load_torrent_buffer(said.content)
    assert str(params.info_hashes.v1) == blob.info_hash_v1
    assert params.ti is not None
    assert params.ti.priv()
    assert params.ti.name() == "root.squashfs"
    with_mirror(head, blob.sha256)
    again = head.get(path_of(file.torrent))
    assert again.headers["etag"] != said.headers["etag"]
    assert lt.load_torrent_buffer(again.content).url_seeds == ["http://near.example/root?a=1&b=2"]
    assert head.get(path_of(file.torrent), If_None_Match=again.headers["etag"]).status_code == 304
    asked = head.ask("HEAD", path_of(file.torrent))
    assert (asked.content, asked.headers["content-length"]) == (b"", str(len(again.content)))
    # The tracker takes what the torrent names, in the form in which old clients ask, too.
    (url,) = params.trackers
    query = f"info_hash={_quoted(blob.info_hash_v1)}&peer_id={'p' * 20}&port=7001&left=1&numwant=5"
    compact = lt.bdecode(head.get(f"{path_of(url)}?{query}&compact=1&event=started").content)
    assert len(compact[b"peers"]) == 6
    (peer,) = lt.bdecode(head.get(f"{path_of(url)}?{query}&compact=0").content)[b"peers"]
    assert (peer[b"ip"], peer[b"port"]) == (b"127.0.0.1", head.services.config.network.swarm_port)
    assert b"failure" not in head.get(f"{path_of(url)}?{query.replace('left=1', 'left=0')}&event=completed").content
    assert [peer.complete for peer in head.services.tracker.members(blob.info_hash)] == [True]
    head.get(f"{path_of(url)}?{query}&event=stopped")
    assert head.services.tracker.members(blob.info_hash) == ()


def _quoted(info_hash: str) -> str:
    return "".join(f"%{info_hash[place : place + 2]}" for place in range(0, 40, 2))


def test_the_metalink_says_all_of_it(head: RunningHead) -> None:
    version = head.publish_image("base", size=1_500_000)
    ticket = head.operator.ticket(NewTicket("base"))
    with_mirror(head, file_of(ticket).sha256)
    said = head.get(path_of(ticket.offer.metalink))
    assert said.headers["content-type"] == "application/metalink4+xml"
    found = {file.name: file for file in metalink4.read(said.content)}
    assert set(found) == {"root.squashfs", "kernel", "drivers.cpio"}
    for role, kind in ((Role.ROOT, "sha-1"), (Role.KERNEL, "sha-256")):
        file, content = found[file_of(ticket, role).name], blob_of(head, version, role)
        assert file.hashes == {"sha-256": hashlib.sha256(content).hexdigest()}
        assert file.piece_kind == kind
        digest = hashlib.new(kind.replace("-", ""))
        digest.update(content[: file.piece_length])
        assert file.pieces[0] == digest.hexdigest()
    root = found["root.squashfs"]
    assert root.torrents == (file_of(ticket).torrent,)
    assert root.urls == (("http://near.example/root?a=1&b=2", 5, "de"), (file_of(ticket).url, 100, ""))
    assert found["kernel"].torrents == ()
    assert root.texts == {"identity": "base", "version": version.id}
    (alone,) = metalink4.read(head.get(path_of(file_of(ticket).metalink)).content)
    assert alone == root


def test_a_tag_leads_to_the_version_that_it_is_now(head: RunningHead) -> None:
    first = head.publish_image("base")
    second = head.publish_image("base")
    token = head.token
    for name in ("latest", second.id[:12]):
        said = head.get(f"{routes.FILES}/base/{name}/root.squashfs.torrent?x=1", token)
        assert (said.status_code, said.headers["location"]) == (
            302,
            f"{routes.FILES}/base/{second.id}/root.squashfs.torrent?x=1",
        )
    assert head.get(f"{routes.FILES}/base/latest", token).headers["location"] == f"{routes.FILES}/base/{second.id}"
    there = f"{routes.FILES}/base/{second.id}.meta4"
    assert head.get(f"{routes.FILES}/base/latest.meta4", token).headers["location"] == there
    # A whole id is that version for ever, whatever the tags are called.
    head.services.catalog.tag("base", second.id, first.id)
    assert head.get(f"{routes.FILES}/base/{second.id}/root.squashfs", token).content == blob_of(head, second)


def test_pages_for_people_and_programs_list_what_is_open(head: RunningHead) -> None:
    version, other = head.publish_image("base"), head.publish_image("other")
    ticket = head.operator.ticket(NewTicket("base"))
    page = head.get(path_of(ticket.offer.url))
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["referrer-policy"] == "no-referrer"
    for file in ticket.offer.files:
        assert f'href="{file.url}"' in page.text
        assert file.sha256 in page.text
    secret = ticket.offer.url.partition("ticket=")[2]
    listed = codec.loads(Offered, head.get(f"{routes.FILES}/?ticket={secret}", Accept="application/json").content)
    assert listed == Offered((ticket.offer,))
    everything = codec.loads(Offered, head.get(f"{routes.FILES}/", head.token, Accept="application/json").content)
    assert {(found.image, found.version) for found in everything.versions} == {
        ("base", version.id),
        ("other", other.id),
    }
    assert "ticket=" not in codec.dumps(everything)
    of_one = head.get(f"{routes.FILES}/other", head.token, Accept="application/json").content
    assert [found.image for found in codec.loads(Offered, of_one).versions] == ["other"]


def test_without_a_good_ticket_nothing_is_told(head: RunningHead) -> None:
    head.publish_image("base")
    other = head.publish_image("other")
    ticket = head.operator.ticket(NewTicket("base"))
    secret = ticket.offer.url.partition("ticket=")[2]
    file = file_of(ticket)
    for path in (routes.FILES, bare(file.url), bare(file.torrent), bare(ticket.offer.metalink)):
        for query in ("", "?ticket=", "?ticket=wrong", f"?ticket={'x' * 300}"):
            said = head.get(path + query)
            assert said.status_code == 401, path
            assert said.headers["www-authenticate"].startswith("Basic realm=")
            assert "rookery ticket" in said.json()["hint"]
    words = base64.b64encode(f"anybody:{secret}".encode()).decode()
    assert head.get(bare(file.url), Authorization=f"Basic {words}").status_code == 200
    assert head.get(bare(file.url), Authorization="Basic !").status_code == 401
    assert head.get(bare(file.url), secret).status_code == 200
    assert head.get(f"{routes.FILES}/other/{other.id}/root.squashfs", secret).status_code == 403
    late = head.services.credentials.ticket(ticket.version, -1.0)
    assert head.get(bare(file.url), late).status_code == 401
    head.services.catalog.add_nodes([Node("n1", state=NodeState.READY, version=ticket.version)])
    session = head.services.credentials.session("n1", "ab" * 16)
    assert head.get(bare(file.url), session).status_code == 403
    assert head.get(f"{routes.ANNOUNCE}/public?info_hash=x").content.startswith(b"d14:failure reason")


def test_what_is_not_there_is_said(head: RunningHead) -> None:
    version = head.publish_image("base")
    base = f"{routes.FILES}/base/{version.id}"
    for path, status in (
        (f"{base}/nothing", 404),
        (f"{base}/root.squashfs.torrent.torrent", 404),
        (f"{base}/kernel.torrent", 404),
        (f"{base}/root.squashfs/more", 404),
        (f"{routes.FILES}/base/{'0' * 64}/root.squashfs", 404),
        (f"{routes.FILES}/nobody/{version.id}/root.squashfs", 404),
        (f"{routes.FILES}/base/a%20b", 404),
        (f"{routes.FILES}/base/..%2f..%2fsite.key", 404),
    ):
        said = head.get(path, head.token)
        assert said.status_code == status, path
        assert said.headers["content-type"] == "application/problem+json"
    assert "root.squashfs" in head.get(f"{base}/nothing", head.token).json()["hint"]


def test_the_operators_token_is_never_handed_on(head: RunningHead) -> None:
    head.publish_image("base")
    file = file_of(head.operator.ticket(NewTicket("base")))
    for url in (file.torrent, file.metalink, file.url):
        said = head.get(bare(url), head.token)
        assert head.token.encode() not in said.content
        assert head.token not in str(said.headers)
    (announce,) = lt.load_torrent_buffer(head.get(bare(file.torrent), head.token).content).trackers
    made = head.services.credentials.check(announce.rpartition("/")[2])
    assert (made.kind, made.subject) == ("ticket", file.url.split("/")[5])
    assert made.expires_at > time.time()


def test_a_public_site_asks_nobody(open_head: RunningHead) -> None:
    head = open_head
    version = head.publish_image("base")
    ticket = head.operator.ticket(NewTicket("base"))
    file = file_of(ticket)
    assert "ticket" not in codec.dumps(ticket.offer)
    said = head.get(file.url.removeprefix(head.url))
    assert said.content == blob_of(head, version)
    assert said.headers["cache-control"].startswith("public")
    (alone,) = metalink4.read(head.get(bare(file.metalink)).content)
    assert alone.urls == ((file.url, 3, "fr"),)
    (announce,) = lt.load_torrent_buffer(head.get(bare(file.torrent)).content).trackers
    query = f"info_hash={_quoted(manifest(version).blob(Role.ROOT).info_hash_v1)}&peer_id={'p' * 20}&port=7001"
    assert b"5:peers6:" in head.get(f"{bare(announce)}?{query}").content
    # Nothing else is open.
    assert head.get(f"{routes.BLOB}/{file.sha256}", "public").status_code == 401
    assert head.get(f"{routes.FETCH}/base").status_code == 401
    assert head.get("/api/v1/images", "public").status_code == 401
