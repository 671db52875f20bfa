# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks/differences.md, from what `lab.differences` found; and what of it is beyond its bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MOST_OF_PATCH = 2.0  # times what zstd --patch-from needs
MOST_OF_IMAGE = 0.15
LEAST_FILL = 300.0  # MB/s on one core
MOST_MEMORY = 0.01  # of the file: the indexes and what is made of them
MOST_PUBLISH = 1.25  # of the time of mksquashfs
MOST_NEW_KERNEL = 1.75  # the same, once for each kernel for all machines: its drivers are compressed well, on purpose
MOST_KEPT = 1.5  # times the sum of all changes, on the head's disk

HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
# Differences, measured

`make bench-differences` wrote this page (rookery {version}, {processor}). How it works is in
[explanation/differences.md](../explanation/differences.md).
"""


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    parts = [HEAD.format(**found)]
    if "options" in found:
        parts += [_update(found), _table(found["options"]), _means(chosen(found))]
    if "publish" in found:
        parts.append(_publish(found["publish"]))
    if "fill" in found:
        parts.append(_fill(found["fill"]))
    if "versions" in found:
        parts.append(_versions(found["versions"]))
    return "\n".join(parts)


def chosen(found: dict[str, Any]) -> dict[str, Any]:
    """The row of the options that builds use."""
    row: dict[str, Any] = next(row for row in found["options"] if row["case"]["chosen"])
    return row


def total(row: dict[str, Any], what: str = "fetched") -> float:
    """MB that a node fetches for the update, everything counted; `what` is "same" for the same image once more."""
    fetched = row[what]
    return float(fetched["blob"] + fetched["index"] + fetched["torrent"])


def wrong(found: dict[str, Any]) -> Iterator[str]:
    """What is beyond its bound."""
    if "options" in found:
        row = chosen(found)
        patch = min(row["zstd"].values())
        if total(row) > MOST_OF_PATCH * patch:
            yield f"the update takes {total(row):.2f} MB, more than {MOST_OF_PATCH:g} times {patch:.2f} MB"
        if total(row) > MOST_OF_IMAGE * row["size"]:
            yield f"the update takes {total(row):.2f} MB, more than {MOST_OF_IMAGE:.0%} of {row['size']:.1f} MB"
        if total(row, "same"):
            yield f"an identical image takes {total(row, 'same'):.2f} MB"
    for name, row in found.get("publish", {}).items():
        if _share(row) > (MOST_NEW_KERNEL if name == "generic_first" else MOST_PUBLISH):
            yield f"publishing takes {_share(row):.2f} times what mksquashfs does"
    for row in found.get("fill", []):
        if row["worked"] < LEAST_FILL:
            yield f"filling {row['size']} MB runs at {row['worked']:.0f} MB/s"
        if row["memory"] > MOST_MEMORY * row["size"]:
            yield f"filling {row['size']} MB takes {row['memory']:.1f} MB of memory"
    kept = found.get("versions", {})
    if "packed" in kept and kept["packed"] > MOST_KEPT * kept["changes"]:
        yield f"{kept['versions']} versions take {kept['packed']:.0f} MB, their changes are {kept['changes']:.0f} MB"


def _update(found: dict[str, Any]) -> str:
    row = chosen(found)
    patch, fetched = min(row["zstd"].values()), row["fetched"]
    return f"""## A small update

The bookworm image of `examples/recipes`, and the same with {_and(found["packages"])} more, built on their own; a node
that holds the first fetches the second with the node's own code over the chain.

