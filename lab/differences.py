# SPDX-License-Identifier: Apache-2.0
"""What an update costs: `make bench-differences`.

    python3 -m lab.differences [--only WORD ...] [--keep DIRECTORY] [--into docs/benchmarks]

Builds the bookworm image of examples/recipes, and the same with four packages more, once; packs both roots with one set
of mksquashfs options after the other, and counts what an update from the first to the second fetches. Then it measures
filling, publishing, and the disk that a hundred versions take. Needs root and a package archive.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.publishing import publishing
from lab.updating import fetched
from rookery import __version__, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder, identity, squashfs
from rookery.head.build.recipe import parse
from rookery.head.progress import silent
from rookery.head.publish.chunker import Chunker
from rookery.head.publish.pieces import Digester
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.node.fetch.fill import Old, Start, fill
from rookery.node.fetch.metainfo import open_torrent
from rookery.run import run, which
from rookery.wire.chunks import ChunkIndex, dump
from rookery.wire.chunks import parse as parse_index
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob, Role

MB = 1_000_000
TOP = Path(__file__).parent.parent
RECIPE = TOP / "examples/recipes/bookworm.toml"
PACKAGES = ("htop", "tmux", "lsof", "rsync")
PIECE = 64 << 10
LEVELS = ("3", "9", "12", "19", "22")  # of zstd --patch-from
FILLS = (250, 1000)  # MB
VERSIONS, VERSION_MB, CHANGED, PLACES = 100, 20, 0.05, 10


ANY = 1 << 31  # groups: one for each part; depth: each directory is one


@dataclass(frozen=True)
class Case:
    """Options of mksquashfs. grouped: parts of the tree have fragments of their own (build/squashfs.py); groups, depth:
    of that. by_package: the files of a package lie beside each other, and what no package owns at the end (`-sort`).
    memory: for mksquashfs, which holds a block of each group out of a quarter of it."""

    what: str
    block: str = "256K"
    grouped: bool = False
    by_package: bool = False
    options: tuple[str, ...] = ()
    groups: int = squashfs.GROUPS
    depth: int = squashfs.DEPTH
    memory: str = squashfs.MEMORY
    chosen: bool = False


CASES = (
    Case("256K, as mksquashfs does it"),
    Case("256K, fragments by part of the tree", grouped=True, chosen=True),
    Case("256K, each directory by itself", grouped=True, groups=ANY, depth=ANY, memory="4G"),
    Case("256K, directories in 256 groups", grouped=True, groups=256, depth=ANY),
    Case("256K, parts two directories deep", grouped=True, depth=2),
    Case("256K, files sorted by package", by_package=True),
    Case("256K, by part, files sorted by package", grouped=True, by_package=True),
    Case("256K, by part, tail ends in fragments (-always-use-fragments)", grouped=True, options=("-tailends",)),
    Case("256K, by part, no duplicate check", grouped=True, options=("-no-duplicates",)),
    Case("256K, by part, inodes not compressed", grouped=True, options=("-noI",)),
    Case("256K, no fragments", options=("-no-fragments",)),
    Case("128K, as mksquashfs does it", block="128K"),
    Case("128K, by part", block="128K", grouped=True),
    Case("64K, by part", block="64K", grouped=True),
    Case("1M, by part", block="1M", grouped=True),
)


# -- the two roots


def roots(keep: Path) -> tuple[Path, Path]:
    """The two root trees in `keep`, which are built when they are not there."""
    more = "".join(f'  "{package}",\n' for package in PACKAGES)
    return built(keep / "base"), built(keep / "four", '"less",\n', f'"less",\n{more}')


def built(place: Path, old: str = "", new: str = "") -> Path:
    """`place` with the root tree of the recipe, in whose text `old` is `new`; built when it is not there."""
    if not (place / "epoch").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        print(f"building {place.name}", flush=True)
        _build(place, RECIPE.read_text().replace(old, new))
    return place


def _build(place: Path, text: str) -> None:
    recipe = parse(text, str(RECIPE), RECIPE.parent)
    scratch, tree, started = place / "scratch", place / "tree", time.time()
    scratch.mkdir()
    for path in (place.parent, place):
        path.chmod(0o755)  # archives are fetched by others than root
    site = builder.BuildSite(tree, scratch, silent, threading.Event(), "", builder.no_base)
    builder.find(recipe.builder).build(recipe, site)
    identity.neutralise(tree, recipe.identity)
    (place / "epoch").write_text(str(identity.settle_times(tree, started)))
    shutil.rmtree(scratch)


def packed(case: Case, root: Path, to: Path) -> float:
    """Pack one root with one processor; the seconds that it took."""
    actions = to.with_suffix(".actions")
    actions.write_bytes(squashfs.fragment_groups(root / "tree", case.groups, case.depth) if case.grouped else b"")
    grouping = ("-action-file", str(actions)) if case.grouped else ()
    order = to.with_suffix(".order")
    order.write_bytes(package_order(root / "tree") if case.by_package else b"")
    sorting = ("-sort", str(order)) if case.by_package else ()
    argv = (
        *("mksquashfs", str(root / "tree"), str(to), "-noappend", "-no-recovery", "-xattrs", "-no-progress"),
        *("-comp", "zstd", "-Xcompression-level", str(squashfs.LEVEL), "-b", case.block, "-mem", case.memory),
        *("-processors", "1", *grouping, *sorting, *case.options),
    )
    to.unlink(missing_ok=True)
    began = time.monotonic()
    run(argv, env={"SOURCE_DATE_EPOCH": (root / "epoch").read_text()}, timeout=1800)
    return time.monotonic() - began


def package_order(tree: Path) -> bytes:
    """A sort file of mksquashfs (path and priority, the highest first): by the name of the package that owns a file."""
    lists = sorted((tree / "var/lib/dpkg/info").glob("*.list"))
    owners = {name.lstrip("/"): number for number, owned in enumerate(lists) for name in owned.read_text().splitlines()}
    # The form has no way to write a space in a name.
    files_only = (
        name for name in owners if " " not in name and not (tree / name).is_symlink() and (tree / name).is_file()
    )
    # A backslash (systemd's names of units have them) quotes what follows it.
    return "".join("{} {}\n".format(name.replace("\\", "\\\\"), 30_000 - owners[name]) for name in files_only).encode()


# -- what an update lacks


def cut(data: bytes, mean: int = 0) -> ChunkIndex:
    """The chunks of some bytes."""
    chunker = Chunker(len(data), mean)
    chunker.add(data)
    return chunker.index("0" * 64)


def lacking(old: ChunkIndex, new: ChunkIndex) -> dict[str, float]:
    """What `new` has and `old` has not, in MB: by chunks alone, by the blocks and by the pieces that they touch."""
    there = {digest for _, _, digest in old.chunks()}
    spans = [(offset, length) for offset, length, digest in new.chunks() if digest not in there]

    def touched(unit: int) -> float:
        units = {at for first, length in spans for at in range(first // unit, (first + length - 1) // unit + 1)}
        return sum(min(unit, new.size - at * unit) for at in units) / MB

    return {
        "chunks": sum(length for _, length in spans) / MB,
        "blocks": touched(BLOCK),
        "pieces": touched(PIECE),
        "index": len(dump(new)) / MB,
    }


def patch(old: Path, new: Path, level: str) -> float:
    """MB that zstd needs for the same update."""
    to = new.with_suffix(".patch")
    run(["zstd", "-q", "-f", "--ultra", f"-{level}", "--long=28", f"--patch-from={old}", new, "-o", to], timeout=1800)
    size = to.stat().st_size / MB
    to.unlink()
    return size


def study(case: Case, before: Path, after: Path, place: Path) -> dict[str, Any]:
    """One row of the table."""
    old, new = place / "old.squashfs", place / "new.squashfs"
    seconds = [packed(case, before, old), packed(case, after, new)]
    row: dict[str, Any] = {
        "case": asdict(case),
        "seconds": sum(seconds) / 2,
        "size": new.stat().st_size / MB,
        "update": lacking(cut(old.read_bytes()), cut(new.read_bytes())),
        "zstd": {level: patch(old, new, level) for level in (LEVELS if case.chosen else LEVELS[:1])},
    }
    if case.chosen:
        row["means"] = {
            str(mean): lacking(cut(old.read_bytes(), mean), cut(new.read_bytes(), mean))
            for mean in (4096, 8192, 16384, 32768)
        }
        row["fetched"] = fetched(old, new, place)
        row["same"] = fetched(new, new, place)
    return row


# -- rates


def filling(megabytes: int, place: Path) -> dict[str, float]:
    """Fill a file of random bytes from one that differs in a hundred places, beside cp and SHA-256; all on one
    processor, files in memory."""
    old, new = place / "old", place / "new"
    content = os.urandom(megabytes * MB)
    old.write_bytes(content)
    changed = bytearray(content)
    for number in range(100):
        at = number * len(content) // 100
        changed[at : at + 4] = b"new!"
    new.write_bytes(changed)
    seconds: dict[str, float] = {}
    # Into a file that is there: on a virtual machine the first one to touch a page of memory waits for its host.
    run(["cp", old, place / "copy"], timeout=600)
    for what, words in (("cp", ["cp", old, place / "copy"]), ("sha256", _child("digest", old))):
        began = time.monotonic()
        found = run([*_ONE_CPU, *words], timeout=600)
        seconds[what] = time.monotonic() - began if what == "cp" else json.loads(found.stdout)["seconds"]
    told = json.loads(run([*_ONE_CPU, *_child("fill", old, new, place / "part")], timeout=600).stdout)
    for path in (old, new, place / "copy", place / "part"):
        path.unlink()
    return {
        "size": megabytes,
        "rate": told["filled"] / MB / told["seconds"],
        "worked": told["filled"] / MB / told["worked"],
        "cp": megabytes / seconds["cp"],
        "sha256": megabytes / seconds["sha256"],
        "memory": told["memory"],
        "missing": megabytes - told["filled"] / MB,
    }


_ONE_CPU = ("taskset", "-c", "0")


def _child(*words: object) -> list[str]:
    return [sys.executable, "-m", "lab.differences", "--child", *map(str, words)]


def child(words: Sequence[str]) -> None:
    """What a process of its own measures: `digest FILE` or `fill OLD NEW PART`."""
    if words[0] == "digest":
        began = time.monotonic()
        files.sha256_file(Path(words[1]))
        print(json.dumps({"seconds": time.monotonic() - began}))
        return
    old, new, part = (Path(word) for word in words[1:])
    made = make_torrent(new, "new", silent, threading.Event())
    digest = files.sha256_file(new)
    blob = Blob(Role.DATA, "new", new.stat().st_size, digest, made.info_hash, made.info_hash_v1)
    metainfo, indexes = open_torrent(made.torrent, blob), [dump(_index_of(path)) for path in (new, old)]
    handle = os.open(part, os.O_RDWR | os.O_CREAT)

    def run_once(index: ChunkIndex, had: ChunkIndex) -> Start:
        start = Start.empty(metainfo)
        fill(handle, metainfo, index, [Old(old, had)], start, lambda _: None, threading.Event())
        return start

    run_once(*map(parse_index, indexes))  # so that it writes into a file that is there, as cp does
    ctypes.CDLL(None).malloc_trim(0)  # what made the indexes is not what filling needs: neither in the way nor reused
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _memory("VmRSS")
    index, had = map(parse_index, indexes)
    began, worked = time.monotonic(), time.process_time()
    start = run_once(index, had)
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    filled = sum(metainfo.length(piece) for piece, there in enumerate(start.pieces) if there)
    print(json.dumps({"seconds": seconds, "worked": worked, "filled": filled, "memory": _memory("VmHWM") - before}))


def _index_of(path: Path) -> ChunkIndex:
    chunker = Chunker(path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        while block := file.read(files.BLOCK):
            chunker.add(block)
    return chunker.index("0" * 64)


def _memory(which: str) -> float:
    """MB that this process has (VmRSS), or has had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024 / MB


