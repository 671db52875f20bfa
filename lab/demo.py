# SPDX-License-Identifier: Apache-2.0
"""The first flood: three machines PXE-boot from one image that they hand to each other. `make demo` runs this.

Everything happens in network namespaces that are made here and removed at the end, also on Ctrl-C. What is kept for the
next run is the head's directory with the built image (`.cache/demo`).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import netns, qemu
from rookery import files
from rookery.errors import ErrorKind, RookeryError, record_of
from rookery.run import Child, environment, run, spawn

TOP = Path(__file__).resolve().parents[1]
ADDRESS = "10.77.0.1"
RANGE = "10.77.0.100-10.77.0.199"
RECIPE = TOP / "examples" / "recipes" / "bookworm.toml"
IMAGE = "bookworm"
INTERRUPTED = 130


@dataclass(frozen=True)
class Demo:
    """What was asked for. directory: where the head and the consoles live. nodes: how many machines. memory: MiB of
    each. rate: of every network card, the head's included, Mbit/s each way. timeout: seconds for all to get ready."""

    directory: Path
    nodes: int = 3
    memory: int = 1024
    rate: int = 50
    timeout: int = 300

    @property
    def head(self) -> Path:
        """The head's directory."""
        return self.directory / "head"

    @property
    def noderange(self) -> str:
        """The machines, as a noderange."""
        return f"n[1-{self.nodes}]"

    @property
    def machines(self) -> tuple[tuple[str, str], ...]:
        """Name and MAC of each machine; the MACs are of QEMU's range."""
        return tuple((f"n{number}", f"52:54:00:77:00:{number:02x}") for number in range(1, self.nodes + 1))

    @property
    def reference(self) -> str:
        """The image with a tag that names the recipe's content, so that a changed recipe is built anew."""
        return f"{IMAGE}:{hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:12]}"

    def rookery(self, *words: str) -> list[str]:
        """The words of one `rookery` command for this head."""
        return [sys.executable, "-m", "rookery.cli", *words, "--dir", str(self.head)]


def main() -> int:
    """Run the demo; 0 when every node got ready."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    try:
        code = flood(_arguments())
    except KeyboardInterrupt:
        say("interrupted; everything that the demo started is gone")
        return INTERRUPTED
    except RookeryError as error:
        record = record_of(error)
        print(f"error: {record.message}", file=sys.stderr)
        for line in record.details.splitlines():
            print(f"  {line}", file=sys.stderr)
        if record.hint:
            print(f"try: {record.hint}", file=sys.stderr)
        return 1
    took = f"{time.monotonic() - started:.0f} s"
    say(f"{'failed after' if code else 'done in'} {took}; namespaces, machines and head are gone")
    return code


def flood(demo: Demo) -> int:
    """Build, serve, boot, watch. Returns the exit code of watching. Raises RookeryError."""
    netns.require()
    netns.sweep()
    say("looking which kind of virtual machine runs here")
    accelerate = qemu.accelerator()
    say({"kvm": "KVM works: the machines run at full speed", "tcg": "no usable KVM: software emulation"}[accelerate])
    with netns.room() as room:
        # Emulated machines are slow: unshaped, the head would be done with them before they could help each other.
        rate = demo.rate * 1_000_000
        prepare(demo)
        with serve(demo, room, room.host(f"{ADDRESS}/24", rate=rate)):
            if not has_image(demo):
                say(f"building the image from {RECIPE.relative_to(TOP)}")
                name, tag = demo.reference.split(":")
                call(demo.rookery("image", "build", name, str(RECIPE), "--tag", tag))
            register(demo)
            say(f"switching on {demo.nodes} machines; their consoles are {demo.directory}/n*.console")
            with contextlib.ExitStack() as stack:
                for name, mac in demo.machines:
                    place = room.machine(rate).namespace
                    machine = qemu.Machine(name, mac, demo.directory, demo.memory, namespace=place, tap=netns.TAP)
                    stack.enter_context(qemu.boot(machine, accelerate))
                watching = demo.rookery("watch", demo.noderange, "--until-ready", "--timeout", str(demo.timeout))
                if code := call(watching, check=False):
                    say(f"not every node got ready; read their consoles and {demo.directory}/head.log")
                return code


def prepare(demo: Demo) -> None:
    """Make the head's directory, or take the one of the last run."""
    demo.directory.mkdir(parents=True, exist_ok=True)
    if not (demo.head / "rookery.toml").exists():
        say(f"setting up a head in {demo.head}")
        words = ["--interface", netns.DEVICE, "--address", ADDRESS, "--dhcp", "full", "--dhcp-range", RANGE]
        run(demo.rookery("init", *words))
    # The head lives in a namespace without a way out; packages come through ours, whose process id is new each time.
    config = demo.head / "rookery.toml"
    text = re.sub(r"(?ms)^\[build\]\n.*?(?=^\[|\Z)", "", config.read_text()).rstrip()
    text += f'\n\n[build]\nnetwork_namespace = "/proc/{os.getpid()}/ns/net"\n'
    files.write_atomic(config, text.encode())


