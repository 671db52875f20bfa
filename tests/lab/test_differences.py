# SPDX-License-Identifier: Apache-2.0
"""The benchmark of updates: what it counts, and what it holds against its bounds."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lab import differences
from lab.differences_page import page, total, wrong
from lab.publishing import publishing
from lab.updating import fetched

KEPT = Path(__file__).parents[2] / "docs/benchmarks"
UPDATE = {"chunks": 2.8, "blocks": 3.2, "pieces": 4.0, "index": 0.1}


def found(**changed: Any) -> dict[str, Any]:
    row = {
        "case": {"what": "of choice", "chosen": True, "block": "256K", "options": []},
        "seconds": 20.0,
        "size": 74.0,
        "update": UPDATE,
        "zstd": {"3": 2.0, "19": 1.9},
        "means": {"16384": UPDATE},
        "fetched": {"blob": 3.2, "index": 0.16, "torrent": 0.06, "sent": 3.2, "had": 70.8},
        "same": {"blob": 0.0, "index": 0.0, "torrent": 0.0, "sent": 0.0, "had": 74.0},
    }
    publish = {
        "first": {"pack": 10.0, "publish": 12.0, "drivers_size": 2.4},
        "again": {"pack": 10.0, "publish": 11.0, "drivers_size": 2.4},
    }
    fill = {"size": 250, "rate": 650.0, "worked": 700.0, "cp": 2000.0, "sha256": 1500.0, "memory": 1.0, "missing": 8.0}
    versions = {"versions": 100, "size": 20, "changes": 119.0, "plain": 2000.0}
    others = [
        row | {"case": {"what": "large blocks", "chosen": False, "block": "1M", "options": []}, "size": 75.0},
        row | {"case": {"what": "none", "chosen": False, "block": "256K", "options": ["-no-fragments"]}, "size": 80.0},
    ]
    return {
        "version": "0",
        "processor": "a processor",
        "packages": ["one", "two"],
        "options": [row | changed, *others],
        "publish": publish,
        "fill": [fill],
        "versions": versions,
    }


def test_the_page_says_what_was_found() -> None:
    text = page(found())
    assert "| **together** | **3.42** |" in text
    assert "| in parts of the patch | **1.80** |" in text
    assert "| **of choice** |" in text
    assert "| kernel for virtual machines: new drivers (2.4 MB) | 10.0 | 12.0 | **1.20** |" in text
    assert "| the same drivers | 10.0 | 11.0 | **1.10** |" in text
    assert "the image is 8.1% larger" in text
    assert "has 1.014 times the size" in text
    assert total(found()["options"][0]) == pytest.approx(3.42)
    assert list(wrong(found())) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"zstd": {"3": 1.5}}, "more than 2"),
        ({"size": 20.0, "zstd": {"3": 9.0}}, "15%"),
        ({"same": {"blob": 0.0, "index": 0.0, "torrent": 0.06}}, "identical"),
    ],
)
def test_what_is_beyond_its_bound_is_said(changed: dict[str, Any], fault: str) -> None:
    (said,) = wrong(found(**changed))
    assert fault in said


@pytest.mark.parametrize("which", ["first", "again"])
def test_publishing_is_bounded(which: str) -> None:
    here = found()
    here["publish"][which]["publish"] = 12.6
    (said,) = wrong(here)
    assert said == "publishing takes 1.26 times what mksquashfs does"


def test_a_new_kernel_for_all_machines_has_a_bound_of_its_own() -> None:
    here = found()
    here["publish"] |= {"generic_first": {"pack": 10.0, "publish": 17.0, "drivers_size": 12.0}}
    assert list(wrong(here)) == []
    assert "beyond the bound of 1.25" in page(here)
    here["publish"]["generic_first"]["publish"] = 18.0
    assert len(list(wrong(here))) == 1


@pytest.mark.system
def test_a_tree_is_published_twice_and_its_drivers_stay(tmp_path: Path, make_root: Callable[[Path], Path]) -> None:
    said = publishing(make_root(tmp_path / "tree"), tmp_path)
    assert said["first"]["drivers_size"] == said["again"]["drivers_size"] > 0
    for row in said.values():
        assert 0 < row["pack"] < row["publish"]


def test_versions_that_take_much_more_than_their_changes_are_said() -> None:
    here = found()
    here["versions"] |= {"packed": 156.0, "pack": 0.1, "back": 0.1}
    assert list(wrong(here)) == []
    here["versions"]["packed"] = 300.0
    assert ["changes are 119 MB" in said for said in wrong(here)] == [True]


@pytest.mark.parametrize(("changed", "fault"), [({"worked": 200.0}, "200 MB/s"), ({"memory": 4.0}, "4.0 MB of memory")])
def test_a_filling_that_is_slow_or_large_is_said(changed: dict[str, float], fault: str) -> None:
    measured = found()
    measured["fill"][0].update(changed)
    (said,) = wrong(measured)
    assert fault in said


def test_what_an_update_lacks_is_counted_in_chunks_blocks_and_pieces() -> None:
    old = os.urandom(2_000_000)
    new = old[:1_000_000] + b"in between" + old[1_000_000:]
    update = differences.lacking(differences.cut(old), differences.cut(new))
    assert 0 < update["chunks"] <= update["blocks"] <= update["pieces"] < 0.3
    assert differences.lacking(differences.cut(new), differences.cut(new))["pieces"] == 0


def test_a_real_update_fetches_what_was_counted(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(os.urandom(2_000_000))
    new.write_bytes(old.read_bytes()[:1_500_000] + b"in between" + old.read_bytes()[1_500_000:])
    update = differences.lacking(differences.cut(old.read_bytes()), differences.cut(new.read_bytes()))
    wire = fetched(old, new, tmp_path)
    assert wire["blob"] == wire["sent"] == pytest.approx(update["blocks"])
    assert wire["index"] > 0 < wire["torrent"]
    again = fetched(new, new, tmp_path)
    assert (again.pop("had"), any(again.values())) == (new.stat().st_size / 1e6, False)


def test_the_page_that_is_kept_is_of_these_cases_and_these_numbers() -> None:
    kept = json.loads((KEPT / "differences.json").read_text())
    assert [row["case"] for row in kept["options"]] == [
        json.loads(json.dumps(asdict(case))) for case in differences.CASES
    ]
    assert page(kept) == (KEPT / "differences.md").read_text()
    assert list(wrong(kept)) == []
