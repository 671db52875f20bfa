# SPDX-License-Identifier: Apache-2.0
"""Builds asked of a running head: from a recipe to a published version, and what is left when one fails."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import archives
from lab.archives import Package
from rookery.api.types import Build, Job, JobState
from rookery.head.build.image import failed
from rookery.run import run

if TYPE_CHECKING:
    from conftest import RunningHead

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

RECIPE = """
distribution = "rocky"
suite = "9"
kernel = "kernel"
packages = ["tiny-root", "ping"]
commands = [{commands}]

[[repositories]]
name = "site"
url = "file://{place}"
key = "site.asc"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a signed repository, and its key beside it."""
    top, machine = tmp_path_factory.mktemp("builds"), platform.machine()
    ping = Package(
        "ping",
        files={"/usr/bin/ping": b"#!/bin/sh\n"},
        modes={"/usr/bin/ping": 0o755},
        attributes={"/usr/bin/ping": "%caps(cap_net_raw=ep)"},
        scripts={"post": "echo ran > /var/log/../ping-was-set-up"},
        architecture=machine,
        requires=("tiny-root",),
    )
    (top / "packages").mkdir()
    with archives.signing_key(top / "gpg") as key:
        for package in (archives.tiny_root(machine), archives.tiny_kernel(top, machine), ping):
            archives.rpm(package, top / "packages", key)
        archives.rpm_repository(top / "packages")
        (top / "site.asc").write_text(key.armor)
    yield top
    run(["rm", "-rf", top])


def followed(head: RunningHead, job: Job) -> Job:
    while job.state in (JobState.QUEUED, JobState.RUNNING):
        job = head.operator.job(job.id, after=job.revision, wait=20)
    return job


def build(head: RunningHead, place: Path, commands: str = "") -> Job:
    text = RECIPE.format(place=place / "packages", commands=commands)
    return followed(head, head.operator.build(Build("base", text, "base.toml", str(place))))


def test_a_built_root_is_published_with_capabilities_and_what_scripts_did(head: RunningHead, place: Path) -> None:
    job = build(head, place)
    assert job.state is JobState.DONE, job.error
    version = head.operator.version(job.version)
    assert version.packages["ping"] == "1.0-1"
    (blob,) = [blob for blob in version.version.blobs if blob.role == "root"]
    root = place / "root"
    run(["unsquashfs", "-quiet", "-no-progress", "-d", root, head.services.store.path(blob.sha256)])
    try:
        assert "cap_net_raw=ep" in run(["getcap", root / "usr/bin/ping"]).stdout
        assert (root / "var/ping-was-set-up").read_text() == "ran\n"
    finally:
        run(["rm", "-rf", root])


def test_a_build_that_fails_half_way_publishes_nothing_and_keeps_its_tree(head: RunningHead, place: Path) -> None:
    job = build(head, place, '"echo was here > /root/trace", "echo oh no >&2; exit 3"')
    assert job.state is JobState.FAILED
    assert job.error is not None
    kept = head.services.paths.work / failed("base")
    assert "'echo oh no >&2; exit 3'" in job.error.message
    assert str(kept) in job.error.details
    assert (kept / "root/trace").read_text() == "was here\n"
    assert head.operator.images().images == ()
    assert head.services.store.digests() == ()
    assert str(head.services.paths.work) not in Path("/proc/self/mountinfo").read_text()


def test_a_build_that_is_cancelled_leaves_nothing(head: RunningHead, place: Path) -> None:
    text = RECIPE.format(place=place / "packages", commands='"echo waiting; sleep 600"')
    job = head.operator.build(Build("base", text, "base.toml", str(place)))
    while job.progress.line != "waiting":
        assert job.state in (JobState.QUEUED, JobState.RUNNING), job.error
        job = head.operator.job(job.id, after=job.revision, wait=20)
    head.operator.cancel_job(job.id)
    assert followed(head, job).state is JobState.CANCELLED
    assert list(head.services.paths.work.glob("build-*")) == []
    assert head.operator.images().images == ()
