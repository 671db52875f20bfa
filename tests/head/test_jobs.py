# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head import jobs
from rookery.head.jobs import JobRecord, Jobs
from rookery.head.progress import OnProgress, Progress


@pytest.fixture
def runner() -> Iterator[Jobs]:
    made = Jobs(at_once=1)
    yield made
    made.stop()


def ended(runner: Jobs, job_id: str) -> JobRecord:
    waiting = threading.Event()
    while not runner.get(job_id).ended:
        waiting.wait(0.01)
    return runner.get(job_id)


def until_cancelled(_on_progress: OnProgress, cancel: threading.Event) -> str:
    cancel.wait()
    raise RookeryError("stopped", kind=ErrorKind.CANCELLED)


def test_progress_and_result(runner: Jobs) -> None:
    go_on = threading.Event()

    def work(on_progress: OnProgress, _cancel: threading.Event) -> str:
        on_progress(Progress("half", 1, 2))
        go_on.wait()
        return "abc"

    job_id = runner.start("build", "base", work).id
    waiting = threading.Event()
    while not runner.get(job_id).progress.stage:
        waiting.wait(0.01)
    half = runner.get(job_id)
    assert (half.state, half.progress.done) == ("running", 1)
    go_on.set()
    done = ended(runner, job_id)
    assert (done.state, done.result, done.error) == ("done", "abc", None)
    assert done.revision > half.revision


def test_errors_are_records(runner: Jobs) -> None:
    def ours(_on_progress: OnProgress, _cancel: threading.Event) -> str:
        raise RookeryError("no good", kind=ErrorKind.INVALID, hint="another")

    def fault(_on_progress: OnProgress, _cancel: threading.Event) -> str:
        raise ZeroDivisionError("oh")

    first, second = (runner.start("build", "base", work).id for work in (ours, fault))
    error = ended(runner, first).error
    assert error is not None
    assert (error.kind, error.message, error.hint) == (ErrorKind.INVALID, "no good", "another")
    error = ended(runner, second).error
    assert error is not None
    assert error.kind is ErrorKind.INTERNAL


def test_what_failed_is_told_and_what_cannot_be_remembered_stops_nothing() -> None:
    told: list[jobs.JobRecord] = []

    def remember(record: jobs.JobRecord) -> None:
        told.append(record)
        raise RookeryError("the disk is full", kind=ErrorKind.NO_SPACE)

    def fails(_on_progress: OnProgress, _cancel: threading.Event) -> str:
        raise RookeryError("no good")

    runner = Jobs(at_once=1, on_failed=remember)
    try:
        for _ in range(2):
            assert ended(runner, runner.start("build", "base", fails).id).state == "failed"
        ended(runner, runner.start("publish", "file", lambda _on_progress, _cancel: "").id)
    finally:
        runner.stop()
    assert [(record.kind, record.subject, record.state) for record in told] == [("build", "base", "failed")] * 2


def test_one_at_a_time_and_cancelled_in_the_queue(runner: Jobs) -> None:
    first = runner.start("build", "one", until_cancelled).id
    second = runner.start("build", "two", until_cancelled).id
    assert runner.get(second).state == "queued"
    assert runner.cancel(second).state == "cancelled"
    runner.cancel(first)
    assert ended(runner, first).state == "cancelled"
    assert [record.subject for record in runner.all()] == ["two", "one"]
    assert runner.cancel(first).state == "cancelled"


def test_limits(runner: Jobs) -> None:
    running = runner.start("build", "base", until_cancelled).id
    waiting = threading.Event()
    while runner.get(running).state != "running":
        waiting.wait(0.01)
    for _ in range(jobs.MOST_QUEUED):
        runner.start("build", "base", until_cancelled)
    with pytest.raises(RookeryError) as raised:
        runner.start("build", "base", until_cancelled)
    assert raised.value.kind is ErrorKind.UNAVAILABLE
    with pytest.raises(RookeryError, match="no job"):
        runner.get("nothing")


def test_only_the_last_ones_are_remembered(runner: Jobs) -> None:
    ids = []
    for _ in range(jobs.KEPT + 5):
        ids.append(runner.start("publish", "file", lambda _on_progress, _cancel: "").id)
        ended(runner, ids[-1])
    assert len(runner.all()) <= jobs.KEPT + 1
    assert runner.get(ids[-1]).state == "done"
    with pytest.raises(RookeryError):
        runner.get(ids[0])


def test_stop_cancels_and_ends_the_threads() -> None:
    runner = Jobs(at_once=1)
    first = runner.start("build", "base", until_cancelled).id
    second = runner.start("build", "base", until_cancelled).id
    runner.stop()
    assert {runner.get(first).state, runner.get(second).state} == {"cancelled"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("job-")]
    with pytest.raises(RookeryError, match="stopping"):
        runner.start("build", "base", until_cancelled)
