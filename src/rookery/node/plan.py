# SPDX-License-Identifier: Apache-2.0
"""The plan of a node's journey: from what is known, what is done. Pure; the journey asks again at each step, when it
knows more, so the plan grows and its finished part does not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rookery.errors import ErrorKind, RookeryError
from rookery.node import settle
from rookery.node.action import Action, Kind
from rookery.node.cmdline import CommandLine
from rookery.node.modes import ram
from rookery.node.network import Lease
from rookery.node.places import SITE_KEY
from rookery.node.settle import Image
from rookery.wire.facts import Facts
from rookery.wire.manifest import Manifest
from rookery.wire.orders import Orders
from rookery.wire.report import STEPS, Step

# How a version becomes a running node. A mode plans the steps fetch, verify and root.
MODES: dict[str, Callable[[Manifest, Facts | None], tuple[Action, ...]]] = {"ram": ram.plan}
# What the kernel's network and the root need, besides what devices ask for.
NEEDED_MODULES = "loop squashfs overlay af_packet"
FIRST, LAST = Step.MODULES, Step.SWITCH
MOST_REFUSALS = 4


@dataclass(frozen=True)
class Known:
    """What a node knows so far. manifest: once its signature was checked. image: once the root is mounted."""

    line: CommandLine
    lease: Lease | None = None
    facts: Facts | None = None
    orders: Orders | None = None
    manifest: Manifest | None = None
    image: Image | None = None


def plan(known: Known) -> tuple[Action, ...]:
    """Everything that can be planned from what is known, in order.

    Raises RookeryError: `invalid` for a mode that this agent does not have, `no-space`, as the mode says.
    """
    actions = _arrive(known.line)
    if known.orders and known.manifest:
        actions += _mode(known.orders.mode)(known.manifest, known.facts)
        if known.image:
            actions += settle.plan(known.orders, known.manifest, known.lease, known.facts, known.image)
    return actions


def next_step(step: Step) -> Step | None:
    """The step after this one; None after the journey's last."""
    return None if step is LAST else STEPS[STEPS.index(step) + 1]


def resume_at(step: Step, kind: ErrorKind) -> Step:
    """Where to take up after `step` failed.

    A refused credential is fetched anew. A head that went away may be behind another card now. Whatever fails after the
    orders starts with new orders: the operator's remedy (another image, a published one) arrives by them.
    """
    if kind is ErrorKind.UNAUTHORIZED and step in _AFTER_HELLO:
        return Step.HELLO
    if step in (Step.HELLO, Step.ORDERS) and kind is ErrorKind.UNAVAILABLE:
        return Step.NETWORK
    return Step.ORDERS if step in _AFTER_ORDERS else step


def needs_new_start(step: Step, kind: ErrorKind, refusals: int) -> bool:
    """Whether only a new start of the machine helps after `step` failed.

    refusals: how often in a row the head refused the boot token, this time included. A token that is spent, expired or
    forgotten stays so; with the next start comes a new one. More than once is asked because a head that was just put
    back in place may know it a moment later.
    """
    return step is Step.HELLO and kind is ErrorKind.UNAUTHORIZED and refusals >= MOST_REFUSALS


_AFTER_HELLO = STEPS[STEPS.index(Step.HELLO) + 1 :]
_AFTER_ORDERS = STEPS[STEPS.index(Step.ORDERS) + 1 :]


def _arrive(line: CommandLine) -> tuple[Action, ...]:
    card = line.boot_mac or "any card"
    greet = (Action(Step.HELLO, Kind.HELLO, line.head, "the boot token becomes this boot's credential"),)
    return (
        Action(Step.MODULES, Kind.LOAD_DRIVERS, "all devices", "drivers that the devices ask for by modalias"),
        Action(Step.MODULES, Kind.LOAD_MODULES, NEEDED_MODULES, "for DHCP and for the image's root"),
        Action(Step.NETWORK, Kind.CONNECT, card, "an address, and a way to the head" if line.head else "an address"),
        Action(Step.PROBE, Kind.PROBE, "this machine", "the head chooses by these facts"),
        *(greet if not line.orders else ()),
        Action(Step.ORDERS, Kind.TAKE_ORDERS, line.orders or line.head, "what to become"),
        Action(Step.ORDERS, Kind.CHECK_MANIFEST, str(SITE_KEY), "only what the site signed is believed"),
    )


def _mode(name: str) -> Callable[[Manifest, Facts | None], tuple[Action, ...]]:
    if name not in MODES:
        raise RookeryError(
            f"the orders say mode {name!r}, which this agent does not have",
            kind=ErrorKind.INVALID,
            hint=f"set the node's mode to one of: {', '.join(MODES)}",
        )
    return MODES[name]