# -- a hundred versions


def versions(place: Path) -> dict[str, float]:
    """The disk that a hundred versions take in a head's store, a twentieth of the bytes changed from one to the next in
    ten places; as they are, and with all but the newest packed."""
    store, dice = BlobStore(place / "versions"), random.Random(1)
    content, changes, digests = bytearray(dice.randbytes(VERSION_MB * MB)), 0, list[str]()
    for _ in range(VERSIONS):
        source = place / "version"
        source.write_bytes(content)
        digester = Digester(len(content))
        digest, _ = store.put(source, move=True, also=digester.add)
        store.put_chunks(digest, dump(digester.index(digest)))
        digests.append(digest)
        length = int(len(content) * CHANGED / PLACES)
        for _ in range(PLACES):
            at = dice.randrange(len(content) - length)
            content[at : at + length] = dice.randbytes(length)
        changes += PLACES * length
    plain = _disk(store.directory)
    began = time.monotonic()
    for digest in digests[:-1]:
        store.pack(digest)
    pack, packed_size = time.monotonic() - began, _disk(store.directory)
    began = time.monotonic()
    store.path(digests[0])
    back = time.monotonic() - began
    shutil.rmtree(store.directory)
    return {
        "versions": VERSIONS,
        "size": VERSION_MB,
        "changes": VERSION_MB + (changes - PLACES * length) / MB,  # the last change is of no version
        "plain": plain,
        "packed": packed_size,
        "pack": pack / (VERSIONS - 1),
        "back": back,
    }


