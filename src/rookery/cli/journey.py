# SPDX-License-Identifier: Apache-2.0
"""How nodes come up, drawn: the live view, the plain lines for a log, and the tables of status and of the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rookery.api.types import NodeStatus, Status
from rookery.cli import render
from rookery.cli.rates import fetches

# Steps as nodes name them (wire/report.Step), in the order of a journey.
STEPS = (
    "firmware",
    "kernel",
    "modules",
    "network",
    "probe",
    "hello",
    "orders",
    "fetch",
    "verify",
    "root",
    "settle",
    "switch",
    "system",
)
ACROSS = 6  # nodes that stand side by side in the table of steps; more of them stand below each other
LIVE_NODES = 40  # rows of the live view: those that are not ready come first


def where(node: NodeStatus) -> str:
    """The step that a node is in, in words."""
    if node.error is not None:
        again = f", attempt {node.attempt}" if node.attempt > 1 else ""
        return f"{node.step} failed{again}: {node.error.message}"
    if node.state in {"provisioning", "failed"}:
        return node.step
    return node.state


def elapsed(node: NodeStatus) -> float:
    """Seconds of the steps that a node has finished."""
    return sum(node.seconds.values())


def from_where(node: NodeStatus) -> str:
    """How a node's bytes divide: `83 % peers, 17 % head`; empty when there are none."""
    head, peers = _shares(node)
    return f"{peers} peers, {head} head" if peers else ""


def _shares(node: NodeStatus) -> tuple[str, str]:
    """What part of a node's bytes came from the head, and from peers; empty when there are none."""
    whole = node.transfer.from_head + node.transfer.from_peers
    if not whole:
        return "", ""
    peers = round(100 * node.transfer.from_peers / whole)
    return f"{100 - peers} %", f"{peers} %"


def states_table(status: Status) -> Table:
    """The nodes folded by state."""
    rows = [(render.state(item.state), str(item.count), item.nodes) for item in status.states]
    return render.table(("STATE", "COUNT", "NODES"), rows, right=("COUNT",))


def nodes_table(nodes: Sequence[NodeStatus]) -> Table:
    """One row a node: where it is, and what it received from whom."""
    columns = ("NODE", "STATE", "IMAGE", "VERSION", "SECONDS", "FROM HEAD", "PEERS", "SHARE")
    rows = [
        (
            node.name,
            _state(node),
            node.image,
            render.short(node.version),
            f"{elapsed(node):.1f}" if node.seconds else "",
            render.size(node.transfer.from_head) if node.transfer.total else "",
            render.size(node.transfer.from_peers) if node.transfer.total else "",
            render.share(node.transfer.from_peers, node.transfer.from_head + node.transfer.from_peers),
        )
        for node in nodes
    ]
    return render.table(columns, rows, right=columns[-4:], folded=("STATE", "IMAGE"))


def _state(node: NodeStatus) -> Text:
    step = where(node)
    text = step if node.error is not None or step == node.state else f"{node.state}: {step}"
    return Text(text, style=render.STATE_STYLE.get(node.state, ""))


def steps_table(nodes: Sequence[NodeStatus]) -> Table:
    """Seconds in each step. A few nodes stand side by side; many stand below each other."""
    known = [step for step in STEPS if any(step in node.seconds for node in nodes)]
    if len(nodes) <= ACROSS:
        names = [node.name for node in nodes]
        rows = [[step, *(_seconds(node, step) for node in nodes)] for step in known]
        rows.append(["all steps", *(f"{elapsed(node):.2f}" for node in nodes)])
        return render.table(("SECONDS IN STEP", *names), rows, right=names)
    rows = [[node.name, *(_seconds(node, step) for step in known), f"{elapsed(node):.2f}"] for node in nodes]
    columns = ("NODE", *(step.upper() for step in known), "ALL STEPS")
    return render.table(columns, rows, right=columns[1:])


def _seconds(node: NodeStatus, step: str) -> str:
    return f"{node.seconds[step]:.2f}" if step in node.seconds else "-"


def copies_lines(status: Status) -> list[str]:
    """What the head sent, in copies of each version."""
    return [
        f"The head sent {item.copies:.2f} copies of {item.image} ({render.short(item.version)}, "
        f"{render.size(item.size)}): {render.size(item.sent)} to {render.nodes(item.nodes)}."
        for item in status.copies
    ]


def final(status: Status) -> Group:
    """The end of a watch: seconds in each step, bytes from head and peers, version and state, then the copies."""
    parts: list[RenderableType] = []
    if any(node.seconds for node in status.nodes):
        parts += [steps_table(status.nodes), ""]
    parts.append(nodes_table(status.nodes))
    copies = copies_lines(status)
    return Group(*parts, *(["", *copies] if copies else []))


def live(status: Status, rates: Mapping[str, float], seconds: float) -> Group:
    """The live view: a head line, then one row a node with a bar; those under way come first. rates: see rates.py."""
    ready = sum(node.state == "ready" for node in status.nodes)
    failed = sum(node.state == "failed" for node in status.nodes)
    line = Text(f"{ready} of {len(status.nodes)} ready", style="bold")
    line.append(f", {failed} failed" if failed else "", style="red")
    line.append(f"   {render.seconds(seconds)}   {render.rate(sum(rates.values()))} in all")
    order = sorted(status.nodes, key=lambda node: (node.state == "ready", node.state == "new"))
    columns = ("NODE", "STEP", "", "FETCHED", "RATE", "FROM HEAD", "PEERS")
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, justify="right" if column in columns[3:] else "left", no_wrap=column != "STEP")
    for node in order[:LIVE_NODES]:
        drawn.add_row(*_live_row(node, rates.get(node.name)))
    rest = len(order) - LIVE_NODES
    return Group(line, drawn, *([Text(f"and {rest} more", style="dim")] if rest > 0 else []))


def _live_row(node: NodeStatus, rate: float | None) -> tuple[RenderableType, ...]:
    transfer = node.transfer
    bar = ProgressBar(total=transfer.total, completed=transfer.done, width=20) if transfer.total else ""
    return (
        node.name,
        Text(where(node), style=render.STATE_STYLE.get(node.state, "")),
        bar,
        render.size(transfer.done) if transfer.total else "",
        render.rate(rate) if rate is not None else "",
        *_shares(node),
    )


def lines(before: Mapping[str, NodeStatus], status: Status) -> list[str]:
    """Plain lines for what changed since `before` (by name): one for each node in another state, step or error."""
    found: list[str] = []
    for node in status.nodes:
        last = before.get(node.name)
        if last is not None and (last.state, last.step, last.error) == (node.state, node.step, node.error):
            continue
        text = f"{node.name}: {node.state}"
        text += f", {where(node)}" if where(node) not in {node.state, ""} else ""
        text += f", {from_where(node)}" if from_where(node) and node.step not in {"", "fetch"} else ""
        found.append(text)
    return found


def transfer_line(status: Status, rates: Mapping[str, float]) -> str:
    """One plain line for all fetches under way; empty when there are none. rates: see rates.py."""
    busy = [node for node in status.nodes if fetches(node)]
    if not busy:
        return ""
    done = sum(node.transfer.done for node in busy)
    total = sum(node.transfer.total for node in busy)
    text = f"fetching on {render.nodes(len(busy))}: {render.size(done)} of {render.size(total)}"
    return f"{text}, {render.rate(sum(rates.values()))}" if rates else text
