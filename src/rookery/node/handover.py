# SPDX-License-Identifier: Apache-2.0
"""What the agent in the first root leaves for the agent beside the running image, in files of mode 0600 under /run."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from rookery import codec, files
from rookery.node.places import HANDOVER, READY, SEQUENCE
from rookery.wire.manifest import Blob
from rookery.wire.orders import SeedPolicy, Source
from rookery.wire.report import Transfer


@dataclass(frozen=True)
class Handover:
    """boot_id, node, version: as in reports. head: base URL, empty when the orders came from a file. credential: for
    reports. blob: the root that runs. seconds: of the finished steps. report_seconds: as ordered. switched: seconds
    since boot (CLOCK_MONOTONIC) when the image took over."""

    boot_id: str
    node: str
    version: str
    head: str
    credential: str
    blob: Blob
    source: Source
    seed: SeedPolicy
    switched: float
    seconds: dict[str, float] = field(default_factory=dict)
    transfer: Transfer = field(default_factory=Transfer)
    report_seconds: float = 1.0


@dataclass(frozen=True)
class Readiness:
    """What the ready unit found. seconds: of the step `system`. system: what `systemctl is-system-running` said."""

    seconds: float
    system: str


def leave(handover: Handover, path: Path = HANDOVER) -> None:
    """Write it for the agent beside the image."""
    files.write_atomic(path, codec.dumps(handover).encode(), 0o600)


def take(path: Path = HANDOVER) -> Handover:
    """Read what was left. Raises OSError, or RookeryError `invalid`."""
    return codec.loads(Handover, path.read_bytes(), what=str(path))


def leave_readiness(readiness: Readiness, path: Path = READY) -> None:
    """Write it for the seeding process, whose reports carry it on."""
    files.write_atomic(path, codec.dumps(readiness).encode(), 0o600)


def take_readiness(path: Path = READY) -> Readiness | None:
    """What the ready unit found, or None while it has not."""
    try:
        return codec.loads(Readiness, path.read_bytes(), what=str(path))
    except FileNotFoundError:
        return None


def next_sequence(path: Path = SEQUENCE) -> int:
    """The number of this node's next report: grows over processes, crashes and the change of roots."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        number = int(os.pread(handle, 32, 0) or b"0") + 1
        os.pwrite(handle, b"%d" % number, 0)
        return number
    finally:
        os.close(handle)
