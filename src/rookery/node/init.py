# SPDX-License-Identifier: Apache-2.0
"""Process 1 of the first root. It mounts what every program needs, lets a child make the journey, reaps, and at the end
gives its place to the image's init. It does little, because its death is the machine's: everything that can go wrong,
the swarm engine's machine code above all, happens in the child, which is started again for ever."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import secrets
import signal
import sys
import time
import traceback
from pathlib import Path

from rookery import codec, files
from rookery.errors import RookeryError
from rookery.node import clock, places, timestamps
from rookery.node.console import Console, error_lines
from rookery.node.crash import Crash, crash_of
from rookery.node.patience import delay
from rookery.run import run

# type, where, options. /dev is there already: Python itself could not have started without (head/boot/agent.py).
_MOUNTS = (
    ("proc", "/proc", "nosuid,nodev,noexec"),
    ("sysfs", "/sys", "nosuid,nodev,noexec"),
    ("devpts", "/dev/pts", "nosuid,noexec,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", "nosuid,nodev"),  # noqa: S108  # the mount itself, not a file in it
    ("tmpfs", "/run", "nosuid,nodev,mode=0755"),
)
# Those that go with the machine into the image's root. /dev is the last: no program starts without /dev/null.
_MOVED = ("/run", "/proc", "/sys", "/dev")


def main() -> None:
    """Be what we were started as: process 1, or one of the agent's services beside the image (`seed`, `ready`)."""
    if sys.argv[1:]:
        # Only process 1 stays without the swarm engine; hence no import above.
        importlib.import_module("rookery.node.after").main(sys.argv[1])
        return
    if os.getpid() != 1:
        sys.exit("this is the first process of a machine that Rookery boots; it does nothing else")
    began = clock.since_boot()
    try:
        console = _prepare()
        console.say(f"the agent takes over from the kernel after {began:.1f} s")
        former = timestamps.omit()
        _let_travel(secrets.token_hex(16), began, console)
        timestamps.restore(former)
        _switch(console)
    except BaseException:  # noqa: BLE001  # the kernel would stop the machine without a word
        _last_words()


def _prepare() -> Console:
    os.environ["PATH"] = "/sbin:/bin:/usr/sbin:/usr/bin"
    for kind, where, options in _MOUNTS:
        Path(where).mkdir(parents=True, exist_ok=True)
        run(["busybox", "mount", "-t", kind, "-o", options, kind, where])
    # The kernel opened /dev/console for us if the first root had one; now it does in any case.
    handle = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for number in (0, 1, 2):
        os.dup2(handle, number)
    places.STATE.mkdir(parents=True)
    places.STATE.chmod(0o700)
    places.FAULT.touch()
    return Console()


def _let_travel(boot_id: str, began: float, console: Console) -> None:
    """Until a journey came to its end."""
    attempt = 0
    while True:
        status = _one_journey(boot_id, began, console)
        if status == 0:
            return
        attempt += 1
        _end_others()
        crash = crash_of(status, _text(places.STEP), _text(places.FAULT), attempt)
        files.write_atomic(places.CRASH, codec.dumps(crash).encode(), 0o600)
        _wait_after(crash, console)


def _one_journey(boot_id: str, began: float, console: Console) -> int:
    """The exit code of one child that makes the journey; negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                importlib.import_module("rookery.node.journey").travel(boot_id, began, console)
                code = 0
            except BaseException:
                places.FAULT.write_text(traceback.format_exc())
                raise
        os._exit(code)
    while True:
        # Process 1 is the parent of every orphan.
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def _wait_after(crash: Crash, console: Console) -> None:
    wait = delay(crash.attempt, random.random())  # noqa: S311  # to spread nodes, not to hide anything
    console.say(*error_lines(crash.step, crash.error, crash.attempt, wait))
    time.sleep(wait)


def _end_others() -> None:
    """End what a journey left running: its DHCP clients, when it was struck down; a shell that somebody left."""
    if os.getpid() != 1:
        return  # for anybody but process 1 of a machine of its own, "all others" would be somebody else's
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _switch(console: Console) -> None:
    """Give process 1 to the image's init. Does not return."""
    init = places.INIT.read_text()
    _end_others()
    console.say(f"switch   over to the image's {init}")
    for where in _MOVED:
        target = places.NEW_ROOT / where[1:]
        target.mkdir(exist_ok=True)
        run(["busybox", "mount", "--move", where, target])
    os.chdir("/")
    # busybox empties the first root, so its memory is free again, makes the new root the root, and runs init.
    os.execve("/bin/busybox", ["switch_root", str(places.NEW_ROOT), init], {"HOME": "/", "TERM": "linux"})  # noqa: S606


def _last_words() -> None:
    lines = [*traceback.format_exc().splitlines(), "the agent cannot go on; this machine needs a new start"]
    with contextlib.suppress(Exception):
        if os.path.exists("/dev/console"):
            Console().say(*lines)
        else:  # moved away already; what we hold open of it is still there
            os.write(2, "\r\n".join([*lines, ""]).encode())
    while True:
        with contextlib.suppress(OSError):
            os.wait()
        time.sleep(1.0)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, RookeryError):
        return ""
