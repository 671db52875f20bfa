# SPDX-License-Identifier: Apache-2.0
"""Two heads with keys of their own: one takes a version from the other by its ticket, and only what it lacks."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from rookery.api import capsules
from rookery.api.types import Job, JobState, NewTicket
from rookery.cli.main import EXIT_CODES
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.rows import Version
from rookery.head.progress import silent
from rookery.head.publish import remote_version

if TYPE_CHECKING:
    from conftest import RunningHead

pytestmark = pytest.mark.timeout(600)
SIZE, MORE = 12_000_000, 300_000


def ended(head: RunningHead, job: Job) -> Job:
    while job.ended_at is None:
        job = head.operator.job(job.id, after=job.revision, wait=10)
    return job


def publish(head: RunningHead, root: bytes, kernel: bytes, tag: str) -> Version:
    place = head.services.paths.work / f"built-{tag}"
    place.mkdir()
    parts = [place / name for name in ("root.squashfs", "kernel", "drivers.cpio")]
    for part, content in zip(parts, (root, kernel, b"drivers"), strict=True):
        part.write_bytes(content)
    built = BuiltImage(*parts, kernel_release="6.1.0", architecture="x86_64", packages={"bash": tag})
    version = head.services.publisher.image("base", built, f"# recipe {tag}\n", tag, silent, threading.Event())
    head.services.published.added(version)
    place.rmdir()
    return version


def publish_path(head: RunningHead, path: Path) -> Version:
    version = head.services.publisher.path(path, path.name, "latest", silent, threading.Event())
    head.services.published.added(version)
    return version


def ticket(head: RunningHead, reference: str) -> str:
    return head.operator.ticket(NewTicket(reference)).url


def take(other: RunningHead, url: str, name: str = "", tag: str = "latest") -> float:
    """Import; the megabytes that were moved."""
    job = ended(other, other.operator.take_in(capsules.Import(url, name, tag)))
    assert job.state is JobState.DONE, job.error
    assert list(other.services.paths.work.iterdir()) == []
    told = [event.message for event in other.operator.events().events if event.kind == "imported"]
    found = re.search(r" from http://\S+, ([\d.]+) MB moved of ([\d.]+) MB, that physics signed$", told[-1])
    assert found, told
    return float(found[1])


@pytest.fixture
def trusting(head: RunningHead, other: RunningHead) -> RunningHead:
    other.operator.trust(capsules.Trust(head.services.key.public, "physics"))
    return other


def test_only_what_this_head_lacks_is_moved(head: RunningHead, trusting: RunningHead) -> None:
    content, kernel = os.urandom(SIZE), os.urandom(SIZE // 4)
    first = publish(head, content, kernel, "v1")
    assert take(trusting, ticket(head, "base:v1"), "theirs") == pytest.approx((SIZE * 1.25 + 7) / 1e6, rel=0.01)
    second = publish(head, content[: SIZE // 2] + os.urandom(MORE) + content[SIZE // 2 :], kernel, "v2")
    # Chunks at both ends of the change, in blocks; nothing of the kernel.
    assert MORE <= take(trusting, ticket(head, "base:v2"), "theirs") * 1e6 < 2 * MORE
    for version, tag in ((first, "v1"), (second, "v2")):
        here = trusting.operator.version(f"theirs@{version.id}")
        assert (here.recipe, here.packages) == (f"# recipe {tag}\n", {"bash": tag})
        assert here.origin is not None
        assert here.origin.image == "base"
        for blob in here.version.blobs:
            ours, theirs = (site.services.store.path(blob.sha256) for site in (trusting, head))
            assert ours.read_bytes() == theirs.read_bytes()
    # Once more, also from a packed old version.
    assert take(trusting, ticket(head, "base:v2"), "again") == 0
    root = max(trusting.operator.version(f"theirs@{first.id}").version.blobs, key=lambda blob: blob.size).sha256
    assert trusting.services.store.pack(root) > 0
    third = publish(head, content + os.urandom(MORE), kernel, "v3")
    assert MORE <= take(trusting, ticket(head, "base:v3"), "theirs") * 1e6 < 2 * MORE
    assert trusting.operator.version("theirs").version.id == third.id


def test_files_and_trees(head: RunningHead, trusting: RunningHead, tmp_path: Path) -> None:
    tree, file = tmp_path / "models", tmp_path / "data"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/weights").write_bytes(os.urandom(300_000))
    file.write_bytes(os.urandom(200_000))
    for path in (tree, file):
        version = publish_path(head, path)
        take(trusting, ticket(head, path.name))
        assert trusting.operator.version(path.name).version.id == version.id
    (tree / "more").write_bytes(os.urandom(20_000))
    publish_path(head, tree)
    assert take(trusting, ticket(head, "models")) < 0.15


def test_a_key_that_is_not_trusted(head: RunningHead, other: RunningHead) -> None:
    publish(head, os.urandom(SIZE), b"kernel", "v1")
    url = ticket(head, "base:v1")
    info = other.operator.look_at(url)
    assert (info.key, info.site, info.image) == (head.services.key.public, "", "base")
    before = head.services.sent.bytes
    with pytest.raises(RookeryError, match="does not trust the key") as raised:
        other.operator.take_in(capsules.Import(url))
    assert raised.value.kind is ErrorKind.FORBIDDEN
    assert other.services.store.digests() == ()
    assert other.services.jobs.all() == ()
    assert head.services.sent.bytes == before
    # This once.
    job = ended(other, other.operator.take_in(capsules.Import(url, trust=info.fingerprint)))
    assert job.state is JobState.DONE, job.error


def test_urls_that_are_none(head: RunningHead, trusting: RunningHead) -> None:
    publish(head, b"root" * 10_000, b"kernel", "v1")
    publish(head, b"more" * 10_000, b"kernel", "v2")
    url = ticket(head, "base:v1")
    parts = urlsplit(url)
    words = {name: found[0] for name, found in parse_qs(parts.query).items()}
    stranger = trusting.services.key.public

    def changed(**more: str) -> str:
        return parts._replace(query=urlencode({**words, **more})).geturl()

    closed = changed().replace(f":{parts.port}/", ":9/")
    cases: tuple[tuple[str, ErrorKind, str], ...] = (
        (changed(ticket="wrong"), ErrorKind.UNAUTHORIZED, "answers: "),
        (changed(key=stranger), ErrorKind.CORRUPT, "another key than the URL names"),
        (url.replace(parts.path, "/fetch/base:v2"), ErrorKind.FORBIDDEN, "the ticket is for version"),
        (url.replace(parts.path, "/fetch/nothing"), ErrorKind.NOT_FOUND, "answers: "),
        (closed, ErrorKind.UNAVAILABLE, "cannot be asked"),
    )
    for wrong, kind, message in cases:
        with pytest.raises(RookeryError, match=message) as raised:
            trusting.operator.take_in(capsules.Import(wrong))
        assert (raised.value.kind, wrong) == (kind, wrong)
        assert words["ticket"] not in str(raised.value)
    assert trusting.services.store.digests() == ()


def test_cancelled_in_the_middle(
    head: RunningHead, trusting: RunningHead, tmp_path: Path, until: Callable[[Callable[[], object]], None]
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 200)
    publish_path(head, tmp_path / "large")
    job = trusting.operator.take_in(capsules.Import(ticket(head, "large")))
    work = trusting.services.paths.work
    until(lambda: list(work.glob("import-*/new/.*.part")))
    trusting.operator.cancel_job(job.id)
    job = ended(trusting, job)
    assert job.state is JobState.CANCELLED
    assert job.error is not None
    assert job.error.message == "importing was cancelled"
    assert list(work.iterdir()) == []
    assert trusting.services.store.digests() == ()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    def wait(there: Callable[[], object]) -> None:
        end = time.monotonic() + 120
        while not there():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


def test_exit_codes_are_the_command_lines() -> None:
    for code, kind in remote_version._KINDS.items():
        assert EXIT_CODES[kind] == code
