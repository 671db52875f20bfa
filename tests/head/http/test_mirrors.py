# SPDX-License-Identifier: Apache-2.0
"""Mirrors from their registration to their removal, over the operator's API; and who is told of them when."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libtorrent as lt
import pytest

from rookery import codec
from rookery.api.mirrors import AddMirror, CheckMirror
from rookery.api.types import Job, JobState, NewTicket, Publish
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import MirrorState, Version
from rookery.head.http.views import manifest
from rookery.head.mirrors.rounds import Rounds, Watcher
from rookery.wire.manifest import Role
from rookery.wire.orders import FetchOffer
from tests import metalink4
from tests.head.mirrors.liar import Liar, serving

if TYPE_CHECKING:
    from conftest import RunningHead


@pytest.fixture
def liar() -> Iterator[Liar]:
    with serving() as running:
        yield running


def lay(head: RunningHead, liar: Liar, version: Version, prefix: str = "/images") -> None:
    """Copy a version to the mirror, as it lies at /files."""
    for blob in manifest(version).blobs:
        content = head.services.store.path(blob.sha256).read_bytes()
        liar.content[f"{prefix}/{version.image}/{version.id}/{blob.name}"] = content


def ended(head: RunningHead, job: Job) -> Job:
    while job.state in (JobState.QUEUED, JobState.RUNNING):
        job = head.operator.job(job.id, after=job.revision, wait=20)
    return job


def added(head: RunningHead, mirror: AddMirror) -> Job:
    return ended(head, head.operator.add_mirror(mirror))


def told(head: RunningHead, image: str = "base") -> tuple[str, ...]:
    """Which URLs besides the head's a client gets to know, by every way the same ones."""
    ticket = head.operator.ticket(NewTicket(image))
    file = next(file for file in ticket.offer.files if file.role == Role.ROOT)
    of_metalink = metalink4.read(head.get(file.metalink.removeprefix(head.url)).content)[0].urls
    in_metalink = tuple(url for url, _, _ in of_metalink if not url.startswith(head.url))
    in_torrent = tuple(lt.load_torrent_buffer(head.get(file.torrent.removeprefix(head.url)).content).url_seeds)
    offer = codec.loads(FetchOffer, head.get(ticket.url.removeprefix(head.url)).content)
    assert file.mirrors == in_metalink == in_torrent == offer.source.mirrors.get(file.sha256, ())
    return in_metalink


def events(head: RunningHead, name: str) -> list[str]:
    return [event.kind for event in head.operator.events(subject=f"mirror:{name}").events]


def test_a_good_mirror_is_told_to_everybody_until_it_lies(head: RunningHead, liar: Liar) -> None:
    version = head.publish_image("base")
    lay(head, liar, version)
    assert told(head) == ()
    job = added(head, AddMirror("near", f"{liar.url}/images/", 3, "de"))
    assert (job.state, job.progress.done, job.progress.total) == (JobState.DONE, 3, 3)
    mirror = head.operator.mirror("near").mirror
    assert (mirror.state, mirror.good, mirror.missing, mirror.bad) == ("good", 3, 0, 0)
    url = f"{liar.url}/images/base/{version.id}/root.squashfs"
    assert told(head) == (url,)
    assert events(head, "near") == ["added"]

    right = liar.content[f"/images/base/{version.id}/kernel"]
    liar.content[f"/images/base/{version.id}/kernel"] = right[:-1] + bytes([right[-1] ^ 1])
    job = ended(head, head.operator.check_mirror("near", CheckMirror()))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.kind is ErrorKind.CORRUPT
    assert "kernel: its SHA-256 is" in job.error.details
    assert told(head) == (), "a mirror that lies about one file is not believed about others"
    assert [file.state for file in head.operator.mirror("near").files].count("bad") == 1

    liar.content[f"/images/base/{version.id}/kernel"] = right
    assert ended(head, head.operator.check_mirror("near", CheckMirror(whole=True))).state is JobState.DONE
    assert told(head) == (url,)
    liar.fault = "503"
    job = ended(head, head.operator.check_mirror("near", CheckMirror()))
    assert job.error is not None
    assert job.error.kind is ErrorKind.UNAVAILABLE
    assert told(head) == ()
    liar.fault = ""
    assert ended(head, head.operator.check_mirror("near", CheckMirror())).state is JobState.DONE
    assert events(head, "near") == ["added", "bad", "good", "unreachable", "good"]

    assert head.operator.remove_mirror("near").removed == ("near",)
    assert told(head) == ()
    assert head.operator.mirrors().mirrors == ()
    assert events(head, "near")[-1] == "removed"


