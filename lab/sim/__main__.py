# SPDX-License-Identifier: Apache-2.0
"""Make docs/benchmarks/sim.json, sim.svg and the tables in sim.md: `python -m lab.sim [FOLDER] [--draw]`."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.sim import measured, page, plot, runs
from rookery import files

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


def main() -> None:
    """Run everything, or with --draw only compare with swarm.json, and make plot and tables, again."""
    parser = argparse.ArgumentParser(prog="python -m lab.sim", description=main.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--draw", action="store_true")
    given = parser.parse_args()
    kept = given.folder / "sim.json"
    if not given.draw:
        began = time.monotonic()
        tables = runs.everything()
        print(f"computed in {time.monotonic() - began:.0f} s")
    else:
        tables = json.loads(kept.read_text())
    tables = _short(tables | compared(given.folder / "swarm.json"))
    files.write_atomic(kept, (json.dumps(tables, indent=0) + "\n").encode(), 0o644)
    plot.draw(tables, given.folder / "sim.svg")
    page.fill(given.folder / "sim.md", tables)
    print(page.compared(tables["measured"]))


def compared(path: Path) -> dict[str, list[runs.Row]]:
    """The measured rows and what the simulator says of them; empty without a file."""
    seen = measured.read(path)
    delay = measured.fit(seen)
    rows = measured.compare(seen, delay)
    return {
        "measured": [
            asdict(row.seen) | {"simulated": row.simulated, "off": row.off, "fitted": row.fitted, "delay": delay}
            for row in rows
        ]
    }


def _short(value: Any) -> Any:
    """Six digits are enough."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
