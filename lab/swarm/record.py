# SPDX-License-Identifier: Apache-2.0
"""What is kept of a run: rows with their limits, the machine, and the JSON file that holds them."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.swarm.crew import Member
from lab.swarm.measure import BUSY, Wire
from rookery import __version__, files
from rookery.run import run

_ADDED = ("last", "mean", "ratio", "commit")  # to a row in the file
POINTS = 60  # of one progress curve that is kept
FORMAT = 1


@dataclass(frozen=True)
class Check:
    """A limit of a row. what: in words. value: what was measured; None when it could not be. limit: at most this."""

    what: str
    value: float | None
    limit: float

    @property
    def held(self) -> bool:
        """Whether it is within its limit."""
        return self.value is not None and self.value <= self.limit


@dataclass(frozen=True)
class Row:
    """One run. part, case: what was run. nodes: how many took part. size: MB. rate: Mbit/s. system: whose.

    seconds: of each node that got the whole right file, from its own GO; missing: how many of those that should have it
    have not. alone: T(1) of this run, seconds. copies: wire bytes that left the head, divided by those of one copy by
    curl from nginx (headers cancel). wire_copies: the same divided by the file's size. payload_copies: payload that
    finished nodes got from the head, divided by the size. first_byte: seconds from joining the swarm to
    the first right bytes, the worst node; first_byte_go: from GO; start_cpu: percent of all cores until all had those,
    0 when it was not looked at. verify: seconds
    that the last digest took, the worst node. cpu: percent of all cores. curves: by node, (seconds from the start of
    the run, part of the file).
    """

    part: str
    case: str
    nodes: int
    size: int
    rate: int
    system: str = "rookery"
    seconds: tuple[float, ...] = ()
    missing: int = 0
    alone: float = 0.0
    copies: float = 0.0
    wire_copies: float = 0.0
    payload_copies: float = 0.0
    first_byte: float = 0.0
    first_byte_go: float = 0.0
    start_cpu: float = 0.0
    verify: float = 0.0
    cpu: float = 0.0
    checks: tuple[Check, ...] = ()
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def last(self) -> float:
        """Seconds of the last node."""
        return max(self.seconds, default=0.0)

    @property
    def mean(self) -> float:
        """Mean seconds of a node."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else 0.0

    @property
    def ratio(self) -> float:
        """The last node's time divided by T(1); 0 when there is none."""
        return self.last / self.alone if self.alone else 0.0

    @property
    def busy(self) -> bool:
        """Whether the processor is part of the result."""
        return self.cpu > BUSY

    @property
    def busy_start(self) -> bool:
        """Whether the processor is part of how soon something came."""
        return self.busy or self.start_cpu > BUSY

    @property
    def held(self) -> bool:
        """Whether all limits held."""
        return all(check.held for check in self.checks)


@dataclass(frozen=True)
class Measured:
    """What was measured of one run, before it is judged: the fields of a Row that every run has."""

    seconds: tuple[float, ...]
    missing: int
    copies: float
    wire_copies: float
    payload_copies: float
    first_byte: float
    first_byte_go: float
    start_cpu: float
    verify: float
    cpu: float
    curves: Mapping[str, Sequence[tuple[float, float]]]


def measured(
    members: Sequence[Member], wire: Wire, size: int, one_copy: int, sha256: str, began: float | None = None
) -> Measured:
    """What a run came to. size: bytes. one_copy: wire bytes of one copy by curl. sha256: of the file. began: of the
    run, CLOCK_MONOTONIC; the first GO when None. Nodes that were killed count in nothing but the curves."""
    staying = [member for member in members if not member.gone]
    right = [member for member in staying if member.done is not None and member.is_right(sha256)]
    began = min(member.began for member in members) if began is None else began
    return Measured(
        seconds=tuple(round(member.seconds, 3) for member in right),
        missing=len(staying) - len(right),
        copies=wire.sent / one_copy,
        wire_copies=wire.sent / size,
        payload_copies=sum(member.stats["bytes_from_head"] for member in right) / size,
        first_byte=max((member.first_byte for member in right), default=0.0),
        first_byte_go=max((member.first_byte_at - member.began for member in right), default=0.0),
        start_cpu=wire.percent_until(max((member.first_byte_at for member in right), default=0.0)),
        verify=max((float(member.stats["verify_seconds"]) for member in right), default=0.0),
        cpu=wire.cpu,
        curves={member.name: thinned(member.curve, began, size) for member in members},
    )


def thinned(curve: Sequence[tuple[float, int]], began: float, size: int) -> tuple[tuple[float, float], ...]:
    """A progress curve with few points: seconds from `began`, and the part of the file."""
    step = max(1, len(curve) // POINTS)
    kept = [*curve[:-1:step], *curve[-1:]]
    return tuple((round(when - began, 2), round(done / size, 4)) for when, done in kept)


def machine() -> dict[str, str]:
    """What the numbers were measured on, in words that name no place."""
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "libtorrent": _libtorrent(),
        "rookery": __version__,
    }


class Book:
    """The rows of all parts in one JSON file. A part that is run again replaces its rows; the others stay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, Any] = {}
        if path.exists():
            kept = json.loads(path.read_text())
            if kept.get("format") == FORMAT:
                self._parts = kept["parts"]

    @property
    def rows(self) -> dict[str, list[Row]]:
        """All rows by part."""
        return {name: [_row(raw) for raw in part["rows"]] for name, part in self._parts.items()}

    def machine(self, part: str) -> dict[str, str]:
        """What a part was measured on."""
        return dict(self._parts[part]["machine"])

    def commits(self, part: str) -> list[str]:
        """Of what code its rows are; `+` is behind one that was not all of the code. Rows from before commits were
        noted are `older ones`."""
        return sorted({row.get("commit") or "older ones" for row in self._parts[part]["rows"]})

    def put(self, part: str, rows: Iterable[Row], date: str, keep: bool = False) -> None:
        """Replace a part's rows and write the file. date: ISO, of the run. keep: those of another load, number of
        nodes or system stay, against the T(1) of their own run."""
        more = {"commit": _commit()}
        whole = [{**asdict(row), "last": row.last, "mean": row.mean, "ratio": row.ratio, **more} for row in rows]
        if keep and part in self._parts:
            new = {_key(row) for row in whole}
            whole += [row for row in self._parts[part]["rows"] if _key(row) not in new]
            whole.sort(key=lambda row: (row["size"], -row["rate"], row["nodes"]))
        self._parts[part] = {"date": date, "machine": machine(), "rows": whole}
        files.write_atomic(self._path, (json.dumps({"format": FORMAT, "parts": self._parts}) + "\n").encode(), 0o644)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["size"], row["rate"], row["nodes"], row["system"], row["case"]


def _row(raw: Mapping[str, Any]) -> Row:
    fields = {name: value for name, value in raw.items() if name not in _ADDED}
    fields["checks"] = tuple(Check(**check) for check in raw["checks"])
    fields["seconds"] = tuple(raw["seconds"])
    return Row(**fields)


def _commit() -> str:
    """The commit of the code that is here; empty where there is no git."""
    top = Path(__file__).resolve().parents[2]
    found = run(["git", "-C", top, "rev-parse", "--short", "HEAD"], check=False).stdout.strip()
    changed = run(["git", "-C", top, "status", "--porcelain", "--", "src", "lab"], check=False).stdout
    return f"{found}{'+' if changed else ''}"


def _libtorrent() -> str:
    words = [sys.executable, "-c", "import libtorrent; print(libtorrent.__version__)"]
    return run(words, check=False).stdout.strip()