| | MB |
|---|---|
| the new root | {row["size"]:.2f} |
| fetched of it | {fetched["blob"]:.2f} |
| chunk indexes (two: the node had no sidecar of the first version) | {fetched["index"]:.2f} |
| torrent | {fetched["torrent"]:.2f} |
| **together** | **{total(row):.2f}** |
| in parts of the image | {total(row) / row["size"]:.1%} |
| in parts of the patch | **{total(row) / patch:.2f}** |
| `zstd --patch-from`, the best of levels {_and(list(row["zstd"]))} | {patch:.2f} |
| the same image once more, index and torrent counted | {total(row, "same"):.2f} |
"""


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "## What was tried with mksquashfs",
        "",
        "zstd level 15, one processor. The update in MB: missing chunks alone; the",
        "blocks of 16 KiB that they touch, which is what is fetched; whole pieces of 64 KiB; what `zstd --patch-from`",
        "(level 3) makes of the same two files.",
        "",
        "| options | s | root, MB | chunks | **blocks** | pieces | zstd | blocks / zstd |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        update, patch, mark = row["update"], row["zstd"]["3"], "**" if row["case"]["chosen"] else ""
        cells = [
            f"{mark}{row['case']['what']}{mark}",
            f"{row['seconds']:.0f}",
            f"{row['size']:.1f}",
            f"{update['chunks']:.2f}",
            f"{mark}{update['blocks']:.2f}{mark}",
            f"{update['pieces']:.2f}",
            f"{patch:.2f}",
            f"{update['blocks'] / patch:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        *_words(rows),
        "",
    ]
    return "\n".join(lines)


def _words(rows: list[dict[str, Any]]) -> list[str]:
    """What the choice rests on, against the row of choice."""
    ours = next(row for row in rows if row["case"]["chosen"])
    plain = next((row for row in rows if "-no-fragments" in row["case"]["options"]), None)
    large = next((row for row in rows if row["case"]["block"] == "1M"), None)
    found = []
    if plain is not None:
        larger, less = plain["size"] / ours["size"] - 1, 1 - plain["update"]["blocks"] / ours["update"]["blocks"]
        found.append(
            f"Without fragments the image is {larger:.1%} larger, on each first fetch and in each node's memory,"
        )
        found.append(f"and this update {less:.0%} smaller.")
    if large is not None:
        size, more = large["size"] / ours["size"], large["update"]["blocks"] / ours["update"]["blocks"]
        found.append(f"With blocks of 1M the image has {size:.3f} times the size, and the update {more:.1f} times.")
    return found


def _means(row: dict[str, Any]) -> str:
    lines = [
        "## How large a chunk",
        "",
        "The same update with the options of choice, MB. Each node gets the index from the head, and the missing",
        "blocks from its neighbour: half the chunk would double what the head sends, to save a twentieth of what the",
        "chain carries.",
        "",
        "| average, KiB | chunks | blocks | pieces | one index | blocks + index |",
        "|---|---|---|---|---|---|",
    ]
    for mean, update in row["means"].items():
        lines.append(
            f"| {int(mean) // 1024} | {update['chunks']:.2f} | {update['blocks']:.2f} | {update['pieces']:.2f} |"
            f" {update['index']:.2f} | {update['blocks'] + update['index']:.2f} |"
        )
    return "\n".join([*lines, ""])


def _share(row: dict[str, float]) -> float:
    """What all of a publication takes, in times of its mksquashfs."""
    return row["publish"] / row["pack"]


def _publish(found: dict[str, dict[str, float]]) -> str:
    lines = [
        "## Publishing",
        "",
        "`image publish` of the working tree with those packages, by the head's own code: the first time, and with one",
        "file changed. It is mksquashfs and everything else: identity, kernel, drivers, digests, torrents, chunks, the",
        "catalog. In seconds, against mksquashfs alone of the same tree, just before:",
        "",
        "| | mksquashfs alone | publishing | times |",
        "|---|---|---|---|",
    ]
    cases = (
        ("kernel for virtual machines: new drivers ({size:.1f} MB)", "first"),
        ("the same drivers", "again"),
        ("kernel for all machines: new drivers ({size:.1f} MB)", "generic_first"),
        ("the same drivers", "generic_again"),
    )
    for what, name in cases:
        if (row := found.get(name)) is None:
            continue
        lines.append(
            f"| {what.format(size=row['drivers_size'])} | {row['pack']:.1f} | {row['publish']:.1f} |"
            f" **{_share(row):.2f}** |"
        )
    lines += [
        "",
        "New drivers are compressed once, and well, since every boot of every node has them from the head; that is",
        "done beside mksquashfs. With the many drivers of a kernel for all machines it is",
        f"beyond the bound of {MOST_PUBLISH}, once for each such kernel: zstd's level 12 would hold it (3 s of",
        "processor time in place of 21), and make the drivers 9 % larger on every boot.",
    ]
    return "\n".join([*lines, ""])


def _fill(rows: list[dict[str, Any]]) -> str:
    lines = [
        "## Filling",
        "",
        "A file of random bytes, filled from one that differs in a hundred places; one processor, files in memory",
        "(tmpfs). Memory is what the process grew by at most: the two indexes and the table of where chunks are,",
        f"{max(row['memory'] / row['size'] for row in rows):.1%} of the file; none of the file's content is held.",
        "",
        "The first rate is per second of processor time, the others are by the clock; the best of three",
        "rounds.",
        "",
        "| MB | filling, MB/s of processor | by the clock | `cp` | SHA-256 | memory, MB | not there, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['size']} | **{row['worked']:.0f}** | {row['rate']:.0f} | {row['cp']:.0f} | {row['sha256']:.0f} |"
        f" {row['memory']:.1f} | {row['missing']:.1f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def _versions(found: dict[str, Any]) -> str:
    lines = [
        f"## {found['versions']} versions",
        "",
        f"Of {found['size']} MB each, with 5 % changed from one to the next in ten places. MB on the head's disk:",
        "",
        "| | MB |",
        "|---|---|",
        f"| the first, and the sum of all changes | {found['changes']:.0f} |",
        f"| every version as it is | {found['plain']:.0f} |",
    ]
    if "packed" in found:
        lines += [
            f"| **all but the newest packed** | **{found['packed']:.0f}** |",
            f"| packing one, s | {found['pack']:.2f} |",
            f"| bringing the oldest back, s | {found['back']:.2f} |",
        ]
    lines += [
        "",
        "At both ends of each change a chunk is of no use to others, and each version has its index (0.1 %). What is",
        "tagged, assigned to a node, run by one, in a swarm, or has a ticket is never packed.",
    ]
    return "\n".join([*lines, ""])


def _and(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]
