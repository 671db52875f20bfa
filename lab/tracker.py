# SPDX-License-Identifier: Apache-2.0
"""What the tracker can do: `make bench-tracker`.

    python3 -m lab.tracker [--quick] [--into docs/benchmarks]

Alone: announces per second of the registry in one thread, the time of naming peers, memory per node. Over HTTP: a real
head (`rookery serve`) on a host of a room of namespaces, held to the first processor; whoever announces runs on the
others. Every node has a session credential of its own in the head's catalog, and a rack. The storm: every node
announces once within ten seconds, and afterwards all must be in the registry. The planner, which gives places in the
chain, is asked in the same ways.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab import netns
from lab.swarm.stage import ADDRESS, HeadPlace
from rookery import __version__
from rookery.head.catalog import credentials, nodes
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.database import Database
from rookery.head.catalog.rows import Credential, Node
from rookery.head.config import Paths
from rookery.head.swarm import tracker
from rookery.run import run
from rookery.wire.manifest import Blob, parse_payload
from rookery.wire.report import NodeState

V2, V1 = "ab" * 32, "cd" * 20
MANY = 10_000
IN_RACK = 40
STORM_SECONDS = 10.0
CONNECTIONS = 64
HEAD_CPU = 0
PORT = 8470


def call(number: int, **words: Any) -> tracker.Announce:
    """The announce of a node."""
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    found = {"info_hash": bytes.fromhex(V2)[:20], "peer_id": b"-RN0100-%012d" % number, "port": 8472, "left": 100}
    return tracker.Announce(**{**found, "address": address, "key": f"{number:08X}", **words})


def filled(count: int) -> tracker.Tracker:
    """A tracker that knows so many nodes, 40 in a rack, a quarter of them complete."""
    made = tracker.Tracker(["10.255.0.1:8471"], random.Random(1))
    made.serve(V2, V1)
    for number in range(count):
        made.announce(call(number, left=100 * (number % 4 > 0)), 0.0, f"r{number // IN_RACK}")
    return made


def announces_alone(count: int, rounds: int) -> float:
    """Announces per second in one thread: read from the query string, taken in, answered in bencoding."""
    registry, dice = filled(count), random.Random(2)
    queries = []
    for _ in range(rounds):
        number = dice.randrange(count)
        words = f"info_hash={'%AB' * 20}&peer_id=-RN0100-{number:012d}&port=8472&uploaded=0&downloaded=0&left=100"
        words += f"&corrupt=0&key={number:08X}&numwant=200&compact=1&no_peer_id=1&supportcrypto=0&redundant=0"
        queries.append((words.encode(), call(number).address, f"r{number // IN_RACK}"))
    began = time.perf_counter()
    for query, address, rack in queries:
        tracker.encode(registry.announce(tracker.parse(query, address), 1.0, rack))
    return rounds / (time.perf_counter() - began)


def naming(count: int, rounds: int) -> dict[str, float]:
    """Microseconds of naming peers to a node that lacks something, with `count` nodes known."""
    registry, dice = filled(count), random.Random(3)
    calls = []
    for _ in range(rounds):
        number = dice.randrange(count // 4) * 4 + 1
        calls.append((call(number), f"r{number // IN_RACK}"))
    taken = []
    for asked, rack in calls:
        began = time.perf_counter_ns()
        reply = registry.announce(asked, 1.0, rack)
        taken.append((time.perf_counter_ns() - began) / 1e3)
        assert len(reply.peers) > 1
    taken.sort()
    middle = statistics.median(taken)
    return {"min": taken[0], "median": middle, "p99": taken[len(taken) * 99 // 100], "worst": taken[-1]}


def memory(count: int) -> float:
    """Bytes of memory per node."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    registry = filled(count)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(registry.members(V2)) == count
    return (after - before) / count


