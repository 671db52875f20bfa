# SPDX-License-Identifier: Apache-2.0
"""The tables of sim.md: what stands between `<!-- table: NAME -->` and `<!-- end -->` is written anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rookery import files

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def fill(path: Path, tables: Tables) -> None:
    """Write every table of the page anew. Raises KeyError for a table that nobody makes."""

    def table(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- table: {name} -->\n{MAKERS[name](tables)}\n<!-- end -->"

    text = re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, path.read_text(), flags=re.DOTALL)
    files.write_atomic(path, text.encode(), 0o644)


def compared(rows: Sequence[Row]) -> str:
    """Measured against simulated."""
    if not rows:
        return "No measured rows yet (docs/benchmarks/swarm.json)."
    lines = [
        (
            row["nodes"],
            f"{row['size'] / 1e6:.0f}",
            f"{row['rate'] * 8 / 1e6:.0f}",
            f"{row['seconds']:.2f}",
            f"{row['simulated']:.2f}",
            f"{row['off']:+.1%}",
            f"{row['cpu']:.0f}{' !' if row['cpu'] > 80 else ''}",
            "fit" if row["fitted"] else "prediction",
        )
        for row in rows
    ]
    head = ("N", "MB", "Mbit/s", "measured, s", "simulated, s", "difference", "CPU, %", "")
    return f"Fitted delay: {rows[0]['delay'] * 1e3:.1f} ms per hop.\n\n" + _table(head, lines)


def _curve(tables: Tables) -> str:
    wanted = (8, 16, 32, 64, 256, 1000, 10_000, 100_000)
    lines = []
    for key, group in groupby(tables["curve"], key=lambda row: (row["size"], row["gbit"])):
        rows = {row["nodes"]: row for row in group}
        lines.append((f"{key[0] / 1e9:.0f} GB, {key[1]} Gbit/s", *(f"{rows[n]['policy']:.3f}" for n in wanted)))
        lines.append(("the same, one chain", *(_ratio(rows[n]["chain"]) for n in wanted)))
    first = {row["nodes"]: row for row in tables["curve"]}
    lines.append(("wires to the last node", *(f"{first[n]['depth']}" for n in wanted)))
    lines.append(("no schedule is better than", *(f"{first[n]['least']:.4f}" for n in wanted)))
    return _table(("T(N)/T(1)", *(f"N = {n:,}" for n in wanted)), lines)


def _limits(tables: Tables) -> str:
    lines = [
        (
            f"{row['size'] / 1e9:.0f} GB",
            row["gbit"],
            f"{row['delay'] * 1e3:.0f}",
            *(f"{row[mark]:,}" if row[mark] else "above 100,000" for mark in ("1.05", "1.25")),
        )
        for row in tables["limits"]
    ]
    return _table(("image", "Gbit/s", "delay, ms", "1.05 up to N =", "1.25 up to N ="), lines)


def _choices(tables: Tables) -> str:
    lines = []
    key: Callable[[Row], tuple[Any, ...]] = lambda row: (row["nodes"], row["gbit"], row["delay"])  # noqa: E731
    for (nodes, gbit, delay), group in groupby(tables["choices"], key=key):
        rows = list(group)
        best = {
            length: min((r["ratio"], r["piece"]) for r in rows if r["segment"] == length) for length in (8, 16, 32, 64)
        }
        today = {row["segment"]: row["ratio"] for row in rows if row["piece"] == 128 << 10}
        lines.append(
            (
                f"{nodes:,}",
                gbit,
                f"{delay * 1e3:.0f}",
                *(f"{today[length]:.3f}" for length in (8, 16, 32, 64)),
                f"{min(best.values())[0]:.3f} ({min(best, key=lambda n: best[n])}, {min(best.values())[1] >> 10})",
            )
        )
    head = ("N", "Gbit/s", "delay, ms", "segments of 8", "16", "32", "64", "best (segment, KiB)")
    return _table(head, lines)


def _works(tables: Tables) -> str:
    sizes = sorted({row["piece"] for row in tables["works"]})
    lines = []
    for (gbit, work), group in groupby(tables["works"], key=lambda row: (row["gbit"], row["work"])):
        found = {row["piece"]: row["over_wire"] for row in group}
        lines.append((gbit, f"{work * 1e3:.1f}", *(f"{found[size]:.2f}" for size in sizes)))
    return _table(("Gbit/s", "ms per piece", *(f"{size >> 10} KiB" for size in sizes)), lines)


def _stripes(tables: Tables) -> str:
    lines = []
    for (nodes, segment), group in groupby(tables["stripes"], key=lambda row: (row["nodes"], row["segment"])):
        found = {row["stripes"]: row for row in group}
        cells = (f"{found[n]['depth']} / {found[n]['at 1']:.3f} / {found[n]['at 10']:.3f}" for n in (2, 4, 8))
        lines.append((f"{nodes:,}", segment, *cells))
    return _table(("N", "segments of", "2 stripes", "4 stripes", "8 stripes"), lines)


def _heads(tables: Tables) -> str:
    lines = [(f"{row['nodes']:,}", row["copies"], row["depth"], f"{row['ratio']:.3f}") for row in tables["heads"]]
    return _table(("N", "head's rate, in those of a node", "wires", "÷ T(1)"), lines)


def _faults(tables: Tables) -> str:
    lines = [
        (
            f"{row['nodes']:,}",
            f"{row['size'] / 1e9:.0f} GB",
            f"{row['share']:.1%}",
            row["heal"],
            f"{row['healthy']:.3f}",
            f"{row['ratio']:.3f}",
            f"{row['mean']:.3f}",
        )
        for row in tables["faults"]
    ]
    return _table(("N", "image", "die", "heal, s", "healthy", "last ÷ T(1)", "mean ÷ T(1)"), lines)


def _hiccups(tables: Tables) -> str:
    lines = [(f"{row['nodes']:,}", f"{row['jitter'] * 1e3:.1f}", f"{row['ratio']:.3f}") for row in tables["hiccups"]]
    return _table(("N", "of 2 ms vary, ms", "÷ T(1)"), lines)


def _fabrics(tables: Tables) -> str:
    lines = [
        (
            f"{row['nodes']:,}",
            row["rack"],
            f"{row['narrow']}:1",
            f"{row['core']}:1",
            row["segment"],
            row["copies"],
            f"{row['used']:.0%}",
            f"{row['used_core']:.0%}",
            f"{row['known']:.3f}",
            f"{row['blind']:.2f}",
        )
        for row in tables["fabrics"]
    ]
    head = ("N", "rack", "uplink", "pod's", "segments of", "copies in", "used", "pod's used", "÷ T(1)", "racks unknown")
    return _table(head, lines)


def _slow(tables: Tables) -> str:
    lines = [(f"{row['nodes']:,}", row["on"], f"{row['ratio']:.3f}") for row in tables["slow"]]
    return _table(("N", "slow nodes hang on", "the others ÷ T(1)"), lines)


def _comers(tables: Tables) -> str:
    lines = [
        (f"{row['nodes']:,}", row["gbit"], f"{row['mean']:.3f}", f"{row['worst']:.3f}", f"{row['fluid']:.3f}")
        for row in tables["comers"]
    ]
    return _table(("N", "Gbit/s", "mean ÷ T(1)", "worst", "Qiu-Srikant"), lines)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


def _table(head: Sequence[Any], lines: Sequence[Sequence[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


MAKERS: dict[str, Callable[[Tables], str]] = {
    "curve": _curve,
    "limits": _limits,
    "choices": _choices,
    "works": _works,
    "stripes": _stripes,
    "heads": _heads,
    "faults": _faults,
    "hiccups": _hiccups,
    "fabrics": _fabrics,
    "slow": _slow,
    "comers": _comers,
    "measured": lambda tables: compared(tables["measured"]),
}
