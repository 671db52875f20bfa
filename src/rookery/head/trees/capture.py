# SPDX-License-Identifier: Apache-2.0
"""A golden client: the root of a running machine, copied by rsync over SSH into a working tree.

The tree stays between captures, so that the next one moves only what changed; of a node that Rookery brought up, the
first one begins with the version that it runs. Until rsync has come to its end the tree
counts as not complete; whatever cuts a capture off, the next one goes on with what is there.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apart
from rookery.head.build.recipe import IdentityRules
from rookery.head.catalog.rows import Version
from rookery.head.progress import OnProgress, Progress
from rookery.head.remote.machine import Remote, Seen, look
from rookery.head.trees import rules
from rookery.head.trees import state as states
from rookery.head.trees.state import ROOT, STATE, Captured, TreeState
from rookery.head.trees.trees import Trees

STAGE = "copying"
_PARTIAL = "partial"  # beside the root: files that were cut off, for the next capture to go on with
# What no machine's image holds: what the kernel shows, and a head's own directory, in which the site's private key is.
_NEVER = ("/proc/*", "/sys/*", "/lost+found", "/var/lib/rookery")
_OF_KERNEL = ("dev", "proc", "run", "sys")  # where nobody expects anything to come along
_METER = re.compile(r"\s*([\d,]+)\s+(\d+)%")
_COUNT = re.compile(r"Total (file size|bytes sent|bytes received): ([\d,]+)")
_KEPT = 1 << 16
_VANISHED = 24  # files that were removed meanwhile: a running machine does that
_CUT_OFF = (10, 12, 30, 35, 255)  # rsync(1), EXIT VALUES: sockets, protocol stream, time-outs; ssh's own


@dataclass(frozen=True)
class Wish:
    """What to capture, and into which image's tree. mounts: further file systems, as paths below the machine's root.
    excludes: lines as of rsync's --exclude-from. force: also over changes that were made by hand. identity: what to
    keep and to remove beside what the recipe of the machine's version says; an empty list is the last capture's."""

    machine: Remote
    name: str
    mounts: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    force: bool = False
    identity: IdentityRules = field(default_factory=IdentityRules)

    def __post_init__(self) -> None:
        for mount in self.mounts:
            if not mount.startswith("/") or mount == "/" or {"..", "."} & set(PurePosixPath(mount).parts):
                raise RookeryError(f"{mount!r} is not a mount point", kind=ErrorKind.INVALID, hint="as in /boot")
        for line in self.excludes:
            if line.strip() == "!" or "\n" in line or "\0" in line:
                raise RookeryError(f"{line!r} is not a pattern to exclude", kind=ErrorKind.INVALID, hint="see rsync(1)")
        for pattern in (*self.identity.keep, *self.identity.remove):
            rules.require_pattern(pattern)


def capture(
    trees: Trees, wish: Wish, tag: str, on_progress: OnProgress, cancel: threading.Event
) -> tuple[Captured, Version | None]:
    """Copy a machine into the tree of `wish.name`, and publish that under `tag` (empty: do not).

    Raises RookeryError: what remote/machine.py says of a machine that cannot be captured; `conflict` when the tree is
    in use, is of something else or was changed by hand; `unavailable` when the machine goes away, `no-space`,
    `cancelled`: the tree stays then, not complete, and the next capture goes on.
    """
    apart.require({"rsync": "rsync", "ssh": "openssh-client", **apart.PROGRAMS}, "a capture")
    apart.require_root("a capture")
    began, place = time.time(), trees.place(wish.name)
    on_progress(Progress(f"looking at {wish.machine.host}"))
    seen = look(wish.machine, cancel)
    with trees.held(wish.name, f"capture of {wish.machine.host}") as handle:
        runs = trees.known(seen.version)
        if runs and not (place / STATE).exists():
            trees.unpack(runs, place, on_progress, cancel)
        state = _begin(place, wish, seen, runs, began)
        moved, total = _copy(place, wish, seen, rules.of(state.recipe), handle, on_progress, cancel)
        _drop_sockets(place / ROOT)
        brought = {mount.rstrip("/") for mount in wish.mounts}
        left_out = tuple(path for path in seen.mounts if path not in brought and path.split("/")[1] not in _OF_KERNEL)
        done = Captured(wish.machine.shown, time.time(), moved, total, time.time() - began, left_out)
        root = place / ROOT
        state = replace(state, complete=True, captured=done, fingerprint=states.fingerprint(root), version="")
        # All that came has the machine's own times, up to the newest.
        states.save(place, replace(state, started=states.newest(root) + 1.001))
        return done, trees.publish_held(wish.name, tag, on_progress, cancel) if tag else None


def told(done: Captured) -> str:
    """A capture in one line."""
    share = f"{100 * done.moved / done.total:.1f} %" if done.total else "nothing"
    return (
        f"captured {done.source} in {done.seconds:.0f} s: {done.moved / 1e6:.1f} MB moved of {done.total / 1e6:.1f} MB"
        f" ({share})"
    )


def _begin(place: Path, wish: Wish, seen: Seen, runs: Version | None, began: float) -> TreeState:
    """Write down that the tree is this machine's and is not complete; runs: the version that it runs, when known."""
    origin = f"capture of {wish.machine.shown}"
    if (place / STATE).exists():
        state = states.load(place)
        if state.origin != origin:
            raise RookeryError(
                f"there is a working tree of {wish.name} already, and it is another: {state.origin}",
                kind=ErrorKind.CONFLICT,
                hint=f"publish it, and 'rookery image close {wish.name}'; or capture under another name",
            )
        if state.complete and not wish.force and states.fingerprint(place / ROOT) != state.fingerprint:
            raise RookeryError(
                f"the working tree of {wish.name} was changed by hand since the last capture",
                kind=ErrorKind.CONFLICT,
                hint="publish it to keep that; with --yes the capture makes it like the machine again",
            )
    else:
        state = TreeState(secrets.token_hex(8), origin, began, began)
    recipe = rules.with_given(runs.recipe if runs else state.recipe, state.recipe, wish.identity)
    state = replace(state, opened_at=began, architecture=seen.architecture, recipe=recipe, complete=False)
    (place / ROOT).mkdir(exist_ok=True)
    states.save(place, state)
    return state


