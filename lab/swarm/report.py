# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/benchmarks/swarm.md, from the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from lab.swarm.record import Book, Check, Row

TITLES = {
    "together": "All start together",
    "arrivals": "They come when they come",
    "unequal": "A quarter of the nodes at a tenth of the rate",
    "faults": "Faults",
    "racks": "Racks with oversubscribed uplinks",
    "trees": "The shape of more than 64 nodes",
    "others": "Against the others",
}
PLOTS = {
    "together": ("swarm-scale.svg", "swarm-progress.svg"),
    "faults": ("swarm-faults.svg",),
    "racks": ("swarm-racks.svg",),
    "others": ("swarm-others.svg",),
}
COLUMNS = ("N", "last, s", "mean, s", "÷ T(1)", "copies", "payload", "first byte, s", "CPU, %", "")
NOTHING = "\N{EN DASH}"
HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
# The swarm, measured

`make bench-swarm` wrote this page, [swarm.json](swarm.json) with every number, and the plots. The head is the real
one (`rookery serve`), every node is a process of its own with the real fetch code, each in a network namespace whose
link is shaped both ways (tbf). Rookery's nodes have TCP timestamps off, as its agent has them (`node/timestamps.py`; in
rows of 6ed2014 and later); all else is as the kernel sets it. In rows of 6ed2014 and 693150c they had also looked up
the types of their orders before they began, 5 ms of processor for each. All of it shares the cores of one machine.
Parts are measured one by one, some with other numbers than the defaults (`ARGS="--only together --rate 12 --nodes 64
--keep"`); each row stands against T(1) of its own run. Which row is of which commit is in swarm.json.

- **last**, **mean**: seconds from a node's start until it has the whole file and its SHA-256 is right.
- **÷ T(1)**: the last node's time over that of one node alone, of the same run.
- **copies**: bytes on the wire that left the head, over those of one copy by curl from nginx. A bundle of TCP segments
  counts with one header, a multicast datagram with its own, so multicast is some 4 % better than it looks here.
- **payload**: copies again, as finished nodes count what they got from the head, without headers.
- **first byte**: seconds from joining the swarm until the first right bytes are in the file, of the worst node; in
  brackets from its start: before it joins, it reads the offer and checks its signature.
- **CPU**: load of all cores together over the run. **!** marks a run with more than 80 %: there the processor is part
  of the result, and a machine with more cores would do better. **start**: the same until all had their first bytes, if
  that was more than 80 %.
"""


def text(book: Book) -> str:
    """The whole page."""
    pieces = [HEAD]
    rows = book.rows
    for part, title in TITLES.items():
        if part in rows:
            pieces.append(_part(part, title, rows[part], _measured_on(book, part)))
    return "\n".join(pieces)


def shown(rows: Sequence[Row]) -> str:
    """The tables of some rows, for a terminal."""
    parts = groupby(rows, key=lambda row: row.part)
    return "\n".join("\n".join([f"## {TITLES[part]}", "", *_tables(part, list(group))]) for part, group in parts)


def _measured_on(book: Book, part: str) -> str:
    words = ", ".join(f"{name} {value}" for name, value in book.machine(part).items())
    commits = book.commits(part)
    return f"Measured on: {words}, commit {', '.join(commits)}."


def _part(part: str, title: str, rows: Sequence[Row], measured_on: str) -> str:
    lines = [f"## {title}", "", measured_on, ""]
    for name in PLOTS.get(part, ()):
        lines += [f"![{title}]({name})", ""]
    return "\n".join([*lines, *_tables(part, rows)])


def _tables(part: str, rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    for _, group in groupby(rows, key=lambda row: (row.size, row.rate)):
        lines += [*_table(list(group), part == "others"), ""]
    return [*lines, *_limits(rows), ""]


def _table(rows: Sequence[Row], systems: bool) -> list[str]:
    first = rows[0]
    lines = [
        f"{first.size} MB, links of {first.rate} Mbit/s (the bare bytes take {first.size * 8 / first.rate:.1f} s)",
        "",
        f"| {'system' if systems else 'case'} | {' | '.join(COLUMNS)} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    if curl := first.more.get("curl"):
        lines.append(f"| curl from nginx | 1 | {curl:.2f} | {curl:.2f} | {curl / first.alone:.3f} | 1.000 | | | | |")
    lines += [_line(row, systems) for row in rows]
    return lines


def _line(row: Row, systems: bool) -> str:
    ours = row.system in ("rookery", "Rookery")
    name = row.system.capitalize() if systems and ours else row.system if systems else row.case
    name = f"**{name}**" if systems and ours else name
    cells = [name, str(row.nodes), *[NOTHING] * 4, "", "", _load(row), row.note]
    if row.seconds:
        cells[2:6] = [f"{row.last:.2f}", f"{row.mean:.2f}", f"{row.ratio:.3f}", f"{row.copies:.3f}"]
    if row.seconds and row.payload_copies:
        cells[6:8] = [f"{row.payload_copies:.3f}", _first(row)]
    return f"| {' | '.join(cells)} |"


def _first(row: Row) -> str:
    return f"{row.first_byte:.2f}" + (f" ({row.first_byte_go:.2f})" if row.first_byte_go else "")


def _load(row: Row) -> str:
    start = f", start {row.start_cpu:.0f} **!**" if row.busy_start and not row.busy else ""
    return f"{row.cpu:.0f}{' **!**' if row.busy else ''}{start}"


def _limits(rows: Iterable[Row]) -> list[str]:
    lines = ["| limit | MB, Mbit/s | N | measured | at most | held |", "|---|---|---|---|---|---|"]
    for row in rows:
        of = f"{row.case}: " if row.case not in ("together", "race") else ""
        lines += [_limit(of, row, check) for check in row.checks]
    return lines


def _limit(of: str, row: Row, check: Check) -> str:
    measured = NOTHING if check.value is None else f"{check.value:.0f}" if check.limit == 0 else f"{check.value:.3f}"
    held = "yes" if check.held else "**no**"
    if not check.held and (row.busy_start if check.what.startswith("first byte") else row.busy):
        held += " (processor)"
    return f"| {of}{check.what} | {row.size}, {row.rate} | {row.nodes} | {measured} | {check.limit:g} | {held} |"