@contextlib.contextmanager
def on_cpus(chosen: set[int]) -> Iterator[None]:
    """This thread, and what it starts meanwhile, on some processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def enrol(paths: Paths, version: str, count: int) -> list[str]:
    """Put nodes on their way up into the catalog, each with a session; their secrets."""
    database, secrets = (
        Database(f"sqlite:///{paths.database}"),
        [f"{n:08d}{os.urandom(16).hex()}" for n in range(count)],
    )
    made = [
        Node(
            f"n{number}",
            attributes={"rack": f"r{number // IN_RACK}"},
            state=NodeState.PROVISIONING,
            version=version,
        )
        for number in range(count)
    ]
    rows = [
        Credential(hashlib.sha256(secret.encode()).hexdigest(), "session", f"n{number}", time.time() + 86400)
        for number, secret in enumerate(secrets)
    ]
    with database.writing() as connection:
        nodes.add(connection, made)
        for row in rows:
            credentials.add(connection, row, None)
    database.close()
    return secrets


class Over:
    """Announces over HTTP to a head that runs on a host of a room."""

    def __init__(self, client: netns.Host, blob: Blob, secrets: Path, pid: int) -> None:
        self._client, self._blob, self._secrets, self._pid = client, blob, secrets, pid

    def announce(self, *words: str) -> dict[str, Any]:
        """As lab.announcers, of the tracker."""
        return self._run(f"announce/{self._blob.info_hash}", *words)

    def chain(self, *words: str) -> dict[str, Any]:
        """The same of the planner."""
        return self._run(f"chain/{self._blob.sha256}", *words)

    def _run(self, what: str, *words: str) -> dict[str, Any]:
        """With the share of its processor that the head took, percent."""
        before = processor_seconds(self._pid)
        everything = set(range(os.cpu_count() or 1))
        with on_cpus(everything - {HEAD_CPU}):
            argv = [sys.executable, "-m", "lab.announcers", f"{ADDRESS}:{PORT}", what, str(self._secrets)]
            done = run([*self._client.inside, *argv, *words], timeout=180)
        found: dict[str, Any] = json.loads(done.stdout)
        found["per_second"] = round(found["answered"] / found["seconds"])
        found["head_cpu"] = round(100 * (processor_seconds(self._pid) - before) / found["seconds"])
        return found

    def known(self) -> int:
        """How many members the registry has, by an announce of the first node."""
        line = self._secrets.read_text().split()[0]
        script = (
            "import sys,urllib.request as u; from lab.announcers import request as r; "
            "w = r(0, sys.argv[1], bytes.fromhex(sys.argv[2])[:20], sys.argv[3]).split()[1].decode(); "
            "sys.stdout.buffer.write(u.urlopen('http://' + sys.argv[1] + w, timeout=20).read())"
        )
        argv = [sys.executable, "-c", script, f"{ADDRESS}:{PORT}", self._blob.info_hash, line]
        answer = run([*self._client.inside, *argv]).stdout
        return int(answer.partition("10:incompletei")[2].partition("e")[0])


def processor_seconds(pid: int) -> float:
    """What a process has taken of processors, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def head_and_nodes(count: int) -> Iterator[Over]:
    """A real head on one processor, with so many nodes in its catalog."""
    with tempfile.TemporaryDirectory(prefix="rookery-tracker-") as made, netns.room() as room:
        place, directory = HeadPlace(Path(made)), Path(made)
        place.prepare()
        server, client = room.host(f"{ADDRESS}/16"), room.host("10.80.0.10/16")
        paths = Paths(directory / "head")
        with on_cpus({HEAD_CPU}), place.serving(room, server) as serving:
            place.offer(1)
            catalog = Catalog.open(f"sqlite:///{paths.database}")
            version = catalog.resolve("random-1")
            catalog.close()
            (blob,) = parse_payload(version.manifest.signed_bytes).blobs
            secrets = directory / "secrets"
            secrets.write_text("\n".join(enrol(paths, version.id, count)))
            yield Over(client, blob, secrets, serving.pid)


