# SPDX-License-Identifier: Apache-2.0
"""sim.svg: the curve from one node to 100,000 with its bounds, and what faults and narrow uplinks do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from lab.figures import DARK, LIMIT, OURS, SHADE, THEIRS
from lab.figures import STYLE as STYLE_OF_ALL

STYLE = STYLE_OF_ALL | {"axes.titlelocation": "left", "axes.titlesize": 10.0}
TICKS = (1.0, 1.05, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
KINDS = ((10**9, 1, SHADE, "-"), (4 * 10**9, 1, OURS, "-"), (10**9, 10, SHADE, "--"), (4 * 10**9, 10, OURS, "--"))
Tables = dict[str, list[dict[str, Any]]]


def draw(tables: Tables, path: Path) -> None:
    """Write the plot. path: `.svg` or `.png`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 8.6), layout="constrained")
        grid = figure.subplot_mosaic([["curve", "curve"], ["faults", "fabric"]], height_ratios=[1.15, 1])
        _curve(grid["curve"], tables)
        _faults(grid["faults"], tables)
        _fabric(grid["fabric"], tables)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _scale(axes: Axes, most: float) -> None:
    """Both axes logarithmic, the ratio's counted from a little below 1."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.985, most)
    ticks = [tick for tick in TICKS if tick <= most]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("nodes that start together, N")


def _curve(axes: Axes, tables: Tables) -> None:
    _scale(axes, 6)
    axes.set_xlim(1, 100_000)
    axes.set_ylabel("time of the last node ÷ T(1)")
    axes.set_title("N nodes in the time of one: the policy, its parts and its bounds (2 ms per hop, equal links)")
    for size, gbit, colour, dash in KINDS:
        rows = [row for row in tables["curve"] if row["size"] == size and row["gbit"] == gbit]
        nodes = [row["nodes"] for row in rows]
        name = f"{size / 1e9:.0f} GB at {gbit} Gbit/s"
        axes.plot(nodes, [row["policy"] for row in rows], dash, color=colour, lw=2.2, label=f"policy, {name}")
        axes.plot(nodes, [row["chain"] for row in rows], dash, color=LIMIT, lw=0.9, alpha=0.7)
    rows = [row for row in tables["curve"] if row["size"] == 10**9 and row["gbit"] == 1]
    nodes = [row["nodes"] for row in rows]
    axes.plot([], [], color=LIMIT, lw=0.9, label="one chain for all (same four cases)")
    axes.plot(nodes, [row["http"] for row in rows], color=THEIRS, lw=1.4, label="HTTP from the head: N copies")
    axes.plot(nodes, [row["least"] for row in rows], color=DARK, lw=1.2, label="least possible (Mundinger-Weber), 1 GB")
    axes.plot(nodes, [1.0] * len(nodes), ":", color=DARK, lw=1.2, label="fluid limit (Qiu-Srikant, arrivals)")
    if seen := tables["measured"]:
        ratios = [row["seconds"] / row["alone"] for row in seen]
        axes.plot([row["nodes"] for row in seen], ratios, "o", color=DARK, ms=4, label="measured in namespaces")
    axes.axvline(64, color="#bbbbbb", lw=0.8, ls=":")
    axes.text(60, 1.62, "above 64: segments and trees", color="#777777", fontsize=8, ha="right")
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0.155, 1.0),
        fontsize=8,
        frameon=True,
        facecolor="white",
        framealpha=1,
        edgecolor="none",
    )


def _faults(axes: Axes, tables: Tables) -> None:
    _scale(axes, 3.2)
    axes.set_xlim(50, 130_000)
    axes.set_ylabel("÷ T(1)")
    axes.set_title("1 % of the nodes die during the transfer (1 Gbit/s)")
    for size, colour in ((10**9, SHADE), (4 * 10**9, OURS)):
        for heal, dash, why in ((2.0, "--", "machine silent, 2 s"), (0.1, "-", "process dead, 0.1 s")):
            rows = [row for row in tables["faults"] if (row["size"], row["heal"], row["share"]) == (size, heal, 0.01)]
            label = f"{size / 1e9:.0f} GB, {why}"
            axes.plot([row["nodes"] for row in rows], [row["ratio"] for row in rows], dash, marker="o", ms=4)
            axes.lines[-1].set(color=colour, label=label)
        rows = [row for row in tables["faults"] if (row["size"], row["heal"], row["share"]) == (size, 0.1, 0.01)]
        axes.plot([row["nodes"] for row in rows], [row["healthy"] for row in rows], ":", color=colour)
        axes.lines[-1].set_label(f"{size / 1e9:.0f} GB, nobody dies")
    axes.legend(loc="upper left", fontsize=8)


def _fabric(axes: Axes, tables: Tables) -> None:
    axes.set_title("Uplinks of racks of 32, 10,000 nodes, 1 GB at 1 Gbit/s")
    rows = [row for row in tables["fabrics"] if row["nodes"] == 10_000 and row["rack"] == 32 and row["core"] == 1]
    narrow = sorted({row["narrow"] for row in rows})
    bars = (
        ("racks known, segments of 32", 32, "known", OURS),
        ("racks known, segments of 8", 8, "known", SHADE),
        ("racks unknown to the chain", 32, "blind", LIMIT),
    )
    for place, (label, segment, column, colour) in enumerate(bars):
        values = [next(r[column] for r in rows if r["narrow"] == n and r["segment"] == segment) for n in narrow]
        where = [number + (place - 1) * 0.27 for number in range(len(narrow))]
        drawn = axes.bar(where, values, 0.25, color=colour, label=label)
        axes.bar_label(drawn, fmt="%.2f", fontsize=8, padding=2)
    axes.set_xticks(range(len(narrow)), [f"{n}:1" for n in narrow])
    axes.set_xlabel("oversubscription of the uplinks")
    axes.set_ylabel("÷ T(1)")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper left", fontsize=8)