def _disk(directory: Path) -> float:
    return sum(path.stat().st_blocks for path in directory.iterdir()) * 512 / MB


# -- the page


def measure(only: Sequence[str], keep: Path, before: dict[str, Any]) -> dict[str, Any]:
    """All parts, or those that are named; the others stay as they were."""
    found = {**before, "version": __version__, "processor": _processor(), "packages": list(PACKAGES)}
    steps: dict[str, Callable[[Path], Any]] = {
        "options": lambda place: _options(keep, place),
        "publish": lambda place: _publishing(keep, place),
        "fill": lambda _place: _fills(),
        "versions": versions,
    }
    for name, step in steps.items():
        if not only or name in only:
            with _scratch(keep) as place:
                found[name] = step(place)
    return found


def _options(keep: Path, place: Path) -> list[dict[str, Any]]:
    before, after = roots(keep)
    rows = []
    for case in CASES:
        rows.append(study(case, before, after, place))
        update = rows[-1]["update"]
        print(f"{case.what}: {rows[-1]['size']:.1f} MB, update {update['blocks']:.2f} MB", flush=True)
    return rows


def _publishing(keep: Path, place: Path) -> dict[str, Any]:
    """With the small kernel for virtual machines, and with the one for all machines."""
    small = roots(keep)[1]
    generic = built(keep / "generic", "linux-image-cloud-amd64", "linux-image-amd64")
    rows = publishing(small / "tree", place / "small")
    return rows | {f"generic_{name}": row for name, row in publishing(generic / "tree", place / "generic").items()}


