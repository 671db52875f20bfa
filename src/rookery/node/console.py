# SPDX-License-Identifier: Apache-2.0
"""The node's console: one line per step, and the error record as a person reads it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from rookery.errors import ErrorRecord
from rookery.node import clock
from rookery.wire.report import Step, Transfer

ACTIVE = Path("/sys/class/tty/console/active")


def step_line(step: Step, seconds: float, text: str) -> str:
    """A finished step: `network    1.2 s  eth0 has 10.0.0.17/24`."""
    return f"{step:<8} {seconds:6.1f} s  {text}".rstrip()


def error_lines(step: Step, record: ErrorRecord, attempt: int, wait: float) -> tuple[str, ...]:
    """A failed step: what failed, the details, one thing to try, when it is tried again (`wait` in seconds)."""
    lines = [f"{step} FAILED (attempt {attempt}): {record.message}"]
    lines += [f"    {line}" for line in record.details.splitlines()]
    if record.hint:
        lines.append(f"    try: {record.hint}")
    lines.append(f"    next try in {wait:.0f} s")
    return tuple(lines)


def transfer_line(transfer: Transfer) -> str:
    """How a fetch stands: `34 of 127 MB, 11.2 MB/s, 63 % from peers, 5 connections`."""
    got = transfer.from_head + transfer.from_peers
    share = f"{100 * transfer.from_peers / got:.0f} % from peers" if got else "nothing received yet"
    text = f"{transfer.done / 1e6:.0f} of {transfer.total / 1e6:.0f} MB, {transfer.rate / 1e6:.1f} MB/s, {share}"
    text += f", {transfer.peers} connection{'s' * (transfer.peers != 1)}"
    return text + (f", {transfer.hash_failures} damaged pieces" if transfer.hash_failures else "")


class Console:
    """Writes to every console that the kernel uses (screen and serial line), each line with the seconds since boot."""

    def __init__(self, devices: Sequence[Path] | None = None) -> None:
        self._lock = threading.Lock()
        self._devices = tuple(devices) if devices is not None else consoles()

    def say(self, *lines: str) -> None:
        """Write lines. A console that cannot be written to is passed over: nobody may be looking."""
        stamp = f"[{clock.since_boot():8.1f}] rookery: "
        text = "".join(f"{stamp}{line}\r\n" for line in lines).encode(errors="replace")
        with self._lock:
            for device in self._devices:
                with contextlib.suppress(OSError):
                    # Not to become this process's terminal, and not to wait for a serial line that nobody reads.
                    handle = os.open(device, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK)
                    try:
                        os.write(handle, text)
                    finally:
                        os.close(handle)


def consoles(active: Path = ACTIVE) -> tuple[Path, ...]:
    """The devices of all consoles that the kernel writes to; /dev/console where it does not say."""
    try:
        names = active.read_text().split()
    except OSError:
        names = []
    return tuple(Path("/dev", name) for name in names) or (Path("/dev/console"),)
