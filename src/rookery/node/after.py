# SPDX-License-Identifier: Apache-2.0
"""The agent beside the running image: two services (units.py) that report `ready` and go on giving the image."""

from __future__ import annotations

import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rookery import log as logs
from rookery.errors import ErrorRecord, RookeryError, record_of
from rookery.log import logger
from rookery.node import clock, handover, places
from rookery.node.fetch.fetch import seed as give
from rookery.node.handover import Handover, Readiness
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.run import run
from rookery.wire.orders import Word
from rookery.wire.report import Report, Step, Transfer

log = logger(__name__)

REPORT_SECONDS = 15.0  # between a giving node's reports; also how long the head's word may take to arrive
LOOK_SECONDS = 2.0
START_PATIENCE = 20.0  # how long to wait for `is-system-running` to be more than "starting"
TARGET = "default.target"


def main(service: str) -> None:
    """Be one of the services. Raises SystemExit."""
    logs.setup(times=False)  # the journal adds the time
    services: dict[str, Callable[[], None]] = {"seed": seed, "ready": ready}
    if service not in services:
        sys.exit(f"unknown service {service!r}; known are {', '.join(services)}")
    try:
        services[service]()
    except RookeryError as error:
        log.error("%s", "; ".join(part for part in (error.record.message, error.record.details) if part))
        sys.exit(1)


def seed() -> None:
    """Give the image until the policy's time is over, the head says stop, or systemd does."""
    word = handover.take()
    stop, reporter = threading.Event(), _reporter(word)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    reporter.on_word = lambda said: stop.set() if said is Word.STOP_SEEDING else None
    reporter.change(seeding=True)
    if word.head:
        reporter.to(Head(word.head, word.credential), REPORT_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311

    def progress(transfer: Transfer) -> None:
        fields = _as_ready(word, handover.take_readiness())
        # What was received came on the journey; what was sent counts over both.
        sent = word.transfer.sent + transfer.sent
        given = replace(word.transfer, sent=sent, rate=transfer.rate, peers=transfer.peers)
        reporter.change(now=fields["step"] is not reporter.report.step, transfer=given, **fields)

    log.info("giving %s (%d bytes) to other machines", word.blob.sha256[:12], word.blob.size)
    try:
        give(word.blob, places.TORRENT.read_bytes(), word.source, _blob_path(word), word.seed, stop, progress)
    finally:
        reporter.change(seeding=False)
        reporter.flush(5.0)
        reporter.close()
    log.info("stopped giving: %s", "the head said so" if reporter.word is Word.STOP_SEEDING else "its time is over")


def ready() -> None:
    """Wait until the image's init reached its default target on the image's root, and tell the head so until it has
    heard it."""
    word = handover.take()
    reporter = _reporter(word)
    if word.head:
        reporter.to(Head(word.head, word.credential), REPORT_SECONDS)
    attempt = 0
    while True:
        try:
            require_root(Path("/proc/self/mountinfo").read_text(), _loop_file, _blob_path(word))
            readiness = _ask_systemd(word)
            break
        except (RookeryError, OSError) as error:
            attempt += 1
            record = record_of(error)
            if reporter.report.error != record:
                log.warning("not ready: %s", record.message)
            reporter.change(step=Step.SYSTEM, error=record, attempt=attempt)
            time.sleep(LOOK_SECONDS)
    handover.leave_readiness(readiness)
    log.info("ready: %s after %.1f s, system %s", TARGET, readiness.seconds, readiness.system)
    reporter.change(error=None, attempt=1, **_as_ready(word, readiness))
    while word.head and not reporter.flush(60.0):
        log.warning("the head has not heard yet that this node is ready")
    reporter.close()


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo, as far as it matters here. options: of the file system (super block)."""

    where: str
    kind: str
    source: str
    options: tuple[str, ...]


def mounts(text: str) -> tuple[Mount, ...]:
    """Parse /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        before, _, behind = line.partition(" - ")
        kind, source, options = behind.split(" ", 2)
        found.append(Mount(before.split()[4], kind, source, tuple(options.split(","))))
    return tuple(found)


def require_root(mountinfo: str, loop_file: Callable[[str], str], blob: Path) -> None:
    """Raise RookeryError `failed` unless / is our overlay over the squashfs in `blob`. loop_file: gives the file behind
    a loop device."""
    # The last of several mounts at one place is the one that is seen.
    seen = {mount.where: mount for mount in mounts(mountinfo)}
    root, lower = seen.get("/"), seen.get(str(places.LOWER))
    if root is None or root.kind != "overlay" or f"lowerdir={places.LOWER}" not in root.options:
        problem = f"the root is not the image's overlay but {root.kind if root else 'nothing'}"
    elif lower is None or lower.kind != "squashfs":
        problem = f"there is no squashfs at {places.LOWER}"
    elif loop_file(lower.source) != str(blob):
        problem = f"{lower.source} is not the fetched image but {loop_file(lower.source) or 'nothing'}"
    else:
        return
    raise RookeryError(problem, hint="boot this node again")


def active_seconds(properties: str, switched: float) -> float | None:
    """Seconds from the change of roots until a unit became active, from `systemctl show`'s `name=value` lines; None
    while it is not. switched: CLOCK_MONOTONIC, seconds."""
    values = dict(line.partition("=")[::2] for line in properties.splitlines())
    since = values.get("ActiveEnterTimestampMonotonic", "")
    if values.get("ActiveState") != "active" or not since.isdecimal():
        return None
    return max(0.0, round(int(since) / 1e6 - switched, 3))


def _ask_systemd(word: Handover) -> Readiness:
    shown = run(["systemctl", "show", "-p", "ActiveState,ActiveEnterTimestampMonotonic", TARGET], timeout=30)
    seconds = active_seconds(shown.stdout, word.switched)
    if seconds is None:
        failed = run(["systemctl", "--failed", "--no-legend", "--plain"], check=False, timeout=30)
        raise RookeryError(
            f"the image's {TARGET} is not active",
            details=failed.stdout.strip(),
            hint="look at 'systemctl --failed' and 'journalctl -b' on this node",
        )
    deadline = clock.since_boot() + START_PATIENCE
    while True:
        system = run(["systemctl", "is-system-running"], check=False, timeout=30).stdout.strip()
        if system not in ("initializing", "starting") or clock.since_boot() > deadline:
            return Readiness(seconds, system[:64])
        time.sleep(0.5)


def _as_ready(word: Handover, readiness: Readiness | None) -> dict[str, Any]:
    if readiness is None:
        return {"step": Step.SYSTEM}
    seconds = {**word.seconds, Step.SYSTEM: readiness.seconds}
    return {"step": Step.READY, "seconds": seconds, "system": readiness.system}


def _reporter(word: Handover) -> Reporter:
    readiness = handover.take_readiness()
    fields = _as_ready(word, readiness)
    report = Report(word.boot_id, 0, Step.SYSTEM, word.seconds, word.transfer, word.version)
    return Reporter(replace(report, **fields), handover.next_sequence, _say_trouble)


def _say_trouble(record: ErrorRecord | None) -> None:
    log.warning("%s", f"reports are not taken: {record.message}" if record else "reports are taken again")


def _blob_path(word: Handover) -> Path:
    return places.BLOBS / word.blob.sha256


def _loop_file(device: str) -> str:
    if not re.fullmatch(r"/dev/loop\d+", device):
        return ""
    try:
        return Path("/sys/block", device[5:], "loop/backing_file").read_text().strip()
    except OSError:
        return ""
