# SPDX-License-Identifier: Apache-2.0
"""Who holds a port on this host, by /proc (proc(5)); other users' processes are named only to root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LISTEN, UNCONNECTED = "0A", "07"


@dataclass(frozen=True)
class User:
    """A process that holds a port. pid: None when we may not know. program: its short name; command: all words."""

    pid: int | None
    program: str = ""
    command: str = ""

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})" if self.pid is not None else "a program that only root may see"


def inodes(table: str, port: int, state: str) -> frozenset[str]:
    """The socket inodes at a local port, in the text of /proc/net/tcp, tcp6, udp or udp6."""
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == state and int(words[1].rpartition(":")[2], 16) == port:
            found.add(words[9])
    return frozenset(found)


def users(protocol: str, port: int) -> tuple[User, ...]:
    """The processes that listen on `port` (`tcp`), or are bound to it (`udp`), in this network namespace."""
    state = LISTEN if protocol == "tcp" else UNCONNECTED
    wanted: set[str] = set()
    for name in (protocol, f"{protocol}6"):
        table = Path("/proc/self/net") / name
        if table.exists():
            wanted |= inodes(table.read_text(), port, state)
    if not wanted:
        return ()
    found = {pid: _user(pid) for pid in _processes() if not wanted.isdisjoint(_sockets(pid))}
    return tuple(found[pid] for pid in sorted(found)) or (User(None),)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets; none when it is gone or not ours to see."""
    found: set[str] = set()
    try:
        handles = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for handle in handles:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{handle}")
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[len("socket:[") : -1])
    return found


def _user(pid: int) -> User:
    try:
        program = Path(f"/proc/{pid}/comm").read_text().strip()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return User(pid, "a process that just ended")
    return User(pid, program, command)
