# SPDX-License-Identifier: Apache-2.0
"""Reports: what a node tells the head while it comes up, and the states that follow from them.

Every report is a full snapshot, so a lost one does no harm and the order of arrival can be mended by `sequence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from rookery.codec import Length, Range
from rookery.errors import ErrorRecord

Bytes = Annotated[int, Range(0, 2**63)]
Seconds = Annotated[float, Range(0, 10**9)]


class Step(StrEnum):
    """The steps of a journey, in order. Each is also a key in `Report.seconds`."""

    FIRMWARE = "firmware"  # boot script asked for -> kernel running; measured by the head
    KERNEL = "kernel"  # kernel start -> agent's first line, from the kernel's own clock
    MODULES = "modules"  # drivers loaded by modalias
    NETWORK = "network"  # link, DHCP
    PROBE = "probe"  # hardware facts
    HELLO = "hello"  # token shown, credential received, clock set
    ORDERS = "orders"  # orders received, manifest's signature checked
    FETCH = "fetch"  # root blob from the swarm
    VERIFY = "verify"  # whole-file digest
    ROOT = "root"  # root file system mounted (mode ram: loop, squashfs, overlay)
    SETTLE = "settle"  # identity, network, keys, files
    SWITCH = "switch"  # handed over to the image's init
    SYSTEM = "system"  # the image's init until its default target
    READY = "ready"


STEPS = tuple(Step)


class NodeState(StrEnum):
    """What a node is, as far as the head knows."""

    NEW = "new"  # named by the operator, never seen
    DISCOVERED = "discovered"  # asked to boot, nobody named it yet
    WAITING = "waiting"  # asked to boot, has no image assigned
    BOOTING = "booting"  # got its boot script, has not said hello
    PROVISIONING = "provisioning"  # said hello, on its way
    READY = "ready"  # its own init reached the default target on the image's root
    FAILED = "failed"  # a step failed; the node tries again by itself


@dataclass(frozen=True)
class Transfer:
    """How a fetch stands. All in bytes but `rate` (bytes per second, now) and `peers` (connections)."""

    total: Bytes = 0
    done: Bytes = 0  # verified pieces
    from_head: Bytes = 0  # payload received from the head: swarm and HTTP together
    from_head_http: Bytes = 0  # the part of it that came by HTTP
    from_peers: Bytes = 0
    had: Bytes = 0  # of `done`: was there before, or came out of an older version
    sent: Bytes = 0  # payload given to others
    rate: Annotated[float, Range(0, 1e15)] = 0.0
    peers: Annotated[int, Range(0, 10**6)] = 0
    hash_failures: Annotated[int, Range(0, 10**9)] = 0


@dataclass(frozen=True)
class Report:
    """A snapshot of a node's journey.

    boot_id: as in Hello. sequence: grows by one with each report. step: where it is. seconds: of each finished
    step. version: of the root that is being fetched or is running. seeding: whether it gives to others now.
    error: why the step failed, when it did; attempt: how often the step was tried.
    """

    boot_id: Annotated[str, Length(64)]
    sequence: Annotated[int, Range(0, 2**53)]
    step: Step
    seconds: Annotated[dict[str, Seconds], Length(32)] = field(default_factory=dict)
    transfer: Transfer = field(default_factory=Transfer)
    version: Annotated[str, Length(64)] = ""
    seeding: bool = False
    error: ErrorRecord | None = None
    attempt: Annotated[int, Range(1, 10**9)] = 1
    system: Annotated[str, Length(64)] = ""  # what `systemctl is-system-running` says, with step `ready`