def _copy(
    place: Path,
    wish: Wish,
    seen: Seen,
    identity_rules: IdentityRules,
    lock: int,
    on_progress: OnProgress,
    cancel: threading.Event,
) -> tuple[int, int]:
    """Run rsync; returns the bytes that went over the wire, and those of all files."""
    root, listed = wish.machine.root.rstrip("/"), place / "rules"
    lines = (*wish.excludes, *_left_out(wish, seen), *rules.for_rsync(identity_rules))
    listed.write_text("".join(f"{line}\n" for line in lines))
    sources = [wish.machine.source(f"{root}/./")]
    sources += [wish.machine.source(f"{root}/.{mount.rstrip('/')}/") for mount in wish.mounts]
    words = [
        *("rsync", "-aHAXSR", "--numeric-ids", "--one-file-system", "--delete", "--delete-excluded"),
        # The whole list before the first byte: so the meter knows what there is to do.
        *("--no-inc-recursive", "-s", "--info=progress2", "--stats", "--outbuf=N"),
        *(f"--partial-dir={place / _PARTIAL}", f"--exclude-from={listed}"),
        *(f"--rsh={wish.machine.shell}", f"--rsync-path={wish.machine.rsync}"),
        *(*sources, f"{place / ROOT}/"),
    ]
    moved, total = _rsync(words, wish, lock, on_progress, cancel)
    if seen.lower and seen.settled:
        # What Rookery wrote on the node is not of the image: what the image has in its place is.
        listed.write_text("".join(f"{path.lstrip('/')}\n" for path in seen.settled))
        words = [
            *("rsync", "-aHAXS", "--numeric-ids", "--ignore-missing-args", "-s", "--info=progress2"),
            *("--stats", "--outbuf=N", f"--files-from={listed}"),
            *(f"--rsh={wish.machine.shell}", f"--rsync-path={wish.machine.rsync}"),
            *(wish.machine.source(f"{seen.lower}/"), f"{place / ROOT}/"),
        ]
        moved += _rsync(words, wish, lock, lambda _progress: None, cancel)[0]
    return moved, total


