# SPDX-License-Identifier: Apache-2.0
"""What is given follows what is stored: a running seeder, and what was published again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from rookery.head.catalog.rows import Version
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fetch import Fetcher
from rookery.node.trust import open_manifest
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import Source


def publish(head: Any, source: Path, name: str) -> Version:
    version = head.services.publisher.path(source, name, "latest", silent, threading.Event())
    head.services.published.added(version)
    return version


def blob_of(version: Version) -> Blob:
    return open_manifest(version.manifest, version.manifest.key).blob(Role.DATA)


def fetched(head: Any, version: Version, to: Path) -> tuple[bytes, int]:
    """What the head's seeder alone gives (there is no HTTP here, and no tracker), and how many pieces failed."""
    blob, services = blob_of(version), head.services
    source = Source("http://127.0.0.1:9", "none", (f"127.0.0.1:{services.config.network.swarm_port}",))
    torrent = services.store.torrent(blob.sha256).read_bytes()
    with Fetcher(blob, torrent, source, to, lambda _at: None, threading.Event()) as fetcher:
        stats = fetcher.run()
    return to.read_bytes(), stats.hash_failures


def spoil(path: Path) -> None:
    """Change a stored blob where it lies, as a failing disk does."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(bytes(70_000))


def test_a_repaired_blob_is_given_and_others_are_left_alone(head: Any, tmp_path: Path) -> None:
    sources = [tmp_path / "one", tmp_path / "two"]
    for source in sources:
        source.write_bytes(os.urandom(1_000_000))
    version, other = (publish(head, source, source.name) for source in sources)
    for given in (version, other):  # from now on the seeder has the files open, and their pieces were right
        assert fetched(head, given, tmp_path / f"first-{given.image}")[1] == 0
    before = {given.info_hash: given.sent for given in head.services.seeder.stats()}
    assert before[blob_of(other).info_hash] >= 1_000_000

    stored = head.services.store.path(blob_of(version).sha256)
    spoil(stored)
    again = publish(head, sources[0], "one")
    assert again.id == version.id
    assert fetched(head, again, tmp_path / "got") == (sources[0].read_bytes(), 0)
    after = {given.info_hash: given for given in head.services.seeder.stats()}
    assert set(after) == set(before)
    assert after[blob_of(version).info_hash].bad_pieces == ()
    # What the seeder counts begins anew when a blob is added anew: the other one's went on.
    assert after[blob_of(other).info_hash].sent >= before[blob_of(other).info_hash]
    assert head.bad_copies == []


def test_a_copy_that_was_found_bad_is_given_whole_after_publishing_again(head: Any, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(1_000_000))
    version = publish(head, source, "data")
    stored = head.services.store.path(blob_of(version).sha256)
    there = stored.stat()
    spoil(stored)
    head.services.published.check_own_copy(version.id)
    until = time.monotonic() + 30
    while not head.services.seeder.stats()[0].bad_pieces:
        assert time.monotonic() < until
        time.sleep(0.05)
    # Somebody brings the bytes back without a trace: the same file, with the time that it had.
    stored.write_bytes(source.read_bytes())
    os.utime(stored, ns=(there.st_atime_ns, there.st_mtime_ns))
    publish(head, source, "data")
    assert head.services.seeder.stats()[0].bad_pieces == ()
    assert fetched(head, version, tmp_path / "got") == (source.read_bytes(), 0)


def test_publishing_again_changes_nothing_for_the_seeder(head: Any, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(1_000_000))
    version = publish(head, source, "data")
    fetched(head, version, tmp_path / "got")
    (before,) = head.services.seeder.stats()
    publish(head, source, "again")
    (after,) = head.services.seeder.stats()
    assert before.sent > 0
    assert after.sent >= before.sent


def test_a_node_gets_the_manifest_that_the_site_key_of_today_signed(head: Any, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(100_000))
    version = publish(head, source, "data")
    for path in (head.services.paths.site_key, head.services.paths.site_public):
        path.unlink()
    key = SiteKey.create(head.services.paths)
    Publisher(head.services.store, key, head.services.catalog, make_torrent).path(
        source, "data", "latest", silent, threading.Event()
    )
    assert open_manifest(head.services.catalog.version(version.id).manifest, key.public).version == version.id
