# SPDX-License-Identifier: Apache-2.0
"""The plots of docs/benchmarks, from the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.figures import DARK, LIMIT, OURS, STYLE, THEIRS
from lab.swarm.record import Row

SHADES = ("#0b6e99", "#5aa9c8", "#123f52")
Rows = Sequence[Row]


def draw(rows: Mapping[str, Rows], output: Path, kind: str = "svg") -> list[Path]:
    """Write every plot that there are rows for; the files. kind: svg or png."""
    made = []
    with mpl.rc_context(STYLE):
        for name, figure in _figures(rows):
            path = output / f"swarm-{name}.{kind}"
            figure.savefig(path, metadata={"Date": None} if kind == "svg" else None, bbox_inches="tight", dpi=110)
            made.append(path)
    return made


def _figures(rows: Mapping[str, Rows]) -> list[tuple[str, Figure]]:
    found = []
    if together := [row for row in rows.get("together", ()) if row.seconds]:
        found.append(("scale", _scale(together, rows.get("others", ()))))
        found.append(("progress", _progress(max(together, key=lambda row: (min(row.nodes, 16), -row.nodes)))))
    if broken := [row for row in rows.get("faults", ()) if row.case != "alone"]:
        found.append(("faults", _faults(broken)))
    if racked := [row for row in rows.get("racks", ()) if "into" in row.more]:
        found.append(("racks", _racks(racked[-1])))
    if raced := [row for row in rows.get("others", ()) if row.case == "race" and row.seconds and not row.missing]:
        found.append(("others", _others(raced)))
    return found


def _load(row: Row) -> tuple[int, int]:
    """Its size (MB) and rate (Mbit/s)."""
    return row.size, row.rate


def _fullest(rows: Rows, key: Callable[[Row], tuple[int, ...]]) -> list[Row]:
    """The rows that have one value of `key` in common: that of most rows, the largest of several."""
    counted = Counter(key(row) for row in rows)
    chosen = max(counted, key=lambda value: (counted[value], value), default=())
    return [row for row in rows if key(row) == chosen]


def _scale(rows: Rows, others: Rows) -> Figure:
    figure, (time, copies) = _axes(2, 4.0)
    raced = _fullest([row for row in others if row.case == "race" and row.seconds and not row.missing], _load)
    theirs = sorted({row.system for row in raced if row.system != "Rookery"})
    most = max(row.nodes for row in rows)
    for system in theirs:
        of = sorted((row for row in raced if row.system == system), key=lambda row: row.nodes)
        label = f"others, {of[0].size} MB at {of[0].rate} Mbit/s" if system == theirs[0] else None
        time.plot([row.nodes for row in of], [row.ratio for row in of], color=THEIRS, lw=1, marker=".", label=label)
        copies.plot([row.nodes for row in of], [row.copies for row in of], color=THEIRS, lw=1, marker=".")
    for load, shade in zip(sorted({(row.size, row.rate) for row in rows}), SHADES, strict=False):
        of = sorted((row for row in rows if (row.size, row.rate) == load), key=lambda row: row.nodes)
        label = f"Rookery, {load[0]} MB at {load[1]} Mbit/s"
        time.plot([row.nodes for row in of], [row.ratio for row in of], color=shade, lw=2, marker="o", label=label)
        copies.plot([row.nodes for row in of], [row.copies for row in of], color=shade, lw=2, marker="o")
        busy = [row for row in of if row.busy]
        time.plot(
            [row.nodes for row in busy],
            [row.ratio for row in busy],
            ls="",
            marker="o",
            ms=11,
            mfc="none",
            mec=LIMIT,
            label="the processor is the limit" if busy else None,
        )
    top = max(1.5, *(row.ratio * 1.15 for row in rows), *(row.copies * 1.15 for row in rows))
    top = max(top, 4.2) if raced else top
    for axes, limit, title in (
        (time, 1.05, "time of the last node ÷ T(1)"),
        (copies, 1.10, "copies that left the head"),
    ):
        axes.axhline(1.0, color=DARK, lw=1, ls=":", label="ideal" if axes is time else None)
        axes.axhline(limit, color=LIMIT, lw=1, ls="--", label="limit (1.05 and 1.1)" if axes is time else None)
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(most.bit_length())]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("nodes that start together")
        axes.set_title(title, loc="left")
        axes.set_ylim(0, top)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _progress(row: Row) -> Figure:
    figure, (axes,) = _axes(1, 3.4)
    _curves(axes, row)
    axes.set_title(f"{row.nodes} nodes, {row.size} MB at {row.rate} Mbit/s: what each node has", loc="left")
    axes.legend(loc="upper left")
    return figure


def _curves(axes: Axes, row: Row) -> None:
    gone = set(row.more.get("killed", ()))
    for name, curve in row.curves.items():
        times, parts = [when for when, _ in curve], [100 * part for _, part in curve]
        axes.plot(times, parts, color=LIMIT if name in gone else OURS, lw=1, alpha=0.6)
        if name in gone:
            axes.plot(times[-1:], parts[-1:], color=LIMIT, marker="x", ls="")
    axes.axvline(row.alone, color=DARK, lw=1, ls=":", label="T(1)")
    axes.set_xlabel("seconds")
    axes.set_ylabel("% of the file")
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)


def _faults(rows: Rows) -> Figure:
    figure, panels = _axes(len(rows), 2.9, columns=2)
    for axes, row in zip(panels, rows, strict=True):
        _curves(axes, row)
        late = " (some start later)" if row.case == "the head is killed" else ""
        axes.set_title(f"{row.case}{late}\nlast survivor {row.ratio:.2f} T(1)", loc="left")
        if (at := row.more.get("at")) is not None:
            axes.axvline(at, color=LIMIT, lw=1, ls="--", label="killed")
        axes.legend(loc="lower right")
    return figure


def _racks(row: Row) -> Figure:
    figure, (axes,) = _axes(1, 2.8)
    names = list(row.more["into"])
    for shift, (key, label, shade) in enumerate((("into", "into the rack", OURS), ("out", "out of it", SHADES[1]))):
        places = [number + (shift - 0.5) * 0.36 for number in range(len(names))]
        bars = axes.bar(places, [row.more[key][name] for name in names], 0.34, color=shade, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1.3, color=LIMIT, lw=1, ls="--", label="limit, 1.3")
    axes.axhline(1.0, color=DARK, lw=1, ls=":", label="ideal")
    axes.set_xticks(range(len(names)), [f"rack {name}" for name in names])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, max(1.6, *(1.15 * value for key in ("into", "out") for value in row.more[key].values())))
    axes.set_title(
        f"copies over each uplink, {row.case}; last node at {row.last / row.more['bound']:.2f} of the bound", loc="left"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _others(rows: Rows) -> Figure:
    of = sorted(_fullest(rows, lambda row: (row.nodes, *_load(row))), key=lambda row: -row.last)
    figure, (time, copies) = _axes(2, 0.9 + 0.32 * len(of))
    names = [row.system for row in of]
    shades = [OURS if row.system == "Rookery" else THEIRS for row in of]
    for axes, values, title in (
        (time, [row.ratio for row in of], "time of the last node ÷ T(1)"),
        (copies, [row.copies for row in of], "copies that left the head"),
    ):
        axes.barh(names, values, color=shades)
        axes.axvline(1.0, color=DARK, lw=1, ls=":")
        # One that needs many times as long must not press the others together.
        edge = min(max(values) * 1.15, 4 * median(values))
        axes.set_xlim(0, edge)
        for place, value in enumerate(values):
            long = value > 0.9 * edge  # its number stands inside, before the edge
            x, side, shade = (min(value, edge), "right", "white") if long else (value, "left", DARK)
            axes.annotate(
                f"{value:.2f}",
                (x, place),
                (-4 if long else 4, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                color=shade,
                fontsize=8,
            )
        axes.grid(visible=False, axis="y")
        axes.set_title(title, loc="left")
    copies.tick_params(labelleft=False)
    figure.suptitle(f"{of[0].nodes} nodes, {of[0].size} MB at {of[0].rate} Mbit/s", x=0.01, ha="left")
    return figure


def _axes(count: int, height: float, columns: int = 0) -> tuple[Figure, list[Axes]]:
    columns = columns or count
    lines = -(-count // columns)
    figure = Figure(figsize=(9, height * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, number + 1) for number in range(count)]
