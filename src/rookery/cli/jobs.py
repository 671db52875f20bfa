# SPDX-License-Identifier: Apache-2.0
"""Following a job on the head: a progress bar while it runs, and Ctrl-C ends it there too."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from rookery.api.client import Client
from rookery.api.types import Job, JobProgress, JobState
from rookery.cli import render
from rookery.errors import ErrorKind, RookeryError

WAIT_SECONDS = 20.0
ENDED = {JobState.DONE, JobState.FAILED, JobState.CANCELLED}


class _Amount(ProgressColumn):
    """Done of total, in the unit of the work."""

    def render(self, task: Task) -> Text:
        """The cell of one task."""
        if not task.total:
            return Text("")
        if task.fields["unit"] == "bytes":
            return Text(f"{render.size(task.completed)} of {render.size(task.total)}")
        return Text(f"{task.completed:.0f} of {task.total:.0f}")


def follow(client: Client, begin: Callable[[], Job]) -> Job:
    """Begin a job, wait until it has ended and return it, showing where it is.

    Raises RookeryError: the job's own error, or `cancelled` when the user pressed Ctrl-C (the job is cancelled then).
    """
    ended = outcome(client, begin)
    require_done([ended])
    return ended


def require_done(ended: Iterable[Job]) -> None:
    """Raise the error of the first job that was not done."""
    for job in ended:
        if job.state is not JobState.DONE:
            raise RookeryError.from_record(job.error) if job.error else RookeryError(f"{job.kind} failed")


def reference(job: Job) -> str:
    """What a job made, as NAME@ID: the same content is one version, and may have several names."""
    return f"{job.subject}@{job.version}"


def outcome(client: Client, begin: Callable[[], Job]) -> Job:
    """As `follow`, but a job that failed is returned like any other. Raises RookeryError `cancelled` on Ctrl-C."""
    console = render.err()
    job: Job | None = None
    try:
        with _interrupt_held_back():
            job = begin()
        return _follow_bar(client, job, console) if console.is_terminal else _follow_lines(client, job, console)
    except KeyboardInterrupt:
        if job is None:
            raise
        client.cancel_job(job.id)
        raise RookeryError(f"{job.kind} of {job.subject} was cancelled", kind=ErrorKind.CANCELLED) from None


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block: a job whose id did not arrive yet could not be cancelled."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _follow_bar(client: Client, job: Job, console: Console) -> Job:
    with progress(console) as bar:
        task = bar.add_task(job.kind, total=None, unit="steps", line="")
        while job.state not in ENDED:
            now = job.progress
            bar.update(
                task,
                description=now.stage or str(job.state),
                total=now.total or None,
                completed=now.done,
                unit=now.unit,
                line=one_row(now.line),
            )
            job = client.job(job.id, after=job.revision, wait=WAIT_SECONDS)
    return job


def progress(console: Console) -> Progress:
    """A bar of one row, whatever a job says and however narrow the terminal is: what does not fit is cut off."""
    stage = TextColumn("{task.description}", markup=False, table_column=_cell(ratio=2))
    columns = (
        SpinnerColumn(),
        stage,
        BarColumn(bar_width=20),
        _Amount(table_column=_cell()),
        TimeElapsedColumn(table_column=_cell()),
        TextColumn("{task.fields[line]}", style="dim", markup=False, table_column=_cell(ratio=3)),
    )
    return Progress(*columns, console=console, transient=True, expand=True)


def one_row(line: str) -> str:
    """A tool's line without what moves the cursor."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in line).split())


def _cell(ratio: int | None = None) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", ratio=ratio)


def _follow_lines(client: Client, job: Job, console: Console) -> Job:
    last = ""
    while True:
        stage = _stage(job.progress) if job.state is JobState.RUNNING else str(job.state)
        if stage and stage != last and job.state not in ENDED:
            console.print(f"{job.kind} {job.subject}: {stage}", markup=False)
            last = stage
        if job.state in ENDED:
            return job
        job = client.job(job.id, after=job.revision, wait=WAIT_SECONDS)


def _stage(progress: JobProgress) -> str:
    return progress.stage
