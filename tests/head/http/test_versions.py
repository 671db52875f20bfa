# SPDX-License-Identifier: Apache-2.0
"""History, going back, and collecting what nobody needs: by the real client, with real files in a real store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.api.types import AddNodes, Deploy
from rookery.api.versions import Collect, Rollback
from rookery.errors import ErrorKind, RookeryError
from rookery.head.http import views
from rookery.head.progress import Progress, silent
from rookery.head.publish.verify import verify
from rookery.head.swarm.tracker import Announce
from rookery.head.trees import state

if TYPE_CHECKING:
    from conftest import RunningHead


def store(head: RunningHead) -> set[str]:
    return set(head.services.store.digests())


def blobs(*versions: object) -> set[str]:
    return {blob.sha256 for version in versions for blob in views.manifest(version).blobs}  # type: ignore[arg-type]


def test_the_history_tells_what_changed(head: RunningHead, tmp_path: Path) -> None:
    first, second = head.publish_image(), head.publish_image()
    (tmp_path / "data").write_bytes(b"data")
    head.services.publisher.path(tmp_path / "data", "base", "note", silent, threading.Event())
    found = head.operator.history("base")
    note, two, one = found.entries
    assert [one.version.id, two.version.id] == [first.id, second.id]
    assert (one.change, one.source) == ("", "recipe")
    assert two.change == "same packages, other root.squashfs, kernel, drivers.cpio; +0.0 MB"
    assert note.source == "a file"
    assert note.change.startswith("packages: 1 removed (bash); kernel gone; for any architecture; a file in place of")
    assert [(move.tag, move.version) for move in found.moves] == [
        ("latest", first.id),
        ("latest", second.id),
        ("note", note.version.id),
    ]


def test_back_and_forth(head: RunningHead) -> None:
    first, second = head.publish_image(), head.publish_image()
    done = head.operator.roll_back("base", Rollback())
    assert (done.before, done.version.id) == (second.id, first.id)
    assert head.operator.version("base").version.id == first.id
    with pytest.raises(RookeryError, match="nothing to go back to") as raised:
        head.operator.roll_back("base", Rollback())
    assert raised.value.kind is ErrorKind.CONFLICT
    assert head.operator.roll_back("base", Rollback(to=second.id[:8])).version.id == second.id
    told = [event.message for event in head.operator.events().events if event.kind == "rolled-back"]
    assert told == [
        f"base:latest went back from version {second.id[:12]} to {first.id[:12]}",
        f"base:latest went back from version {first.id[:12]} to {second.id[:12]}",
    ]
    with pytest.raises(RookeryError, match="no version"):
        head.operator.roll_back("base", Rollback(to="0" * 8))


def test_what_nobody_needs_goes_with_its_files_alone(head: RunningHead) -> None:
    old, needed, now = head.publish_image(), head.publish_image(), head.publish_image()
    head.operator.add_nodes(AddNodes("n1"))
    head.operator.deploy(Deploy("n1", f"base@{needed.id}"))
    before = store(head)
    preview = head.operator.collect(Collect(dry_run=True))
    assert [version.id for version in preview.going] == [old.id]
    assert (preview.size > old.size, preview.applied) == (True, False)  # its torrent as well
    assert {item.id: item.reason for item in preview.staying} == {
        now.id: "tagged latest",
        needed.id: "assigned to n1",
    }
    assert store(head) == before
    done = head.operator.collect(Collect())
    assert (done.going, done.staying, done.size, done.applied) == (preview.going, preview.staying, preview.size, True)
    assert store(head) == blobs(needed, now)
    assert not head.services.store.torrent(views.manifest(old).blobs[0].sha256).exists()
    given = {item.sha256 for item in head.operator.head().seeding}
    assert given == {blob.sha256 for row in (needed, now) for blob in views.manifest(row).blobs if blob.info_hash}
    assert head.operator.collect(Collect()).going == ()


def test_what_is_in_the_swarm_or_read_by_a_job_stays(head: RunningHead) -> None:
    fetched, read, _now = head.publish_image(), head.publish_image(), head.publish_image()
    info_hash = bytes.fromhex(views.manifest(fetched).blobs[0].info_hash)[:20]
    announce = Announce(info_hash, b"x" * 20, "10.0.0.9", 6881, left=5)
    head.services.tracker.announce(announce, time.monotonic())
    with head.services.holds.hold(lambda: head.services.catalog.version(read.id), "a job exports it"):
        assert head.operator.collect(Collect()).going == ()
        reasons = {item.id: item.reason for item in head.operator.collect(Collect()).staying}
    assert reasons[fetched.id] == "in the swarm, 1 member"
    assert reasons[read.id] == "a job exports it"
    head.services.tracker.announce(
        Announce(info_hash, b"x" * 20, "10.0.0.9", 6881, left=5, event="stopped"), time.monotonic()
    )
    assert {version.id for version in head.operator.collect(Collect()).going} == {fetched.id, read.id}


def test_while_something_is_published_files_go_when_that_has_ended(head: RunningHead, tmp_path: Path) -> None:
    old, _now = head.publish_image(), head.publish_image()
    source = tmp_path / "data"
    source.write_bytes(b"data" * 1000)
    inside, go_on = threading.Event(), threading.Event()

    def on_progress(_progress: Progress) -> None:
        inside.set()
        assert go_on.wait(20)

    def publish() -> None:
        head.services.publisher.path(source, "data", "latest", on_progress, threading.Event())

    publishing = threading.Thread(target=publish)
    publishing.start()
    assert inside.wait(20)
    assert [version.id for version in head.operator.collect(Collect()).going] == [old.id]
    assert blobs(old) <= store(head)
    go_on.set()
    publishing.join(20)
    assert not blobs(old) & store(head)
    assert len(store(head)) == 4


def test_content_that_two_versions_have_stays(head: RunningHead, tmp_path: Path) -> None:
    for name, data in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(data)
    publisher, cancel = head.services.publisher, threading.Event()
    publisher.path(tmp_path / "a", "first", "latest", silent, cancel)
    publisher.path(tmp_path / "b", "first", "latest", silent, cancel)
    (tmp_path / "c").write_bytes(b"one")
    kept = publisher.path(tmp_path / "c", "second", "latest", silent, cancel)
    done = head.operator.collect(Collect())
    assert (len(done.going), done.size) == (1, 0)
    assert blobs(kept) <= store(head)


def test_bad_input(head: RunningHead) -> None:
    with pytest.raises(RookeryError) as raised:
        head.operator.history("none")
    assert raised.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(RookeryError) as raised:
        head.operator.collect(Collect(keep=-1))
    assert raised.value.kind is ErrorKind.INVALID


def test_collecting_beside_publications_of_the_same_content(head: RunningHead, tmp_path: Path) -> None:
    """What is published is whole and given, also when the same content has just lost its last tag and is collected."""
    services, cancel, over = head.services, threading.Event(), threading.Event()
    collected: list[str] = []

    def collect() -> None:
        while not over.is_set():
            collected.extend(version.id for version in head.operator.collect(Collect()).going)

    collecting = threading.Thread(target=collect)
    collecting.start()
    try:
        for number in range(30):
            (tmp_path / "data").write_bytes(b"content %d" % (number % 3) * 20_000)
            version = services.publisher.path(tmp_path / "data", "data", "latest", silent, cancel)
            services.published.added(version)
            assert verify(version, services.store, services.key.public, silent, cancel) == ()
            assert blobs(version) <= {item.sha256 for item in head.operator.head().seeding}
    finally:
        over.set()
        collecting.join(30)
    assert len(collected) > 3
    head.operator.collect(Collect())
    assert store(head) == blobs(version)


def test_the_origin_of_a_working_tree_stays(head: RunningHead) -> None:
    old, _now = head.publish_image(), head.publish_image()
    place = head.services.paths.trees / "base"
    place.mkdir(parents=True)
    state.save(place, state.TreeState("ab", "base:latest", 1.0, 1.0, version=old.id))
    (place.parent / "broken").mkdir()
    (place.parent / "broken" / "state.json").write_text("{")
    found = head.operator.collect(Collect())
    assert found.going == ()
    assert {item.id: item.reason for item in found.staying}[old.id] == "origin of the working tree of base"
    (place / "state.json").unlink()
    assert [version.id for version in head.operator.collect(Collect()).going] == [old.id]
