# SPDX-License-Identifier: Apache-2.0
"""`rookery status` and `rookery watch`: how nodes come up."""

from __future__ import annotations

import time
from typing import Annotated, Self

import typer
from rich.live import Live

from rookery.api.client import Client
from rookery.api.types import NodeStatus, Status
from rookery.cli import journey, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import Json, MaybeNoderange, flag
from rookery.cli.rates import Rates
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError

app = typer.Typer()
LINE_SECONDS = 5.0  # between plain lines about bytes


@app.command("status", epilog=examples("rookery status", "rookery status n[01-16]", "rookery status --json"))
@speaks_to_head
def status(
    client: Client,
    nodes: MaybeNoderange = "",
    steps: Annotated[bool, flag("--steps", help="The seconds in each step too.")] = False,
    as_json: Json = False,
) -> None:
    """Show how nodes stand: folded by state, then one row a node."""
    found = client.status(nodes)
    if as_json:
        render.show_json(found)
        return
    console = render.out()
    if not found.nodes:
        render.err().print(render.no_nodes(nodes), markup=False)
        return
    console.print(journey.states_table(found))
    console.print()
    console.print(journey.final(found) if steps else journey.nodes_table(found.nodes))


@app.command("watch", epilog=examples("rookery watch", "rookery watch n[01-16] --until-ready --timeout 600"))
@speaks_to_head
def watch(
    client: Client,
    nodes: MaybeNoderange = "",
    until_ready: Annotated[bool, flag("--until-ready", help="End when every node is ready.")] = False,
    timeout: Annotated[
        float | None, typer.Option(help="With --until-ready: give up after so many seconds.", min=0, metavar="SECONDS")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=60)] = 1.0,
    as_json: Annotated[bool, flag("--json", help="At the end print the status as JSON.")] = False,
) -> None:
    """Watch nodes come up; plain lines where there is no terminal. Ends with a table, on Ctrl-C too.

    With --until-ready it exits with 1 when a node did not get ready in time.
    """
    last = _watch(client, nodes, until_ready, timeout, interval)
    if as_json:
        render.show_json(last)
    else:
        render.out().print(journey.final(last))
    late = [node for node in last.nodes if node.state != "ready"]
    if until_ready and (late or not last.nodes):
        raise RookeryError(
            f"{len(late)} of {len(last.nodes)} nodes did not get ready"
            if last.nodes
            else f"no node fits {nodes}"
            if nodes
            else "there are no nodes to get ready",
            details="\n".join(f"{node.name}: {journey.where(node)}" for node in late[:50]),
            hint=f"rookery events --subject node:{late[0].name}" if late else "rookery node add",
        )


def _watch(client: Client, nodes: str, until_ready: bool, timeout: float | None, interval: float) -> Status:
    console = render.err()
    view = _LiveView() if console.is_terminal else _LinesView()
    started = time.monotonic()
    last = client.status(nodes)
    with view:
        try:
            while True:
                seconds = time.monotonic() - started
                view.show(last, seconds)
                if until_ready and last.nodes and all(node.state == "ready" for node in last.nodes):
                    return last
                if timeout is not None and seconds >= timeout:
                    return last
                time.sleep(interval)
                last = _ask(client, nodes, last)
        except KeyboardInterrupt:
            if until_ready:
                raise
            return last


def _ask(client: Client, nodes: str, last: Status) -> Status:
    try:
        return client.status(nodes)
    except RookeryError as error:
        if error.kind is not ErrorKind.UNAVAILABLE:
            raise
        # The head may be starting again: a watch outlives that.
        return last


class _LiveView:
    def __init__(self) -> None:
        self._rates = Rates()
        self._live = Live(console=render.err(), refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def show(self, status: Status, seconds: float) -> None:
        self._live.update(journey.live(status, self._rates.look(status), seconds))


class _LinesView:
    def __init__(self) -> None:
        self._rates = Rates()
        self._before: dict[str, NodeStatus] = {}
        self._spoke_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def show(self, status: Status, seconds: float) -> None:
        said, rates = journey.lines(self._before, status), self._rates.look(status)
        if seconds - self._spoke_at >= LINE_SECONDS and (line := journey.transfer_line(status, rates)):
            self._spoke_at = seconds
            said.append(line)
        for line in said:
            typer.echo(f"{seconds:7.1f} s  {line}", err=True)
        self._before = {node.name: node for node in status.nodes}
