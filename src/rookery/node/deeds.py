# SPDX-License-Identifier: Apache-2.0
"""The deeds behind the plan: one thin function for each kind of action. What they find out becomes known."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from rookery import acls, codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.node import clock, earlier, handover, modules, overlay, places, probe, settle, trust, units
from rookery.node.action import Action, Kind
from rookery.node.console import Console, transfer_line
from rookery.node.fetch.fetch import Fetcher
from rookery.node.fetch.stats import FetchStats
from rookery.node.handover import Handover
from rookery.node.inside import inside
from rookery.node.network import Network
from rookery.node.plan import Known
from rookery.node.reporter import Reporter
from rookery.node.talk import Head, none_yet
from rookery.run import run
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import Hello, Orders
from rookery.wire.report import Step, Transfer

T = TypeVar("T")
ASK_AGAIN = 5.0  # seconds between questions for orders, while there are none
SAY_EVERY = 5.0  # seconds between lines about a transfer
FLUSH_SECONDS = 2.0
# What of the first root is the agent; drivers and firmware stay behind.
_AGENT_PARTS = ("bin", "etc", "init", "lib", "lib64", "ready", "sbin", "usr")
_NOT_AGENT = ("modules", "firmware")


@dataclass
class Traveller:
    """Who does the deeds: what it knows, and its means. moved: seconds to be counted for another step than the one in
    which they passed. began: when the present step did, in seconds since boot."""

    boot_id: str
    known: Known
    network: Network
    console: Console
    reporter: Reporter
    head: Head
    fetcher: Fetcher | None = None
    fetched: FetchStats | None = None
    moved: dict[Step, float] = field(default_factory=dict)
    began: float = 0.0


def do(traveller: Traveller, action: Action) -> str:
    """Do one action; returns what is worth a line on the console, or an empty text. Raises RookeryError, OSError."""
    return _DEEDS[action.kind](traveller, action)


def restart() -> None:
    """Start the machine again at once. Nothing in memory is worth keeping, and no disk is in use."""
    run(["busybox", "reboot", "-f"])
    time.sleep(60.0)  # the kernel is about to


def undo_root() -> None:
    """Take down what an earlier attempt mounted, so that another can begin. What is not mounted is no error."""
    for path in (places.NEW_ROOT, places.UPPER, places.LOWER):
        while os.path.ismount(path) and run(["busybox", "umount", "-l", path], check=False).code == 0:
            pass


def _load_drivers(_traveller: Traveller, _action: Action) -> str:
    return f"{len(modules.load_wanted())} devices asked for drivers"


def _load_modules(_traveller: Traveller, action: Action) -> str:
    modules.load(action.subject.split())
    return ""


def _connect(traveller: Traveller, _action: Action) -> str:
    line = traveller.known.line
    lease = traveller.network.connect(line.head, line.boot_mac, lambda text: traveller.console.say(f"network  {text}"))
    traveller.known = replace(traveller.known, lease=lease)
    return lease.shown


def _probe(traveller: Traveller, _action: Action) -> str:
    lease = traveller.known.lease
    facts = probe.facts(probe.record(), {lease.interface: lease.address} if lease else {})
    traveller.known = replace(traveller.known, facts=facts)
    return f"{facts.cpus} processors, {facts.memory / 1e9:.1f} GB, {len(facts.disks)} disks, {facts.firmware}"


def _hello(traveller: Traveller, action: Action) -> str:
    facts, token = traveller.known.facts, traveller.known.line.token
    if facts is None:
        raise RookeryError("hello before the probe", kind=ErrorKind.INTERNAL)
    welcome = Head(action.subject).hello(Hello(token, traveller.boot_id, facts))
    traveller.head = Head(action.subject, welcome.credential)
    traveller.reporter.to(traveller.head, 1.0)
    set_clock = clock.adjust(welcome.time)
    return f"this is {welcome.node}" + ("; the clock was set by the head's" if set_clock else "")


def _take_orders(traveller: Traveller, action: Action) -> str:
    line = traveller.known.line
    orders = _orders_in(Path(line.orders)) if line.orders else _ask_for_orders(traveller)
    # Whatever was known of an earlier version is not of this one.
    traveller.known = replace(traveller.known, orders=orders, manifest=None, image=None)
    if line.orders:
        traveller.head = Head(orders.source.head, orders.source.credential)
    else:
        traveller.reporter.to(traveller.head, orders.report_seconds)
    return f"{orders.node} runs {orders.image}, mode {orders.mode} (from {action.subject})"


def _orders_in(path: Path) -> Orders:
    try:
        return codec.loads(Orders, path.read_bytes(), what=str(path))
    except FileNotFoundError:
        raise RookeryError(f"there are no orders in {path}", kind=ErrorKind.NOT_FOUND) from None


def _ask_for_orders(traveller: Traveller) -> Orders:
    said = ""
    while True:
        try:
            return traveller.head.orders()
        except RookeryError as error:
            if not none_yet(error.record):
                raise
            if error.record.message != said:
                said = error.record.message
                traveller.console.say(f"waiting for orders: {said}")
        time.sleep(ASK_AGAIN * random.uniform(0.5, 1.5))  # noqa: S311  # to spread nodes, not to hide anything


def _check_manifest(traveller: Traveller, action: Action) -> str:
    orders = _need(traveller.known.orders)
    manifest = trust.open_manifest(orders.manifest, Path(action.subject).read_text().strip())
    traveller.known = replace(traveller.known, manifest=manifest)
    traveller.reporter.change(version=manifest.version)
    return f"version {manifest.version[:12]}, signed by this site"


def _mount_memory(_traveller: Traveller, action: Action) -> str:
    path = Path(action.subject)
    path.mkdir(parents=True, exist_ok=True)
    options = action.text
    if os.path.ismount(path):
        # What an earlier try left there is beside what is planned; the kernel refuses a limit below what is taken.
        there = os.statvfs(path)
        taken = (there.f_blocks - there.f_bfree) * there.f_frsize
        options = "remount," + re.sub(r"size=(\d+)", lambda size: f"size={int(size[1]) + taken}", options)
    run(["busybox", "mount", "-t", "tmpfs", "-o", options, "rookery", path])
    return ""


def _fetch(traveller: Traveller, action: Action) -> str:
    blob, orders = _root_blob(traveller, action), _need(traveller.known.orders)
    said = clock.since_boot()

    def progress(transfer: Transfer) -> None:
        nonlocal said
        traveller.reporter.change(now=False, transfer=transfer)
        if clock.since_boot() - said >= SAY_EVERY:
            said = clock.since_boot()
            traveller.console.say(f"fetch    {transfer_line(transfer)}")

    _leave_swarm(traveller)
    earlier.keep(blob)
    # It goes on giving until the change of roots: a node that has everything is worth most to the others.
    traveller.fetcher = Fetcher(blob, b"", orders.source, places.BLOBS / blob.sha256, progress)
    traveller.fetched = traveller.fetcher.run()
    earlier.drop(blob)
    files.write_atomic(places.TORRENT, traveller.fetcher.torrent(), 0o600)
    # The fetcher reads the whole file back before it gives it this name; in the account that is the next step's work.
    digest = traveller.fetched.verify_seconds
    traveller.moved = {Step.FETCH: -digest, Step.VERIFY: digest}
    return transfer_line(traveller.reporter.report.transfer)


def _verify(traveller: Traveller, action: Action) -> str:
    """Only a file whose digest was compared has this name (see _fetch)."""
    blob, path = _root_blob(traveller, action), places.BLOBS / action.subject
    if traveller.fetched is None or not path.is_file() or path.stat().st_size != blob.size:
        raise RookeryError("the fetched image is gone", kind=ErrorKind.CORRUPT, hint="it is fetched again")
    return f"sha256 {blob.sha256[:12]}, all {blob.size} bytes read back"


def _leave_swarm(traveller: Traveller) -> None:
    fetcher, traveller.fetcher = traveller.fetcher, None
    if fetcher is not None:
        fetcher.close()


def _mount_image(_traveller: Traveller, action: Action) -> str:
    path = Path(action.subject)
    path.mkdir(parents=True, exist_ok=True)
    run(["busybox", "mount", "-t", "squashfs", "-o", "loop,ro", action.text, path])
    return ""


def _mount_overlay(traveller: Traveller, action: Action) -> str:
    path = Path(action.subject)
    path.mkdir(parents=True, exist_ok=True)
    layers = dict(option.split("=", 1) for option in action.text.split(",") if "=" in option)
    overlay.make_upper(Path(layers["lowerdir"]), Path(layers["upperdir"]))
    Path(layers["workdir"]).mkdir()
    run(["busybox", "mount", "-t", "overlay", "-o", action.text, "rookery", path])
    image = settle.look(path)
    if not image.init:
        raise RookeryError(
            "the image has no init to hand over to",
            kind=ErrorKind.INVALID,
            hint="add an init system (systemd-sysv in Debian) to the image's recipe, and build and publish it again",
        )
    traveller.known = replace(traveller.known, image=image)
    return "the image under an overlay in memory"


def _write(_traveller: Traveller, action: Action) -> str:
    path = inside(places.NEW_ROOT, action.subject)
    # As strict as the file: what is secret in /root/.ssh should not be listed either.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if action.mode & 0o077 else 0o700)
    files.write_atomic(path, action.text.encode(), action.mode)
    _remember(action)
    return ""


def _remember(action: Action) -> None:
    """Note that this file is of the node: a capture of this machine takes the image's own in its place."""
    with places.SETTLED.open("a") as file:
        file.write(f"{action.subject}\n")


