# SPDX-License-Identifier: Apache-2.0
"""Action: one thing that a node does on its journey, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rookery.wire.report import Step


class Kind(StrEnum):
    """What sort of deed an action is: execute.py has one function for each."""

    LOAD_DRIVERS = "load-drivers"  # what the machine's devices ask for
    LOAD_MODULES = "load-modules"  # subject: module names
    CONNECT = "connect"  # link and address; subject: card to prefer, or "any card"
    PROBE = "probe"
    HELLO = "hello"  # subject: the head's URL
    TAKE_ORDERS = "take-orders"  # subject: the head's URL, or a file
    CHECK_MANIFEST = "check-manifest"  # subject: file of the public key that is believed
    MOUNT_MEMORY = "mount-memory"  # a tmpfs; subject: where; text: mount options
    FETCH = "fetch"  # subject: SHA-256 of the blob
    VERIFY = "verify"  # subject: SHA-256 of the blob
    MOUNT_IMAGE = "mount-image"  # a squashfs through a loop device; subject: where; text: the file
    MOUNT_OVERLAY = "mount-overlay"  # subject: where; text: mount options
    WRITE = "write"  # subject: path in the new root; text: content
    LINK = "link"  # subject: path in the new root; text: what it points to
    MAKE_HOST_KEY = "make-host-key"  # subject: path in the new root; text: type
    RESTORE_LISTS = "restore-lists"  # access control lists, from a file of the image; subject: that file
    KEEP_AGENT = "keep-agent"  # copy the agent out of the first root; subject: where to
    HAND_OVER = "hand-over"  # leave word for the agent beside the image; subject: file
    WRITE_UNIT = "write-unit"  # subject: name of a unit that is started in the image; text: content
    SWITCH = "switch"  # subject: the image's init


@dataclass(frozen=True)
class Action:
    """One thing to do. step: when. kind: what. subject: to what. reason: why, for people. text: content, options or
    target, as the kind says. mode: permission bits of what is written."""

    step: Step
    kind: Kind
    subject: str
    reason: str
    text: str = ""
    mode: int = 0o644
