# SPDX-License-Identifier: Apache-2.0
"""`rookery node …`: the machines that the head knows."""

from __future__ import annotations

import csv
import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rookery.api import types
from rookery.api.client import Client
from rookery.cli import complete, render
from rookery.cli.connection import speaks_to_head
from rookery.cli.options import DryRun, Json, MaybeNoderange, Noderange, OneNode, Yes, apply, confirm
from rookery.cli.render import examples
from rookery.errors import ErrorKind, RookeryError
from rookery.wire.facts import normalize_mac

app = typer.Typer(no_args_is_help=True, help="Add, show, change and remove nodes.")

Settings = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE...", help="Settings; an empty value takes one away.", autocompletion=complete.settings
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting for each of them; repeat for more.")
]


def parse_settings(texts: list[str]) -> dict[str, str]:
    """`key=value` texts as a map. Raises RookeryError `invalid`."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise RookeryError(f"{text!r} is not KEY=VALUE", kind=ErrorKind.INVALID, hint="as in image=base:latest")
        if key in found:
            raise RookeryError(f"{key!r} is set twice", kind=ErrorKind.INVALID)
        found[key] = value
    return found


def read_machines(path: Path) -> tuple[types.Machine, ...]:
    """A CSV file `name,mac[,address]` (a first line of these words, empty lines and `#` lines are skipped); several
    lines of one name give it several MACs. Raises RookeryError with file and line."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise RookeryError(f"no file {path}", kind=ErrorKind.NOT_FOUND) from None
    found: dict[str, types.Machine] = {}
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in next(csv.reader([line]), [])]
        if not any(cells) or cells[0].startswith("#") or (number == 1 and cells[0].lower() == "name"):
            continue
        if len(cells) not in {2, 3} or not cells[0] or not cells[1]:
            raise RookeryError(
                f"{path}:{number}: expected name,mac or name,mac,address, got {line!r}", kind=ErrorKind.INVALID
            )
        name, mac, address = cells[0], cells[1], cells[2] if len(cells) == 3 else ""
        try:
            normalize_mac(mac)
            if address:
                ipaddress.IPv4Address(address)
        except ValueError as error:
            raise RookeryError(f"{path}:{number}: {error}", kind=ErrorKind.INVALID) from None
        before = found.get(name, types.Machine(name))
        found[name] = types.Machine(name, (*before.macs, mac), address or before.address)
    return tuple(found.values())


@app.command(
    "add",
    epilog=examples(
        "rookery node add n01 --mac 52:54:00:12:34:56",
        "rookery node add n[01-16] --macs-from machines.csv --set image=base --set groups=compute",
    ),
)
@speaks_to_head
def add(
    client: Client,
    nodes: Noderange,
    mac: Annotated[list[str] | None, typer.Option(help="A MAC of the node (one node only); repeat for more.")] = None,
    macs_from: Annotated[
        Path | None, typer.Option(help="CSV file of lines name,mac[,address].", dir_okay=False, metavar="FILE")
    ] = None,
    settings: SetOption = None,
    as_json: Json = False,
) -> None:
    """Add nodes by name, all or none."""
    machines = read_machines(macs_from) if macs_from else ()
    if mac:
        if macs_from or set(nodes) & set("[],@!&^"):
            raise RookeryError(
                f"--mac names one machine, and {nodes!r} is not one name",
                kind=ErrorKind.INVALID,
                hint="use --macs-from FILE",
            )
        machines = (types.Machine(nodes, tuple(mac)),)
    changes = client.add_nodes(types.AddNodes(nodes, machines, parse_settings(settings or [])))
    if as_json:
        render.show_json(changes)
    else:
        render.out().print(f"added {changes.nodes}", markup=False)