def _link(_traveller: Traveller, action: Action) -> str:
    path = inside(places.NEW_ROOT, os.path.dirname(action.subject)) / os.path.basename(action.subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.symlink_to(action.text)
        _remember(action)
    return ""


def _make_host_key(_traveller: Traveller, action: Action) -> str:
    keygen = ["ssh-keygen", "-q", "-t", action.text, "-N", "", "-C", "", "-f", action.subject]
    run(["busybox", "chroot", places.NEW_ROOT, *keygen])
    return ""


def _restore_lists(_traveller: Traveller, _action: Action) -> str:
    return f"{acls.restore(places.NEW_ROOT)} access control lists"


def _keep_agent(_traveller: Traveller, action: Action) -> str:
    target = Path(action.subject)
    shutil.rmtree(target, ignore_errors=True)
    for name in ("dev", "proc", "sys", "tmp", str(places.BLOBS)[1:], str(places.STATE)[1:]):
        (target / name).mkdir(parents=True, exist_ok=True)
    for name in _AGENT_PARTS:
        source = Path("/", name)
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_AGENT))
        elif source.exists():
            shutil.copy2(source, target / name)
    return ""


def _hand_over(traveller: Traveller, action: Action) -> str:
    known, report = traveller.known, traveller.reporter.report
    orders, manifest = _need(known.orders), _need(known.manifest)
    word = Handover(
        boot_id=traveller.boot_id,
        node=orders.node,
        version=manifest.version,
        head="" if known.line.orders else traveller.head.url,
        credential=traveller.head.credential,
        blob=manifest.blob(Role.ROOT),
        source=orders.source,
        seed=orders.seed,
        switched=time.monotonic(),
        seconds={**report.seconds, Step.SWITCH: round(clock.since_boot() - traveller.began, 3)},
        transfer=report.transfer,
        report_seconds=orders.report_seconds,
    )
    handover.leave(word, Path(action.subject))
    return ""