@contextlib.contextmanager
def serve(demo: Demo, room: netns.Room, host: netns.Host) -> Iterator[None]:
    """The head on a host of the room, from when it answers until the block is left."""
    log = demo.directory / "head.log"
    say(f"starting the head at {ADDRESS}, in a network of its own at {demo.rate} Mbit/s; it logs to {log}")
    with log.open("wb") as sink, room.process(host, demo.rookery("serve"), stdout=sink, stderr=sink) as head:
        wait_for_head(demo, head, log)
        yield


def wait_for_head(demo: Demo, head: Child, log: Path, seconds: float = 600) -> None:
    """Return when the head answers on its socket. Raises RookeryError with the end of its log when it does not."""
    began = told = time.monotonic()
    while time.monotonic() - began < seconds and head.poll() is None:
        if run(demo.rookery("image", "list", "--json"), check=False).code == 0:
            return
        if time.monotonic() - told > 5:  # a first start packs the agent, which a slow machine does for minutes
            told = time.monotonic()
            say(f"waiting for the head since {told - began:.0f} s: {last_line(log)}")
        time.sleep(0.3)
    raise RookeryError(
        "the head did not start" if head.poll() is None else f"the head ended with code {head.poll()}",
        details="\n".join(log.read_text(errors="replace").splitlines()[-20:]),
        hint=f"read {log}",
    )


def last_line(log: Path) -> str:
    """The last line of a log without its time, or empty."""
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1].partition(": ")[2] if lines else ""


def has_image(demo: Demo) -> bool:
    """Whether the recipe was built in an earlier run."""
    done = run(demo.rookery("image", "show", demo.reference, "--json"), check=False)
    if done.code == 0:
        say(f"the image {demo.reference} is there from an earlier run")
    return done.code == 0


def register(demo: Demo) -> None:
    """Name the machines and give them the image."""
    listed = run(demo.rookery("node", "list", "--json")).stdout
    if old := [node["name"] for node in json.loads(listed)["nodes"]]:
        run(demo.rookery("node", "rm", ",".join(old), "-y"))
    table = demo.directory / "machines.csv"
    files.write_atomic(table, "".join(f"{name},{mac}\n" for name, mac in demo.machines).encode())
    call(demo.rookery("node", "add", demo.noderange, "--macs-from", str(table)))
    call(demo.rookery("deploy", demo.noderange, "--image", demo.reference, "-y"))


def call(argv: Sequence[str], check: bool = True) -> int:
    """Run a command that draws on our terminal. Raises RookeryError `failed` with check."""
    shown = "rookery " + " ".join(argv[3:-2])
    print(f"\033[1m$ {shown}\033[0m" if sys.stdout.isatty() else f"$ {shown}", flush=True)
    colours = {name: os.environ[name] for name in ("COLUMNS", "LINES", "COLORTERM", "NO_COLOR") if name in os.environ}
    with spawn(argv, stdout=None, stderr=None, env=environment(colours)) as child:
        code = child.wait()
    if check and code != 0:
        raise RookeryError(f"'{shown}' failed with exit code {code}", kind=ErrorKind.FAILED)
    return code


def say(text: str) -> None:
    """One line of narration."""
    print(f"-- {text}", flush=True)


def _arguments() -> Demo:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=TOP / ".cache" / "demo", help="where head and consoles live")
    parser.add_argument("--nodes", type=int, default=3, choices=range(1, 10), help="how many machines (3)")
    parser.add_argument("--memory", type=int, default=1024, help="MiB of each machine (1024)")
    parser.add_argument("--rate", type=int, default=50, help="Mbit/s of every network card (50)")
    parser.add_argument("--timeout", type=int, default=300, help="seconds until all must be ready (300)")
    given = parser.parse_args()
    return Demo(given.directory.resolve(), given.nodes, given.memory, given.rate, given.timeout)


if __name__ == "__main__":
    sys.exit(main())
