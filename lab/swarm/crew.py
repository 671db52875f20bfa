# SPDX-License-Identifier: Apache-2.0
"""The nodes of one run: started, held at the barrier, told to go, watched, killed, ended."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import netns
from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.run import PIPE, Child, spawn

TOP = Path(__file__).resolve().parents[2]
START_SECONDS = 240.0  # 64 interpreters on two cores


@dataclass
class Member:
    """One node. began: when it was told to go, CLOCK_MONOTONIC, or 0. done: its last word when it has everything, as
    lab.swarm.node says it. curve: (CLOCK_MONOTONIC, bytes that were whole). gone: it was killed on purpose."""

    name: str
    host: netns.Host
    directory: Path
    child: Child
    ready: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    spoilt: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    done: Mapping[str, Any] | None = None
    error: str = ""
    tries: int = 0
    gone: bool = False
    curve: list[tuple[float, int]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether it has everything, or never will."""
        return self.done is not None or self.gone or self.ended.is_set()

    @property
    def whole(self) -> int:
        """Bytes of the pieces that it has and that are right, as it last said."""
        return self.curve[-1][1] if self.curve else 0

    @property
    def seconds(self) -> float:
        """From GO until it had the whole file with the right digest; 0 when it never had."""
        return self.done["at"] - self.began if self.done is not None else 0.0

    @property
    def first_byte_at(self) -> float:
        """When the first right bytes came, CLOCK_MONOTONIC; 0 when it never had everything."""
        return float(self.done["first_byte"]) if self.done is not None else 0.0

    @property
    def first_byte(self) -> float:
        """Seconds from joining the swarm to the first right bytes; 0 when it never had everything."""
        return self.first_byte_at - self.done["joined"] if self.done is not None else 0.0

    @property
    def stats(self) -> Mapping[str, Any]:
        """Its FetchStats as a mapping, or empty."""
        return self.done["stats"] if self.done is not None else {}

    def go(self) -> None:
        """Let it begin."""
        assert self.child.stdin is not None
        self.began = time.monotonic()
        self.curve.append((self.began, 0))
        self.child.stdin.write(b"GO\n")
        self.child.stdin.flush()

    def kill(self) -> None:
        """SIGKILL: it has no time to tell anybody."""
        self.gone = True
        self.child.kill()

    def is_right(self, sha256: str) -> bool:
        """Whether the file that it has has the digest `sha256` (hex)."""
        return any(files.sha256_file(path) == sha256 for path in self.directory.glob("[!.]*"))


class Crew:
    """Starts nodes and watches them; made by `crew()`. url: what they fetch. work: where their copies and logs go."""

    def __init__(self, url: str, work: Path, stack: contextlib.ExitStack) -> None:
        self._url, self._work, self._stack = url, work, stack
        self.members: list[Member] = []

    def add(self, host: netns.Host, garbage: bool = False, lie: bool = False) -> Member:
        """Start a node on a host; it waits at the barrier. garbage, lie: as of lab.swarm.node."""
        name = f"n{len(self.members) + 1}"
        directory = self._work / name
        directory.mkdir()
        sink = self._stack.enter_context((self._work / f"{name}.log").open("wb"))
        words = [sys.executable, "-m", "lab.swarm.node", self._url, "--to", str(directory)]
        words += [*(["--garbage"] if garbage else []), *(["--lie"] if lie else [])]
        child = self._stack.enter_context(
            spawn([*host.inside, *words], stdin=PIPE, stdout=PIPE, stderr=sink, cwd=TOP, grace=1)
        )
        member = Member(name, host, directory, child)
        self.members.append(member)
        threading.Thread(target=self._listen, args=(member,), daemon=True).start()
        return member

    def wait_ready(self) -> None:
        """Return when all that were added stand at the barrier. Raises RookeryError when one does not come."""
        until = time.monotonic() + START_SECONDS
        for member in self.members:
            while not member.ready.wait(0.1):
                if member.ended.is_set() or time.monotonic() > until:
                    raise RookeryError(
                        f"{member.name} did not start", kind=ErrorKind.FAILED, details=self.log(member)[-2000:]
                    )

    def log(self, member: Member) -> str:
        """What a node wrote to its standard error."""
        return (self._work / f"{member.name}.log").read_text(errors="replace")

    @staticmethod
    def _listen(member: Member) -> None:
        assert member.child.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # the pipe is closed when the run is over
            for line in member.child.stdout:
                with contextlib.suppress(json.JSONDecodeError):  # of a node that was killed while it spoke
                    _hear(member, json.loads(line))
        member.ended.set()


@contextlib.contextmanager
def crew(url: str, work: Path) -> Iterator[Crew]:
    """A crew without members; its processes are ended when the block is left."""
    with contextlib.ExitStack() as stack:
        made = Crew(url, work, stack)
        yield made
        for member in made.members:  # all at once, not one after the other
            with contextlib.suppress(OSError):
                member.child.kill()


def _hear(member: Member, said: Mapping[str, Any]) -> None:
    match said["event"]:
        case "ready":
            member.ready.set()
        case "progress" if member.done is None:
            member.curve.append((said["now"], said["done"]))
        case "again":
            member.tries += 1
        case "done":
            member.curve.append((said["at"], said["stats"]["bytes_total"]))
            member.done = said
        case "spoilt":
            member.spoilt.set()
        case "failed":
            member.error = said["message"]