def _write_unit(_traveller: Traveller, action: Action) -> str:
    wanted = places.UNITS / units.WANTED_BY
    wanted.mkdir(parents=True, exist_ok=True)
    (places.UNITS / action.subject).write_text(action.text)
    with contextlib.suppress(FileExistsError):
        (wanted / action.subject).symlink_to(f"../{action.subject}")
    return ""


def _switch(traveller: Traveller, action: Action) -> str:
    # Process 1 does it; this process only says what the init is, and ends.
    _leave_swarm(traveller)
    traveller.network.close()
    files.write_atomic(places.INIT, action.subject.encode(), 0o600)
    return action.subject


def _root_blob(traveller: Traveller, action: Action) -> Blob:
    blob = _need(traveller.known.manifest).blob(Role.ROOT)
    if blob.sha256 != action.subject:
        raise RookeryError("the plan is not of this manifest", kind=ErrorKind.INTERNAL)
    return blob


def _need(value: T | None) -> T:
    if value is None:
        raise RookeryError("an action came before what it needs was known", kind=ErrorKind.INTERNAL)
    return value


_DEEDS: dict[Kind, Callable[[Traveller, Action], str]] = {
    Kind.LOAD_DRIVERS: _load_drivers,
    Kind.LOAD_MODULES: _load_modules,
    Kind.CONNECT: _connect,
    Kind.PROBE: _probe,
    Kind.HELLO: _hello,
    Kind.TAKE_ORDERS: _take_orders,
    Kind.CHECK_MANIFEST: _check_manifest,
    Kind.MOUNT_MEMORY: _mount_memory,
    Kind.FETCH: _fetch,
    Kind.VERIFY: _verify,
    Kind.MOUNT_IMAGE: _mount_image,
    Kind.MOUNT_OVERLAY: _mount_overlay,
    Kind.WRITE: _write,
    Kind.LINK: _link,
    Kind.MAKE_HOST_KEY: _make_host_key,
    Kind.RESTORE_LISTS: _restore_lists,
    Kind.KEEP_AGENT: _keep_agent,
    Kind.HAND_OVER: _hand_over,
    Kind.WRITE_UNIT: _write_unit,
    Kind.SWITCH: _switch,
}