def _fills() -> list[dict[str, float]]:
    with _scratch(Path("/dev/shm")) as place:  # a disk's writing would be measured otherwise
        return [max((filling(size, place) for _ in range(3)), key=lambda row: row["worked"]) for size in FILLS]


@contextlib.contextmanager
def _scratch(keep: Path) -> Iterator[Path]:
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=keep, prefix="work-") as place:
        yield Path(place)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and write page and JSON; 1 when a bound does not hold."""
    from lab.differences_page import page, wrong  # noqa: PLC0415 - the measuring child needs none of it

    parser = argparse.ArgumentParser(prog="python3 -m lab.differences", description="what an update costs")
    parser.add_argument("--only", nargs="+", default=[], choices=("options", "publish", "fill", "versions"))
    parser.add_argument("--keep", type=Path, default=TOP / ".cache/differences", help="where the two roots are kept")
    parser.add_argument("--into", type=Path, help="directory for differences.json and differences.md")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.child:
        child(given.child)
        return 0
    for program, package in (("zstd", "zstd"), ("mksquashfs", "squashfs-tools"), ("mmdebstrap", "mmdebstrap")):
        if which(program) is None:
            raise RookeryError(f"this needs {program}", kind=ErrorKind.MISSING, hint=f"apt install {package}")
    kept = given.into / "differences.json" if given.into else None
    before = json.loads(kept.read_text()) if kept and kept.exists() else {}
    found = measure(given.only, given.keep, before)
    if kept:
        kept.write_text(json.dumps(found, indent=1) + "\n")
        kept.with_suffix(".md").write_text(page(found))
    print(page(found))
    faults = wrong(found)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