def _left_out(wish: Wish, seen: Seen) -> Iterator[str]:
    """What never comes, as rsync's rules."""
    yield from (f"- {pattern}" for pattern in _NEVER)
    yield from (f"- {mount.rstrip('/')}/lost+found" for mount in wish.mounts)
    yield from (f"- {_literal(path)}" for path in (*seen.swaps, *seen.settled))


def _literal(path: str) -> str:
    """A path in which nothing is a pattern. To rsync a backslash is one where there is no wildcard."""
    return re.sub(r"([*?\[\\])", r"\\\1", path) if re.search(r"[*?\[]", path) else path


def _rsync(
    words: list[str], wish: Wish, lock: int, on_progress: OnProgress, cancel: threading.Event
) -> tuple[int, int]:
    said, counts = "", {"bytes sent": 0, "bytes received": 0, "file size": 0}
    on_progress(Progress(STAGE, line="listing files"))
    # A head that is killed takes rsync with it. The lock goes along until the last process of rsync has ended.
    words = [*run.BOUND, *words]
    with run.spawn(words, stdout=run.PIPE, stderr=run.PIPE, inherit=(lock,)) as child:
        for name, text in _read(child, cancel):
            if name == "stderr":
                said = (said + text)[-_KEPT:]
            elif found := _METER.match(text):
                done, percent = int(found[1].replace(",", "")), int(found[2])
                on_progress(Progress(STAGE, done, done * 100 // percent if percent else 0, "bytes"))
            elif found := _COUNT.match(text):
                counts[found[1]] = int(found[2].replace(",", ""))
        if cancel.is_set():
            raise RookeryError(
                f"the capture of {wish.machine.host} was cancelled; what came is kept", kind=ErrorKind.CANCELLED
            )
        code = child.wait()
    if code not in (0, _VANISHED):
        raise _explained(wish, run.Completed(tuple(words), code, "", said))
    return counts["bytes sent"] + counts["bytes received"], counts["file size"]


def _read(child: run.Child, cancel: threading.Event) -> Iterator[tuple[str, str]]:
    """(`stdout`, a line) and (`stderr`, some text) as they come; rsync separates states of its meter by carriage
    returns."""
    assert child.stdout is not None
    assert child.stderr is not None
    names = {child.stdout.fileno(): "stdout", child.stderr.fileno(): "stderr"}
    rest = ""
    while names and not cancel.is_set():
        ready, _, _ = select.select(list(names), [], [], 0.2)
        for handle in ready:
            text = os.read(handle, 1 << 16).decode(errors="replace")
            if not text:
                del names[handle]
            elif names[handle] == "stderr":
                yield "stderr", text
            else:
                *lines, rest = re.split(r"[\r\n]", rest + text)
                for line in lines:
                    yield "stdout", line


def _explained(wish: Wish, done: run.Completed) -> RookeryError:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    details = "\n".join(lines[-8:])
    again = "capture again: it goes on where it was"
    if "No space left on device" in done.stderr or "Disk quota exceeded" in done.stderr:
        return RookeryError(
            f"no space left for the capture of {wish.machine.host}; what came is kept",
            kind=ErrorKind.NO_SPACE,
            details=details,
            hint=f"free some space on the head, and {again}",
        )
    if done.code in _CUT_OFF or done.code < 0:
        return RookeryError(
            f"the connection to {wish.machine.host} broke off; what came is kept",
            kind=ErrorKind.UNAVAILABLE,
            details=details,
            hint=again,
        )
    return RookeryError(
        f"rsync from {wish.machine.host} failed with exit code {done.code}; what came is kept",
        details=details,
        hint="leave out by --exclude-from what cannot be read there, and capture again",
    )


def _drop_sockets(root: Path) -> None:
    """Remove sockets: without the process that made it, one is nothing."""
    for parent, _, others in os.walk(os.fsencode(root)):
        for name in others:
            path = os.path.join(parent, name)
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
