# SPDX-License-Identifier: Apache-2.0
"""Publishing: versions that are whole or not there, whatever cuts it off."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import libtorrent
import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.rows import Version
from rookery.head.progress import Progress, silent
from rookery.head.publish.publish import INDEX_SECONDS
from rookery.head.publish.verify import verify
from rookery.node.trust import open_manifest
from rookery.run import run
from rookery.wire.chunks import open_index
from rookery.wire.manifest import Role, VersionKind, parse_payload
from rookery.wire.torrents import describe

Built = Callable[..., BuiltImage]


def digest_of(version: Version, role: Role) -> str:
    return parse_payload(version.manifest.signed_bytes).blob(role).sha256


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_image_becomes_a_signed_version(house, built: Built) -> None:
    version = house.publisher.image("base", built(), "recipe = 1", "stable", silent, house.cancel)
    manifest = open_manifest(version.manifest, house.key.public)
    assert (manifest.version, manifest.kind, manifest.image) == (version.id, VersionKind.IMAGE, "base")
    assert (manifest.kernel_release, manifest.architecture) == ("6.1.0-9-amd64", "x86_64")
    assert (version.recipe, version.packages) == ("recipe = 1", {"less": "590-2.1"})
    assert version.size == sum(blob.size for blob in manifest.blobs) == 200_000 + 6000 + 7000
    root = manifest.blob(Role.ROOT)
    assert len(root.info_hash) == 64
    assert len(root.info_hash_v1) == 40
    torrent = house.store.torrent(root.sha256).read_bytes()
    assert root.pieces_root == describe(libtorrent.bdecode(torrent)).root.hex()
    for role in (Role.KERNEL, Role.DRIVERS):
        assert manifest.blob(role).info_hash == manifest.blob(role).pieces_root == ""
        assert not house.store.torrent(manifest.blob(role).sha256).exists()
    assert house.catalog.resolve("base:stable") == version
    assert verify(version, house.store, house.key.public, silent, house.cancel) == ()


def test_the_same_content_is_the_same_version_and_no_second_copy(house, built: Built) -> None:
    first = house.publisher.image("base", built(), "", "one", silent, house.cancel)
    before = {path.name: path.stat().st_ino for path in house.paths.blobs.iterdir()}
    again = house.publisher.image("base", built(), "", "two", silent, house.cancel)
    assert again.id == first.id
    assert again.manifest == first.manifest
    assert again.tags == ("one", "two")
    assert {path.name: path.stat().st_ino for path in house.paths.blobs.iterdir()} == before
    other = house.publisher.image("twin", built(), "", None, silent, house.cancel)
    assert other.id == first.id
    assert open_manifest(other.manifest, house.key.public).image == "twin"
    assert {path.name: path.stat().st_ino for path in house.paths.blobs.iterdir()} == before


def test_a_new_site_key_signs_anew_what_is_published_again(house, open_house, built: Built) -> None:
    old = house.publisher.image("base", built(), "", "one", silent, house.cancel)
    house.publisher.image("twin", built(), "", "one", silent, house.cancel)
    house.publisher.image("base", built(b"other" * 1000), "", "two", silent, house.cancel)
    for half in (house.paths.site_key, house.paths.site_public):
        half.unlink()
    after = open_house(house.paths.directory)
    assert after.key.public != house.key.public
    (problem,) = verify(after.catalog.resolve("base:one"), after.store, after.key.public, silent, after.cancel)
    assert "publish the image again" in problem.hint
    before = names(after.paths.blobs)
    again = after.publisher.image("base", built(), "", "one", silent, after.cancel)
    assert (again.id, names(after.paths.blobs)) == (old.id, before)
    # A node may be given the manifest of either name.
    for name in ("base", "twin"):
        manifest = open_manifest(after.catalog.resolve(f"{name}:one").manifest, after.key.public)
        assert (manifest.version, manifest.image) == (old.id, name)
        assert verify(after.catalog.resolve(f"{name}:one"), after.store, after.key.public, silent, after.cancel) == ()
    # What was not read again is not vouched for.
    assert verify(after.catalog.resolve("base:two"), after.store, after.key.public, silent, after.cancel)
    signed = again.manifest
    assert after.publisher.image("base", built(), "", "one", silent, after.cancel).manifest == signed


def test_a_file_and_a_tree(house, tmp_path: Path) -> None:
    source = tmp_path / "notes.txt"
    source.write_bytes(b"n" * 100_000)
    version = house.publisher.path(source, "notes", "latest", silent, house.cancel)
    blob = open_manifest(version.manifest, house.key.public).blob(Role.DATA)
    assert (version.kind, blob.name, blob.size) == (VersionKind.FILE, "notes.txt", 100_000)
    assert house.store.path(blob.sha256).read_bytes() == source.read_bytes()

    (tmp_path / "tree" / "in").mkdir(parents=True)
    (tmp_path / "tree" / "in" / "file").write_text("hello")
    one = house.publisher.path(tmp_path / "tree", "site", "latest", silent, house.cancel)
    two = house.publisher.path(tmp_path / "tree", "site", "latest", silent, house.cancel)
    assert one.kind is VersionKind.TREE
    assert one.id == two.id
    blob = open_manifest(one.manifest, house.key.public).blob(Role.DATA)
    assert "in/file" in run(["tar", "-tf", house.store.path(blob.sha256)]).stdout.splitlines()
    assert len(names(house.paths.blobs)) == 6
    indexed = open_index(house.store.chunks(blob.sha256).read_bytes(), blob.chunks, blob.sha256)
    assert indexed.size == blob.size


def test_an_empty_file_is_a_version_without_a_torrent(house, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    version = house.publisher.path(tmp_path / "empty", "empty", None, silent, house.cancel)
    assert open_manifest(version.manifest, house.key.public).blob(Role.DATA).info_hash == ""


@pytest.mark.parametrize(
    ("name", "tag", "kind"),
    [("../x", None, ErrorKind.INVALID), ("ok", "a b", ErrorKind.INVALID), ("", None, ErrorKind.INVALID)],
)
def test_bad_names_change_nothing(house, tmp_path: Path, name: str, tag: str | None, kind: ErrorKind) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RookeryError) as caught:
        house.publisher.path(tmp_path / "file", name, tag, silent, house.cancel)
    assert caught.value.kind is kind
    assert names(house.paths.blobs) == []
    assert house.catalog.images() == ()


@pytest.mark.parametrize("stage", ["storing", "publishing"])
def test_cancelling_at_any_stage_leaves_nothing(house, built: Built, stage: str) -> None:
    def on_progress(progress: Progress) -> None:
        if progress.stage == stage:
            house.cancel.set()

    if stage == "publishing":  # from here on there is one transaction, which is not cut
        house.publisher.image("base", built(), "", None, on_progress, house.cancel)
        assert house.catalog.image("base").versions
        return
    with pytest.raises(RookeryError) as caught:
        house.publisher.image("base", built(), "", None, on_progress, house.cancel)
    assert caught.value.kind is ErrorKind.CANCELLED
    assert names(house.paths.blobs) == []
    assert house.catalog.images() == ()


def test_a_file_that_grows_while_it_is_read_is_refused(house, tmp_path: Path) -> None:
    source = tmp_path / "log"
    source.write_bytes(os.urandom(3_000_000))

    def on_progress(progress: Progress) -> None:
        if progress.done == 1 << 20:
            with source.open("ab") as file:
                file.write(b"one line more")

    with pytest.raises(RookeryError, match="changed while it was read") as caught:
        house.publisher.path(source, "log", None, on_progress, house.cancel)
    assert caught.value.kind is ErrorKind.INVALID
    assert names(house.paths.blobs) == []


def test_the_file_is_read_once(house, tmp_path: Path) -> None:
    """Digest, torrent and chunk index come out of one pass over the bytes: the kernel counts what this process reads,
    of whatever file and by whatever call."""
    size = 30_000_000
    source, told = tmp_path / "data", []
    source.write_bytes(os.urandom(size))
    before = bytes_read()
    version = house.publisher.path(source, "data", None, told.append, house.cancel)
    assert size <= bytes_read() - before < 1.1 * size
    assert {progress.stage for progress in told} == {"storing", "publishing"}
    assert [progress.done for progress in told][:-1] == [*range(1 << 20, size, 1 << 20), size]
    assert verify(version, house.store, house.key.public, silent, house.cancel) == ()


def bytes_read() -> int:
    """All bytes that this process got from read calls; see proc(5), io."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar: ")]
    return int(line.split()[1])


