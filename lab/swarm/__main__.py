# SPDX-License-Identifier: Apache-2.0
"""Measures the swarm in namespaces with shaped links, and writes tables and plots. `make bench-swarm` runs this.

Everything happens in network namespaces that are made here and removed at the end, also on Ctrl-C. Needs root,
iproute2, nginx and curl; the part `others` needs the other systems, too.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import netns
from lab.swarm import faults, parts, plots, races, report
from lab.swarm.bench import Bench, Wanted, say
from lab.swarm.record import Book, Row
from lab.swarm.stage import HeadPlace
from rookery.errors import RookeryError, record_of

TOP = Path(__file__).resolve().parents[2]
INTERRUPTED = 130
PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "together": parts.together,
    "arrivals": parts.arrivals,
    "unequal": parts.unequal,
    "faults": faults.faults,
    "racks": parts.racks,
    "trees": parts.trees,
    "others": races.others,
}
EXAMPLES = """\
examples:
  python -m lab.swarm                                     everything, with the numbers of the issue
  python -m lab.swarm --only together --nodes 8,16
  python -m lab.swarm --only faults,racks --sizes 64 --rate 100
  python -m lab.swarm --only together --sizes 16 --rate 50 --nodes 4 --output /dev/shm/try
  python -m lab.swarm --only others --sizes 256 --nodes 8 --systems uftp,udpcast,aria2 --keep
  python -m lab.swarm --draw                              tables and plots again from swarm.json

sizes are MB (10^6 bytes), rates Mbit/s of every link each way. T(1) of a part is measured in the same run; a part that
is run again replaces its rows in swarm.json (with --keep only those of the same load, number and system), the others
stay.
"""


def main() -> int:
    """Run what was asked for; 0 when every limit held, 1 when one did not."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    given = _arguments()
    started = time.monotonic()
    try:
        rows = [] if given.draw else _measure(given)
        _draw(given.output)
    except KeyboardInterrupt:
        say("interrupted; everything that the benchmark started is gone")
        return INTERRUPTED
    except RookeryError as error:
        record = record_of(error)
        print(f"error: {record.message}\n{record.details}", file=sys.stderr)
        if record.hint:
            print(f"try: {record.hint}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps([vars(row) for row in rows], default=vars))
    elif rows:
        print(report.shown(rows))
    missed = [row for row in rows if not row.held]
    say(f"done in {time.monotonic() - started:.0f} s: {len(rows)} rows, {len(missed)} of them missed a limit")
    return 1 if missed else 0


def _measure(given: argparse.Namespace) -> list[Row]:
    netns.require()
    place = HeadPlace(given.directory.resolve())
    place.prepare()
    bench = Bench(place, Wanted(given.sizes, given.rate, given.nodes, given.seed, given.systems))
    given.output.mkdir(parents=True, exist_ok=True)
    book, rows = Book(given.output / "swarm.json"), []
    for part in given.only:
        began = time.monotonic()
        made = list(PARTS[part](bench))
        book.put(part, made, dt.datetime.now(dt.UTC).date().isoformat(), given.keep)
        say(f"{part}: {time.monotonic() - began:.0f} s")
        rows += made
    return rows


def _draw(output: Path) -> None:
    book = Book(output / "swarm.json")
    (output / "swarm.md").write_text(report.text(book))
    plots.draw(book.rows, output)
    say(f"{output}: swarm.json, swarm.md and the plots")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.swarm",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_parts, default=tuple(PARTS), metavar="PART,…", help=f"of {', '.join(PARTS)} (all)")
    add("--sizes", type=_numbers, default=(), metavar="MB,…", help="of the file (256; unequal 128, others 64)")
    add("--rate", type=_numbers, default=(), metavar="MBIT,…", help="of every link (50; together 25, others 100)")
    add("--nodes", type=_numbers, default=(), metavar="N,…", help="how many (16; together 8,16,32,64; others 2,4,8,16)")
    add("--systems", type=_words, default=(), metavar="NAME,…", help="of others: whom to race against (all)")
    add("--seed", type=int, default=1, help="of the dice: who comes when, who dies (1)")
    add("--directory", type=Path, default=TOP / ".cache" / "swarm", help="where the head lives (.cache/swarm)")
    add("--output", type=Path, default=TOP / "docs" / "benchmarks", help="where the results go (docs/benchmarks)")
    add("--keep", action="store_true", help="rows of a part with another size, rate, number or system stay")
    add("--json", action="store_true", help="print the rows of this run as JSON at the end")
    add("--draw", action="store_true", help="measure nothing; write the tables and plots of swarm.json again")
    return parser.parse_args()


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return names


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError("numbers from 1 on")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
