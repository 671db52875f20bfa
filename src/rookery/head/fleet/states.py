# SPDX-License-Identifier: Apache-2.0
"""What becomes of a node when something happens: pure functions from a node to a node and its events.

    new, discovered -> waiting -> booting -> provisioning <-> failed
                                     ^            |             |
                                     '--- ready <-'-------------'

A boot that said hello is known by its boot_id, which the node's last report carries. Reports of any other boot, and
those that were overtaken by a newer one, change nothing. A mere request to boot proves nothing (anyone can send it): it
changes what the operator sees, but the next report of the boot that really runs sets it right again.
"""

from __future__ import annotations

import dataclasses
import re

from rookery.head.catalog.catalog import Happenings
from rookery.head.catalog.noderange import is_automatic
from rookery.head.catalog.rows import Node, Standing
from rookery.wire.facts import Facts
from rookery.wire.orders import Word
from rookery.wire.report import NodeState, Report, Step

Outcome = tuple[Node, Happenings]

# Firmware that asks twice within this time is one boot; only the first is an event.
SAME_BOOT_SECONDS = 5.0
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION = re.compile(r"[0-9a-f]{64}")
_BEFORE_HELLO = (Step.KERNEL, Step.MODULES, Step.NETWORK, Step.PROBE)


def asked_to_boot(node: Node, version: str | None, now: float, trouble: str = "") -> Outcome:
    """The machine's firmware asked what to boot, and gets `version` (id), or None when it has to wait.

    trouble: why an assigned image cannot be had, in a few words.
    """
    if version is not None:
        again = node.state is NodeState.BOOTING and node.version == version
        changed = _to(node, NodeState.BOOTING, now, version=version, started_at=now)
        if again and now - (node.started_at or 0.0) < SAME_BOOT_SECONDS:
            return changed, ()
        return changed, (("booting", f"asked to boot, gets {node.image} (version {version[:12]})"),)
    if node.state is NodeState.DISCOVERED and node.image is None and is_automatic(node.name):
        return node, ()
    why = trouble or "no image is assigned"
    waiting = _to(node, NodeState.WAITING, now)
    if waiting == node:
        return node, ()
    return waiting, (("waiting", f"asked to boot; {why}, so it waits"),)


def said_hello(node: Node, boot_id: str, facts: Facts, now: float) -> Outcome:
    """The agent runs on the machine and said hello. The same boot may say it again: its answer may have been lost."""
    known = dataclasses.replace(node, facts=facts, uuid=_uuid(facts) or node.uuid)
    if node.report is not None and node.report.boot_id == boot_id:
        return known, ()
    # Until the node reports how long its own steps took, the whole way to here counts as the firmware's.
    seconds = {} if node.started_at is None else {Step.FIRMWARE.value: max(0.0, now - node.started_at)}
    report = Report(boot_id=boot_id, sequence=0, step=Step.HELLO, seconds=seconds)
    happened = [("provisioning", f"said hello: {_machine(facts)}")]
    shown = {card.mac.lower() for card in facts.network_cards}
    if node.macs and shown and shown.isdisjoint(node.macs):
        happened.append(("stranger", f"has none of the MACs {', '.join(node.macs)} that it is known by"))
    return _to(known, NodeState.PROVISIONING, now, report=report, reported_at=now), tuple(happened)


def reported(node: Node, report: Report, now: float) -> Outcome:
    """The node reported how far it is. One of another boot than the last hello's, or an overtaken one, is ignored."""
    last = node.report
    if last is None or last.boot_id != report.boot_id or report.sequence < last.sequence:
        return node, ()
    state = _state_of(node, last, report)
    changed = _to(
        node,
        state,
        now,
        report=dataclasses.replace(report, seconds=_seconds(last, report)),
        reported_at=now,
        version=report.version if _VERSION.fullmatch(report.version) else node.version,
    )
    return changed, _told(node, changed, last, report, now)


def may_fetch(node: Node | Standing) -> bool:
    """Whether the swarm is open to a node: it is on its way up, or it may give to others."""
    if node.state in (NodeState.PROVISIONING, NodeState.FAILED):
        return True
    # A seeding node in whose name somebody asked to boot goes on seeding.
    return node.may_seed and node.state in (NodeState.READY, NodeState.BOOTING, NodeState.WAITING)


def word(node: Node) -> Word:
    """What the head answers to the node's report."""
    stop = node.state is NodeState.READY and not node.may_seed
    return Word.STOP_SEEDING if stop else Word.GO_ON


def _to(node: Node, state: NodeState, now: float, **changes: object) -> Node:
    since = node.state_since if node.state is state else now
    return dataclasses.replace(node, state=state, state_since=since, **changes)  # type: ignore[arg-type]


def _state_of(node: Node, last: Report, report: Report) -> NodeState:
    # Whoever was ready in this boot stays so: what fails afterwards (giving to others, say) does not undo it.
    if report.step is Step.READY or last.step is Step.READY or node.state is NodeState.READY:
        return NodeState.READY
    return NodeState.PROVISIONING if report.error is None else NodeState.FAILED


def _seconds(last: Report, report: Report) -> dict[str, float]:
    firmware = last.seconds.get(Step.FIRMWARE.value)
    own = {step: spent for step, spent in report.seconds.items() if step != Step.FIRMWARE.value}
    if firmware is None:
        return own
    if set(last.seconds) == {Step.FIRMWARE.value}:
        # The node's first report: what it spent before its hello was not the firmware's.
        firmware = max(0.0, firmware - sum(own.get(step.value, 0.0) for step in _BEFORE_HELLO))
    return {Step.FIRMWARE.value: firmware, **own}


def _told(before: Node, after: Node, last: Report, report: Report, now: float) -> Happenings:
    if report.error is not None:
        if last.error is not None and last.error.message == report.error.message and before.state is after.state:
            return ()
        kind = "failed" if after.state is NodeState.FAILED else "trouble"
        return ((kind, f"step {report.step} failed (attempt {report.attempt}): {report.error.message}"),)
    if before.state is after.state:
        return ()
    if after.state is NodeState.READY:
        took = "" if before.started_at is None else f" after {max(0.0, now - before.started_at):.0f} s"
        if last.step is Step.READY:
            return (("ready", "still runs: the request to boot did not come of it"),)
        system = f"; systemd says {report.system}" if report.system else ""
        return (("ready", f"ready{took}, runs version {(after.version or 'unknown')[:12]}{system}"),)
    goes_on = "goes on" if before.state is NodeState.FAILED else "is on its way"
    return (("provisioning", f"{goes_on} with step {report.step} (attempt {report.attempt})"),)


def _uuid(facts: Facts) -> str | None:
    text = facts.uuid.lower()
    return text if _UUID.fullmatch(text) and set(text) - set("0f-") else None


def _machine(facts: Facts) -> str:
    model = " ".join(part for part in (facts.vendor, facts.model) if part) or "a machine"
    plural = "" if facts.cpus == 1 else "s"
    return f"{model}, {facts.cpus} processor{plural}, {facts.memory / 2**30:.1f} GiB, {facts.firmware}"