def test_two_publications_at_once_are_made_one_after_the_other(house, built: Built, tmp_path: Path) -> None:
    source, stages = tmp_path / "data", []
    source.write_bytes(os.urandom(2_000_000))
    threads = [
        threading.Thread(
            target=house.publisher.path,
            args=(source, name, None, lambda progress, name=name: stages.append((name, progress.stage)), house.cancel),
        )
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([image for image in house.catalog.images() if image.versions]) == 2
    one_first = [name for name, _ in stages]
    assert one_first in (sorted(one_first), sorted(one_first, reverse=True))
    for image in house.catalog.images():
        assert verify(image.versions[0], house.store, house.key.public, silent, house.cancel) == ()


def test_a_failure_keeps_the_blobs_of_other_versions(house, built: Built) -> None:
    kept = house.publisher.image("base", built(), "", None, silent, house.cancel)
    before = names(house.paths.blobs)

    def on_progress(progress: Progress) -> None:
        if (progress.stage, progress.total) == ("storing", 6000):  # the kernel: the root is in by then
            house.cancel.set()

    with pytest.raises(RookeryError):  # another root, the same kernel and drivers
        house.publisher.image("base", built(b"other" * 1000), "", None, on_progress, house.cancel)
    assert names(house.paths.blobs) == before
    assert verify(kept, house.store, house.key.public, silent, threading.Event()) == ()


# Publishes in a process of its own that is killed, or runs into a limit of file sizes, where it is told to.
CHILD = """
import os, resource, signal, sys, threading
from pathlib import Path
from rookery.errors import RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent

directory, source, end, limit = sys.argv[1:]
paths = Paths(Path(directory))
catalog = Catalog.open(f"sqlite:///{paths.database}")
publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

def on_progress(progress):
    if progress.stage == end:
        os.kill(os.getpid(), signal.SIGKILL)

try:
    publisher.path(Path(source), "data", "latest", on_progress, threading.Event())
except RookeryError as error:
    print(error.kind, error)
    sys.exit(3)
"""


def publish_in_a_child(house, source: Path, end: str = "", limit: int = 0):
    return run([sys.executable, "-c", CHILD, house.paths.directory, source, end, str(limit)], check=False)


@pytest.mark.parametrize("tree", [False, True], ids=["file", "tree"])
@pytest.mark.parametrize("stage", ["packing files", "storing", "publishing"])
def test_a_kill_at_any_stage_leaves_nothing_published(
    house, open_house, tmp_path: Path, stage: str, tree: bool
) -> None:
    if stage == "packing files" and not tree:
        stage = "storing"
    source = tmp_path / "source"
    if tree:
        source.mkdir()
    (source / "data" if tree else source).write_bytes(os.urandom(3_000_000))
    assert publish_in_a_child(house, source, stage).code == -9
    after = open_house(house.paths.directory)
    assert after.catalog.images() == ()
    after.publisher.sweep()
    assert [name for name in names(house.paths.blobs) if not name.endswith(".chunks")] == []
    version = after.publisher.path(source, "data", "latest", silent, after.cancel)
    assert verify(version, after.store, after.key.public, silent, after.cancel) == ()


@pytest.mark.parametrize("tree", [False, True], ids=["file", "tree"])
def test_a_limit_of_file_sizes_is_no_space(house, open_house, tmp_path: Path, tree: bool) -> None:
    source = tmp_path / "source"
    if tree:
        source.mkdir()
    (source / "data" if tree else source).write_bytes(os.urandom(3_000_000))
    done = publish_in_a_child(house, source, limit=2_000_000)
    assert done.code == 3, done.stderr
    assert done.stdout.startswith("no-space")
    after = open_house(house.paths.directory)
    assert after.catalog.images() == ()
    assert names(house.paths.blobs) == []


@pytest.mark.system
@pytest.mark.parametrize("tree", [False, True], ids=["file", "tree"])
def test_a_full_disk_leaves_nothing_published(house, open_house, tmp_path: Path, tree: bool) -> None:
    """On a real file system of 4 MB: what fits is published, what does not leaves all as it was."""
    house.paths.blobs.rmdir()
    house.paths.blobs.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=4m", "rkpublish", house.paths.blobs])
    try:
        full = open_house(house.paths.directory)
        sources = []
        for name, size in (("small", 2_000_000), ("large", 6_000_000)):
            path = tmp_path / name
            if tree:
                path.mkdir()
            (path / "data" if tree else path).write_bytes(os.urandom(size))
            sources.append(path)
        kept = full.publisher.path(sources[0], "data", "latest", silent, full.cancel)
        before = names(full.paths.blobs)
        with pytest.raises(RookeryError) as caught:
            full.publisher.path(sources[1], "data", "latest", silent, full.cancel)
        assert caught.value.kind is ErrorKind.NO_SPACE
        assert names(full.paths.blobs) == before
        assert [version.id for version in full.catalog.image("data").versions] == [kept.id]
        assert full.catalog.resolve("data").id == kept.id
        assert verify(kept, full.store, full.key.public, silent, full.cancel) == ()
    finally:
        run(["umount", house.paths.blobs])


@pytest.mark.system
def test_a_disk_that_fills_up_with_the_torrent(house, open_house, tmp_path: Path) -> None:
    """The blob still fits, its torrent does not."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    house.paths.blobs.rmdir()
    house.paths.blobs.mkdir()
    pages = -(-3_000_000 // 4096)
    run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "rkpublish", house.paths.blobs])
    try:
        full = open_house(house.paths.directory)
        with pytest.raises(RookeryError) as caught:
            full.publisher.path(source, "data", "latest", silent, full.cancel)
        assert caught.value.kind is ErrorKind.NO_SPACE
        assert names(full.paths.blobs) == []
        assert full.catalog.images() == ()
    finally:
        run(["umount", house.paths.blobs])


def test_sweeping_takes_only_what_belongs_to_no_version(house, built: Built, tmp_path: Path) -> None:
    version = house.publisher.image("base", built(), "", None, silent, house.cancel)
    before = names(house.paths.blobs)
    orphan = tmp_path / "orphan"
    orphan.write_bytes(b"nobody's")
    digest, _ = house.store.put(orphan)
    house.store.put_torrent(digest, b"torrent")
    assert house.publisher.sweep() == (digest,)
    assert names(house.paths.blobs) == before
    house.catalog.remove_version(version.id)
    assert len(house.publisher.sweep()) == 3
    # Of the root, the index: nodes that have it are updated by it.
    assert names(house.paths.blobs) == [f"{digest_of(version, Role.ROOT)}.chunks"]


def test_the_index_of_a_removed_blob_is_forgotten_after_a_year(house, tmp_path: Path) -> None:
    digests = []
    for name in ("gone", "kept"):
        (tmp_path / name).write_bytes(os.urandom(100_000))
        version = house.publisher.path(tmp_path / name, name, "latest", silent, house.cancel)
        digests.append(digest_of(version, Role.DATA))
        past = time.time() - 2 * INDEX_SECONDS
        os.utime(house.store.chunks(digests[-1]), (past, past))
    house.catalog.remove_version(house.catalog.resolve("gone").id)
    house.publisher.sweep()
    assert [house.store.chunks(digest).exists() for digest in digests] == [False, True]