def test_mirrors_are_asked_in_the_order_of_their_priority(head: RunningHead, liar: Liar) -> None:
    version = head.publish_image("base")
    lay(head, liar, version)
    lay(head, liar, version, "/more")
    for blob in manifest(version).blobs:
        liar.content[f"/blobs/{blob.sha256}"] = head.services.store.path(blob.sha256).read_bytes()
    for name, url, priority in (("last", "/images", 30), ("first", "/more", 1), ("middle", "/blobs/{sha256}", 20)):
        assert added(head, AddMirror(name, liar.url + url, priority)).state is JobState.DONE
    sha256 = manifest(version).blob(Role.ROOT).sha256
    tail = f"base/{version.id}/root.squashfs"
    assert told(head) == (f"{liar.url}/more/{tail}", f"{liar.url}/blobs/{sha256}", f"{liar.url}/images/{tail}")
    assert [mirror.name for mirror in head.operator.mirrors().mirrors] == ["first", "middle", "last"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("302", ErrorKind.CORRUPT),
        ("401", ErrorKind.CORRUPT),
        ("html", ErrorKind.CORRUPT),
        ("size", ErrorKind.CORRUPT),
        ("no-ranges", ErrorKind.CORRUPT),
        ("500", ErrorKind.UNAVAILABLE),
    ],
)
def test_what_is_not_right_is_not_registered(head: RunningHead, liar: Liar, fault: str, kind: ErrorKind) -> None:
    lay(head, liar, head.publish_image("base"))
    liar.fault = fault
    job = added(head, AddMirror("near", f"{liar.url}/images"))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.kind is kind
    assert job.error.hint
    assert head.operator.mirrors().mirrors == ()
    assert told(head) == ()


def test_one_that_has_nothing_is_refused_with_the_place_that_was_looked_at(head: RunningHead, liar: Liar) -> None:
    version = head.publish_image("base")
    job = added(head, AddMirror("near", f"{liar.url}/typo"))
    assert job.error is not None
    assert job.error.kind is ErrorKind.NOT_FOUND
    assert f"{liar.url}/typo/base/{version.id}/root.squashfs" in job.error.details


def test_what_cannot_be_a_mirror_is_refused_at_once(head: RunningHead, liar: Liar) -> None:
    assert added(head, AddMirror("near", f"{liar.url}/images")).state is JobState.DONE  # nothing is published yet
    for wrong, kind in (
        (AddMirror("near", "http://other.example"), ErrorKind.CONFLICT),
        (AddMirror("other", f"{liar.url.upper().replace('HTTP', 'http')}/images/"), ErrorKind.CONFLICT),
        (AddMirror("self", f"{head.url}/files"), ErrorKind.INVALID),
        (AddMirror("self", head.url), ErrorKind.INVALID),
        (AddMirror("a b", "http://other.example"), ErrorKind.INVALID),
        (AddMirror("near2", "http://u:p@other.example"), ErrorKind.INVALID),
        (AddMirror("near2", "http://other.example", location="DE"), ErrorKind.INVALID),
        (AddMirror("near2", "http://other.example", location="d1"), ErrorKind.INVALID),
        (AddMirror("near2", "http://other.example", priority=0), ErrorKind.INVALID),
    ):
        with pytest.raises(RookeryError) as caught:
            head.operator.add_mirror(wrong)
        assert caught.value.kind is kind, wrong
    assert [mirror.name for mirror in head.operator.mirrors().mirrors] == ["near"]
    for call in (head.operator.mirror, head.operator.remove_mirror):
        with pytest.raises(RookeryError, match="no mirror") as caught:
            call("nobody")
        assert caught.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(RookeryError, match="no mirror"):
        head.operator.check_mirror("nobody", CheckMirror())
    assert head.get("/api/v1/mirrors").status_code == 401


