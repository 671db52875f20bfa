# SPDX-License-Identifier: Apache-2.0
"""How things look on a terminal: consoles, tables, sizes, times, JSON."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rookery import codec

WIDE = 240  # columns where nobody looks: nothing is folded in a pipe or a log

STATE_STYLE = {
    "new": "dim",
    "discovered": "magenta",
    "waiting": "yellow",
    "booting": "cyan",
    "provisioning": "cyan",
    "ready": "green",
    "failed": "bold red",
    "queued": "dim",
    "running": "cyan",
    "done": "green",
    "cancelled": "yellow",
}


def out() -> Console:
    """The console for results: standard output."""
    return _console(sys.stdout.isatty(), stderr=False)


def err() -> Console:
    """The console for progress and remarks: standard error."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool) -> Console:
    width = None if terminal or "COLUMNS" in os.environ else WIDE
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def show_json(value: object) -> None:
    """A dataclass or plain value as indented JSON on standard output."""
    typer.echo(codec.dumps(value, indent=2))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[str] = (),
    folded: Sequence[str] | None = None,
) -> Table:
    """A plain table; the columns named in `right` are right-aligned. On a narrow terminal the columns named in `folded`
    give way, or all of them."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        stays = folded is not None and column not in folded
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=stays)
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return drawn


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values below each other; those without a value are left out."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold")
    drawn.add_column(overflow="fold")
    for name, value in rows:
        if value:
            drawn.add_row(Text(name), Text(value))
    return drawn


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=STATE_STYLE.get(name, ""))


def size(count: float) -> str:
    """Bytes for people: `127.4 MB` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def rate(count: float) -> str:
    """Bytes per second for people."""
    return f"{size(count)}/s"


def seconds(count: float) -> str:
    """A duration for people: `0.42 s`, `12.3 s`, `4 min 05 s`, `3 h 12 min`, `5 d`."""
    if count < 10:
        return f"{count:.2f} s"
    if count < 120:
        return f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d"


def moment(at: float | None) -> str:
    """A time for people, local, to the second; empty when there is none."""
    if at is None:
        return ""
    return dt.datetime.fromtimestamp(at, tz=dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(version: str) -> str:
    """The first digits of a version id, enough to name it."""
    return version[:12]


def share(part: float, whole: float) -> str:
    """A share in percent; empty when there is no whole."""
    return f"{100 * part / whole:.0f} %" if whole else ""


def nodes(count: int) -> str:
    """A number of nodes: `1 node`, `16 nodes`."""
    return f"{count} node{'' if count == 1 else 's'}"


def no_nodes(noderange: str) -> str:
    """What to say when a noderange, or the empty one for all nodes, has no node."""
    if noderange:
        return f"no node fits {noderange}"
    return "no nodes yet; 'rookery node add' names them, and machines that boot are discovered"


def examples(*lines: str) -> str:
    """The epilog of a command: one example a line, as typed."""
    return "\n\n".join(["[bold]Examples:[/bold]", *(f"  {line.replace('[', chr(92) + '[')}" for line in lines)])
