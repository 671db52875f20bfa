# SPDX-License-Identifier: Apache-2.0
"""Long work on the head: a few threads, progress that others can wait for, cancellation, and a short memory."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rookery.errors import ErrorKind, ErrorRecord, RookeryError, record_of
from rookery.head.progress import OnProgress, Progress
from rookery.log import logger

log = logger(__name__)

# What a job does: given progress and cancel, it returns the id of the version that came of it.
Work = Callable[[OnProgress, threading.Event], str]

AT_ONCE = 2
MOST_QUEUED = 16
KEPT = 100


@dataclass(frozen=True)
class JobRecord:
    """A snapshot of a job. state: queued, running, done, failed or cancelled. revision grows with every change.
    result: the version id, when done. error: when failed or cancelled. Times in seconds since 1970."""

    id: str
    kind: str
    subject: str
    started_at: float
    state: str = "queued"
    revision: int = 0
    ended_at: float | None = None
    progress: Progress = field(default_factory=lambda: Progress(""))
    result: str = ""
    error: ErrorRecord | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended_at is not None


class Jobs:
    """Runs work in threads of its own: `at_once` at a time, the others wait their turn in order.

    on_failed: told each job that failed, or was cancelled while it ran.
    """

    def __init__(self, at_once: int = AT_ONCE, on_failed: Callable[[JobRecord], object] | None = None) -> None:
        self._on_failed = on_failed or (lambda _record: None)
        self._changed = threading.Condition()
        self._records: OrderedDict[str, JobRecord] = OrderedDict()
        self._cancels: dict[str, threading.Event] = {}
        self._queue: deque[tuple[str, Work]] = deque()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"job-{index}", daemon=True) for index in range(at_once)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, kind: str, subject: str, work: Work) -> JobRecord:
        """Queue a job. Raises `unavailable` when too many wait already, or when the head is stopping."""
        with self._changed:
            if self._stopping:
                raise RookeryError("the head is stopping", kind=ErrorKind.UNAVAILABLE)
            if len(self._queue) >= MOST_QUEUED:
                raise RookeryError(
                    f"{len(self._queue)} jobs are waiting already",
                    kind=ErrorKind.UNAVAILABLE,
                    hint="wait until one has ended, or cancel one",
                )
            record = JobRecord(secrets.token_hex(8), kind, subject, time.time())
            self._records[record.id] = record
            self._cancels[record.id] = threading.Event()
            self._queue.append((record.id, work))
            self._forget_old()
            self._changed.notify_all()
        return record

    def all(self) -> tuple[JobRecord, ...]:
        """Every job that is remembered, newest first."""
        with self._changed:
            return tuple(reversed(self._records.values()))

    def get(self, job_id: str) -> JobRecord:
        """A job as it is now. Raises `not-found`."""
        with self._changed:
            return self._get(job_id)

    def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to end; a queued one ends at once. An ended job stays as it is."""
        with self._changed:
            record = self._get(job_id)
            if record.ended:
                return record
            self._cancels[job_id].set()
            if record.state == "queued":
                self._queue = deque(item for item in self._queue if item[0] != job_id)
                self._end(
                    job_id, state="cancelled", error=ErrorRecord(ErrorKind.CANCELLED, "cancelled before it began")
                )
            return self._get(job_id)

    def stop(self, seconds: float = 10.0) -> None:
        """Cancel everything and wait until the threads have ended, `seconds` at most."""
        with self._changed:
            self._stopping = True
            waiting = [job_id for job_id, record in self._records.items() if not record.ended]
        for job_id in waiting:
            with contextlib.suppress(RookeryError):
                self.cancel(job_id)
        with self._changed:
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _get(self, job_id: str) -> JobRecord:
        try:
            return self._records[job_id]
        except KeyError:
            raise RookeryError(
                f"no job {job_id[:40]!r}", kind=ErrorKind.NOT_FOUND, hint="the head remembers the last ones only"
            ) from None

    def _forget_old(self) -> None:
        ended = [job_id for job_id, record in self._records.items() if record.ended]
        for job_id in ended[: max(0, len(self._records) - KEPT)]:
            del self._records[job_id]
            del self._cancels[job_id]

    def _update(self, job_id: str, **changes: object) -> None:
        record = self._records[job_id]
        self._records[job_id] = replace(record, revision=record.revision + 1, **changes)  # type: ignore[arg-type]
        self._changed.notify_all()

    def _end(self, job_id: str, **changes: object) -> None:
        self._update(job_id, ended_at=time.time(), **changes)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return
                job_id, work = self._queue.popleft()
                cancel = self._cancels[job_id]
                self._update(job_id, state="running")
            self._work(job_id, work, cancel)

    def _work(self, job_id: str, work: Work, cancel: threading.Event) -> None:
        def on_progress(progress: Progress) -> None:
            with self._changed:
                self._update(job_id, progress=progress)

        try:
            result = work(on_progress, cancel)
        except Exception as error:  # whatever a job raises is its own result; the thread goes on
            record = record_of(error)
            if record.kind is ErrorKind.INTERNAL:
                log.exception("job %s failed", job_id)
            cancelled = record.kind is ErrorKind.CANCELLED
            with self._changed:
                self._end(job_id, state="cancelled" if cancelled else "failed", error=record)
                ended = self._records[job_id]
            try:
                self._on_failed(ended)
            except RookeryError as other:  # of a full disk, say
                log.error("job %s is not remembered: %s", job_id, other)
        else:
            with self._changed:
                self._end(job_id, state="done", result=result)