@app.command(
    "set",
    epilog=examples(
        "rookery node set n[01-16] image=base:stable rack=a1",
        "rookery node set x-525400123456 name=n01",
        "rookery node set n03 kernel_arguments= -y",
    ),
)
@speaks_to_head
def set_nodes(
    client: Client,
    nodes: Noderange,
    settings: Settings,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Change settings of nodes. Shows what changes and asks before it does it.

    Keys: name (one node), mac, address, image, mode, kernel_arguments, may_seed; every other key is an attribute of
    yours (groups=a,b puts a node into @a and @b).
    """
    wanted = types.SetNodes(nodes, parse_settings(settings))
    apply(lambda dry: client.set_nodes(replace(wanted, dry_run=dry)), yes=yes, dry_run=dry_run, as_json=as_json)


@app.command("rename", epilog=examples("rookery node rename n01 login1", "rookery node rename x-525400123456 n17"))
@speaks_to_head
def rename(
    client: Client,
    node: OneNode,
    name: Annotated[str, typer.Argument(metavar="NEW-NAME", help="Its new name.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give a node another name. So a discovered machine is adopted."""
    wanted = types.SetNodes(node, {"name": name})
    apply(lambda dry: client.set_nodes(replace(wanted, dry_run=dry)), yes=yes, dry_run=dry_run, as_json=as_json)


@app.command("list", epilog=examples("rookery node list", "rookery node list @compute --json"))
@speaks_to_head
def list_nodes(client: Client, nodes: MaybeNoderange = "", as_json: Json = False) -> None:
    """List nodes, named ones and discovered ones."""
    found = client.nodes(nodes)
    if as_json:
        render.show_json(found)
        return
    rows = [
        (n.name, render.state(n.state), n.image, n.mode, ", ".join(n.macs), n.address, _attributes(n))
        for n in found.nodes
    ]
    if rows:
        render.out().print(render.table(("NODE", "STATE", "IMAGE", "MODE", "MAC", "ADDRESS", "ATTRIBUTES"), rows))
    else:
        render.err().print(render.no_nodes(nodes), markup=False)


def _attributes(node: types.Node) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(node.attributes.items()))


@app.command("show", epilog=examples("rookery node show n01", "rookery node show n01 --json"))
@speaks_to_head
def show(client: Client, node: OneNode, as_json: Json = False) -> None:
    """Show one node: its settings, its state and its hardware."""
    details = client.node(node)
    if as_json:
        render.show_json(details)
        return
    found = details.node
    pairs = [
        ("node", found.name),
        ("state", f"{found.state} since {render.moment(found.state_since)}"),
        ("image", found.image),
        ("version", found.version),
        ("mode", found.mode),
        ("mac", ", ".join(found.macs)),
        ("uuid", found.uuid),
        ("address", found.address),
        ("kernel arguments", found.kernel_arguments),
        ("may seed", "yes" if found.may_seed else "no"),
        ("boot script", render.moment(found.started_at)),
        ("last report", render.moment(found.reported_at)),
        *sorted(found.attributes.items()),
        *hardware(details.facts or {}),
    ]
    render.out().print(render.pairs(pairs))


def hardware(facts: dict[str, object]) -> list[tuple[str, str]]:
    """What a node found out about itself, as lines of a table."""

    def text(*keys: str) -> str:
        return " ".join(str(facts[key]) for key in keys if facts.get(key))

    def items(key: str) -> list[dict[str, object]]:
        found = facts.get(key)
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    memory = facts.get("memory")
    lines = [
        ("machine", text("vendor", "model", "serial")),
        ("architecture", text("architecture", "firmware")),
        ("processors", text("cpus", "cpu_model")),
        ("memory", render.size(memory) if isinstance(memory, int) else ""),
    ]
    lines += [
        (f"network {card.get('name')}", f"{card.get('mac')} {card.get('driver')} {card.get('address')}".rstrip())
        for card in items("network_cards")
    ]
    for disk in items("disks"):
        size = disk.get("size")
        lines.append(
            (
                f"disk {disk.get('name')}",
                f"{render.size(size) if isinstance(size, int) else ''} {disk.get('model')}".strip(),
            )
        )
    return lines


@app.command("rm", epilog=examples("rookery node rm n17", "rookery node rm x-525400123456 -y"))
@speaks_to_head
def remove(client: Client, nodes: Noderange, yes: Yes = False, as_json: Json = False) -> None:
    """Forget nodes. A machine that boots again is discovered anew."""
    confirm(f"remove {nodes}, {render.nodes(len(client.nodes(nodes).nodes))}?", yes=yes)
    removed = client.remove_nodes(nodes)
    if as_json:
        render.show_json(removed)
    else:
        render.out().print(f"removed {render.nodes(len(removed.removed))}", markup=False)