def measure(quick: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    rounds, seconds = (5_000, "2") if quick else (50_000, "8")
    found: dict[str, Any] = {
        "rookery": __version__,
        "machine": f"{os.cpu_count()} x {_processor()}, Python {platform.python_version()}",
        "alone_per_second": {str(count): round(announces_alone(count, rounds)) for count in (1_000, MANY)},
        "naming_us": {key: round(value, 1) for key, value in naming(MANY, rounds).items()},
        "bytes_per_node": {str(count): round(memory(count)) for count in (MANY, 50_000)},
    }
    with head_and_nodes(MANY) as over:
        found["chain_storm"] = over.chain("storm", str(STORM_SECONDS))
        found["storm"] = over.announce("storm", str(STORM_SECONDS))
        found["storm"]["known"] = over.known()
        for how in ("new", "kept"):
            found[how] = over.announce(how, seconds, str(CONNECTIONS))
            print(f"{how}: {found[how]}", file=sys.stderr)
        found["chain"] = over.chain("new", seconds, str(CONNECTIONS))
    return found


def page(found: dict[str, Any]) -> str:
    """The page for people."""
    naming_us, storm_row, alone = found["naming_us"], found["storm"], found["alone_per_second"]
    placed = found["chain_storm"]
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "# The tracker, measured",
        "",
        f"By `make bench-tracker` on {found['machine']}; the numbers are also in [tracker.json](tracker.json).",
        "",
        f"Over HTTP: the real head, held to one processor, in a network namespace; {MANY:,} nodes, each with a session",
        f"credential of its own in the head's catalog (SQLite) and a rack of {IN_RACK}. Whoever announces runs on",
        f"another processor. In steady load {CONNECTIONS} connections ask without a pause, going round all the nodes.",
        "",
        "| what | |",
        "|---|---|",
        f"| announces per second, registry alone (read, take in, name, write), 1,000 nodes known | {alone['1000']:,} |",
        f"| the same, {MANY:,} nodes known | {alone[str(MANY)]:,} |",
        (
            f"| naming peers with {MANY:,} nodes known, least / median / p99, µs |"
            f" {naming_us['min']} / {naming_us['median']} / {naming_us['p99']} |"
        ),
        (
            f"| memory per node, {MANY:,} / 50,000 known, bytes |"
            f" {found['bytes_per_node'][str(MANY)]:,} / {found['bytes_per_node']['50000']:,} |"
        ),
    ]
    steady = (
        ("new", "announces per second over HTTP, a new connection for each"),
        ("kept", "announces per second over HTTP, connections kept"),
        ("chain", "places in the chain given per second, a new connection for each"),
    )
    for how, words in steady:
        row = found[how]
        lines += [
            f"| {words} | {row['per_second']:,} |",
            (
                f"| … median / p99, ms; processor of the head; wrong answers |"
                f" {row['median_ms']} / {row['p99_ms']}; {row['head_cpu']} %; {row['wrong']} |"
            ),
        ]
    lines += [
        (
            f"| storm: {MANY:,} nodes in {STORM_SECONDS:.0f} s, each on a new connection: right answers |"
            f" {storm_row['answered']:,} |"
        ),
        f"| … in the registry afterwards | {storm_row['known']:,} |",
        f"| … connections tried again / wrong answers | {storm_row['retries']} / {storm_row['wrong']} |",
        (
            f"| … median / p99 / worst, ms; processor of the head |"
            f" {storm_row['median_ms']} / {storm_row['p99_ms']} / {storm_row['worst_ms']}; {storm_row['head_cpu']} % |"
        ),
        (
            f"| the same storm, each asking for its first place in the chain: right answers; tried again; wrong |"
            f" {placed['answered']:,}; {placed['retries']}; {placed['wrong']} |"
        ),
        (
            f"| … median / p99 / worst, ms; processor of the head |"
            f" {placed['median_ms']} / {placed['p99_ms']} / {placed['worst_ms']}; {placed['head_cpu']} % |"
        ),
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and write page and JSON; 1 when the storm lost somebody."""
    parser = argparse.ArgumentParser(prog="python3 -m lab.tracker", description="what the tracker can do")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--into", type=Path, help="directory for tracker.json and tracker.md")
    given = parser.parse_args(words)
    found = measure(given.quick)
    if given.into:
        given.into.mkdir(parents=True, exist_ok=True)
        (given.into / "tracker.json").write_text(json.dumps(found, indent=1) + "\n")
        (given.into / "tracker.md").write_text(page(found))
    print(page(found))
    lost = MANY - min(found["storm"]["answered"], found["storm"]["known"], found["chain_storm"]["answered"])
    if lost:
        print(f"the storm lost {lost} nodes", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