def test_what_comes_later_is_looked_for_later(head: RunningHead, liar: Liar) -> None:
    first = head.publish_image("base")
    lay(head, liar, first)
    assert added(head, AddMirror("near", f"{liar.url}/images")).state is JobState.DONE
    second = head.publish_image("base")
    assert told(head) == ()
    now = float(head.operator.mirror("near").mirror.checked_at or 0)
    clock = [now]
    rounds = Rounds(head.services.catalog, head.services.store, head.url, lambda: clock[0])
    assert rounds.due(3600) == ()
    clock[0] = now + 200  # published since the last check
    assert rounds.due(3600) == ("near",)
    clock[0] = now + 4000
    assert rounds.due(3600) == ("near",)
    assert rounds.check("near").state is MirrorState.GOOD
    assert rounds.due(3600) == ()
    assert told(head) == (), "not there yet: no fault, and not told"
    mirror = head.operator.mirror("near").mirror
    assert (mirror.good, mirror.missing) == (3, 3)
    lay(head, liar, second)
    clock[0] += 4000
    watcher = Watcher(rounds, 3600, look_seconds=0.01)
    watcher.start()
    try:
        until = time.monotonic() + 20
        while head.operator.mirror("near").mirror.good < 6 and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        watcher.stop()
    assert told(head) == (f"{liar.url}/images/base/{second.id}/root.squashfs",)


def test_a_check_that_hangs_can_be_cancelled_and_does_not_keep_the_head(head: RunningHead, liar: Liar) -> None:
    lay(head, liar, head.publish_image("base"))
    assert added(head, AddMirror("near", f"{liar.url}/images")).state is JobState.DONE
    liar.fault = "hang"
    job = head.operator.check_mirror("near", CheckMirror())
    assert liar.waiting.wait(20)
    watcher = Watcher(Rounds(head.services.catalog, head.services.store, head.url), 0, look_seconds=0.01)
    liar.waiting.clear()
    watcher.start()
    assert liar.waiting.wait(20)
    watcher.stop()
    assert not liar.go_on.is_set()
    head.operator.cancel_job(job.id)
    liar.go_on.set()
    job = ended(head, job)
    assert job.error is not None
    assert job.error.kind in (ErrorKind.CANCELLED, ErrorKind.UNAVAILABLE)


def test_one_blob_in_two_versions_is_looked_for_at_both_places(head: RunningHead, liar: Liar) -> None:
    version = head.publish_image("base")
    kernel = manifest(version).blob(Role.KERNEL)
    job = ended(head, head.operator.publish(Publish(str(head.services.store.path(kernel.sha256)), "kernel")))
    assert job.state is JobState.DONE, job.error
    content = head.services.store.path(kernel.sha256).read_bytes()
    liar.content[f"/images/kernel/{job.version}/{kernel.sha256}"] = content
    assert added(head, AddMirror("near", f"{liar.url}/images")).state is JobState.DONE
    places = head.services.catalog.places([kernel.sha256])
    assert [place.url for place in places[kernel.sha256]] == [f"{liar.url}/images/kernel/{job.version}/{kernel.sha256}"]
    assert hashlib.sha256(content).hexdigest() == kernel.sha256


def test_a_check_leaves_packed_what_nobody_uses(head: RunningHead, liar: Liar, tmp_path: Path) -> None:
    content, store = os.urandom(3_000_000), head.services.store
    versions = []
    for number in range(2):
        (tmp_path / "data").write_bytes(content[:1_500_000] + b"x" * number + content[1_500_000:])
        job = ended(head, head.operator.publish(Publish(str(tmp_path / "data"), "data")))
        versions.append(head.services.catalog.version(job.version))
    lay(head, liar, versions[0])
    sha256 = manifest(versions[0]).blob(Role.DATA).sha256
    head.services.published.pack(versions[0], versions[:1])
    assert store.is_packed(sha256)
    assert added(head, AddMirror("near", f"{liar.url}/images")).state is JobState.DONE
    assert head.operator.mirror("near").mirror.good == 1
    assert store.is_packed(sha256)
    # Who asks for it gets it, from here and from there.
    ticket = head.operator.ticket(NewTicket(f"data@{versions[0].id}"))
    (file,) = ticket.offer.files
    assert file.mirrors == (f"{liar.url}/images/data/{versions[0].id}/data",)
    assert head.get(file.url.removeprefix(head.url)).content == content
