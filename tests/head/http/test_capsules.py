# SPDX-License-Identifier: Apache-2.0
"""Two heads with keys of their own: what one exports, the other takes in when it trusts the first."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.api import capsules
from rookery.api.types import Job, JobState, VersionDetails
from rookery.api.versions import Collect, Compare
from rookery.errors import ErrorKind, RookeryError
from rookery.head.http.idle import pack_idle
from rookery.head.progress import silent
from rookery.node.trust import open_manifest
from rookery.wire.capsule import fingerprint
from rookery.wire.manifest import parse_payload

if TYPE_CHECKING:
    from conftest import RunningHead


def ended(head: RunningHead, job: Job) -> Job:
    while job.ended_at is None:
        job = head.operator.job(job.id, after=job.revision, wait=10)
    return job


def done(head: RunningHead, job: Job) -> Job:
    job = ended(head, job)
    assert job.state is JobState.DONE, job.error
    return job


@pytest.fixture
def exported(head: RunningHead, tmp_path: Path) -> tuple[Path, VersionDetails]:
    """An image of the first site, in a capsule."""
    version = head.publish_image()
    path = tmp_path / "base.capsule"
    job = done(head, head.operator.export(capsules.Export("base", str(path))))
    assert job.version == version.id
    return path, head.operator.version("base")


def trust(other: RunningHead, head: RunningHead) -> None:
    other.operator.trust(capsules.Trust(head.services.key.public, "physics"))


def test_a_round_trip(head: RunningHead, other: RunningHead, exported: tuple[Path, VersionDetails]) -> None:
    path, there = exported
    trust(other, head)
    info = other.operator.look_at(str(path))
    assert (info.version, info.site, info.size) == (there.version.id, "physics", path.stat().st_size)
    job = done(other, other.operator.take_in(capsules.Import(str(path), "their-base", "testing")))
    assert job.progress.unit == "steps"  # the last stage: publishing
    here = other.operator.version("their-base:testing")
    assert here.version.id == there.version.id
    assert (here.recipe, here.packages) == (there.recipe, there.packages)
    assert [(b.role, b.name, b.size, b.sha256) for b in here.version.blobs] == [
        (b.role, b.name, b.size, b.sha256) for b in there.version.blobs
    ]
    for blob in there.version.blobs:
        ours, theirs = other.services.store.path(blob.sha256), head.services.store.path(blob.sha256)
        assert ours.read_bytes() == theirs.read_bytes()
    # Nodes of this site believe it, and nobody has to ask the first site's key.
    stored = other.services.catalog.resolve("their-base:testing").manifest
    manifest = open_manifest(stored, other.services.key.public)
    original = parse_payload(head.services.catalog.resolve("base").manifest.signed_bytes)
    assert (manifest.image, manifest.created) == ("their-base", original.created)
    assert (manifest.architecture, manifest.kernel_release) == (original.architecture, original.kernel_release)
    origin = here.origin
    assert origin is not None
    assert (origin.fingerprint, origin.image) == (fingerprint(head.services.key.public), "base")
    assert origin.created == original.created <= origin.exported_at <= origin.imported_at
    assert other.operator.history("their-base").entries[0].source.startswith("capsule: base of site")
    # It is given to the swarm like any other.
    assert {item.sha256 for item in other.operator.head().seeding} == {
        blob.sha256 for blob in here.version.blobs if blob.info_hash
    }


def test_an_unknown_signer_is_refused(
    head: RunningHead, other: RunningHead, exported: tuple[Path, VersionDetails]
) -> None:
    path, there = exported
    key = head.services.key.public
    assert other.operator.look_at(str(path)).site == ""
    wrong_ones = ("", "ab" * 32, fingerprint("ab" * 32), key[:32], "0")
    for wrong in wrong_ones:
        with pytest.raises(RookeryError, match=fingerprint(key)) as raised:
            other.operator.take_in(capsules.Import(str(path), trust=wrong))
        assert raised.value.kind is ErrorKind.FORBIDDEN
        assert f"rookery trust add {key}" in raised.value.record.hint
    assert other.operator.images().images == ()
    # Once, by its fingerprint; which does not make it trusted.
    done(other, other.operator.take_in(capsules.Import(str(path), trust=fingerprint(key))))
    assert other.operator.version("base").version.id == there.version.id
    assert other.operator.trusted_keys().keys == ()
    with pytest.raises(RookeryError):
        other.operator.take_in(capsules.Import(str(path)))


def test_trust_is_given_and_taken(head: RunningHead, other: RunningHead, exported: tuple[Path, VersionDetails]) -> None:
    path, _there = exported
    trust(other, head)
    found = other.operator.trusted_keys()
    assert [(known.name, known.fingerprint) for known in found.keys] == [
        ("physics", fingerprint(head.services.key.public))
    ]
    assert found.own.key == other.services.key.public
    done(other, other.operator.take_in(capsules.Import(str(path))))
    assert other.operator.distrust(found.keys[0].fingerprint).removed == ("physics",)
    with pytest.raises(RookeryError) as raised:
        other.operator.take_in(capsules.Import(str(path)))
    assert raised.value.kind is ErrorKind.FORBIDDEN
    assert other.operator.version("base").origin is not None  # what is here stays
    with pytest.raises(RookeryError, match="no trusted key"):
        other.operator.distrust("physics")
    for key in ("xyz", other.services.key.public):
        with pytest.raises(RookeryError):
            other.operator.trust(capsules.Trust(key, "name"))


def test_ones_own_capsule_brings_back_what_was_removed(
    head: RunningHead, exported: tuple[Path, VersionDetails]
) -> None:
    path, there = exported
    head.operator.remove_image("base")
    assert head.services.store.digests() == ()
    done(head, head.operator.take_in(capsules.Import(str(path))))
    back = head.operator.version("base")
    assert (back.version.id, back.origin) == (there.version.id, None)


def test_a_damaged_capsule_leaves_nothing(
    head: RunningHead, other: RunningHead, exported: tuple[Path, VersionDetails]
) -> None:
    path, _there = exported
    trust(other, head)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    job = ended(other, other.operator.take_in(capsules.Import(str(path))))
    assert job.error is not None
    assert (job.state, job.error.kind) == (JobState.FAILED, ErrorKind.CORRUPT)
    assert "another digest" in job.error.message
    assert other.operator.images().images == ()
    assert list(other.services.store.directory.iterdir()) == []


@contextlib.contextmanager
def web(directory: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_from_a_web_server(head: RunningHead, other: RunningHead, exported: tuple[Path, VersionDetails]) -> None:
    path, there = exported
    trust(other, head)
    with web(path.parent) as url:
        done(other, other.operator.take_in(capsules.Import(f"{url}/base.capsule")))
        with pytest.raises(RookeryError, match="404") as raised:
            other.operator.look_at(f"{url}/none.capsule")
        assert raised.value.kind is ErrorKind.NOT_FOUND
    assert other.operator.version("base").version.id == there.version.id
    with pytest.raises(RookeryError, match="cannot be read") as raised:
        other.operator.look_at(f"{url}/base.capsule")
    assert raised.value.kind is ErrorKind.UNAVAILABLE


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("relative.capsule", ErrorKind.INVALID),
        ("file:///etc/passwd", ErrorKind.INVALID),
        ("/nonexistent", ErrorKind.NOT_FOUND),
        ("/etc", ErrorKind.INVALID),
        ("/etc/passwd", ErrorKind.INVALID),
        ("/dev/zero", ErrorKind.INVALID),
        ("http://", ErrorKind.UNAVAILABLE),
    ],
)
def test_what_is_no_capsule(lasting_head: RunningHead, source: str, kind: ErrorKind) -> None:
    with pytest.raises(RookeryError) as raised:
        lasting_head.operator.look_at(source)
    assert raised.value.kind is kind


def test_a_version_that_is_exported_is_not_collected(head: RunningHead, tmp_path: Path) -> None:
    """While a job writes it, the version has lost its tag and is collected: it stays."""
    old = head.publish_image(size=30_000_000)
    head.publish_image()
    job = head.operator.export(capsules.Export(f"base@{old.id}", str(tmp_path / "old.capsule")))
    seen = []
    while job.ended_at is None:
        seen += [item.reason for item in head.operator.collect(Collect(dry_run=True)).staying]
        job = head.operator.job(job.id)
    assert job.state is JobState.DONE
    assert "a job exports it" in seen
    assert [version.id for version in head.operator.collect(Collect()).going] == [old.id]


def test_a_version_that_is_packed_is_exported_and_compared_whole(
    head: RunningHead, other: RunningHead, tmp_path: Path
) -> None:
    content, versions = os.urandom(3_000_000), []
    services = head.services
    for data in (content, content[:1_500_000] + b"put in" + content[1_500_000:]):
        (tmp_path / "data.img").write_bytes(data)
        made = services.publisher.path(tmp_path / "data.img", "data", "latest", silent, threading.Event())
        services.published.added(made)
        versions.append(made)
    old = versions[0]
    (blob,) = parse_payload(old.manifest.signed_bytes).blobs
    assert pack_idle(services, silent, threading.Event()) > 0
    assert services.store.is_packed(blob.sha256)
    compared = done(head, head.operator.compare(Compare(f"data@{old.id}", "data")))
    assert head.operator.difference(compared.id).transfer < 1_000_000
    path = tmp_path / "old.capsule"
    done(head, head.operator.export(capsules.Export(f"data@{old.id}", str(path))))
    trust(other, head)
    done(other, other.operator.take_in(capsules.Import(str(path))))
    assert other.services.store.path(blob.sha256).read_bytes() == content
