# SPDX-License-Identifier: Apache-2.0
"""The journey: walks the plan step by step, in a child of process 1. A step that fails is shown, reported and tried
again after a while, for ever: a cluster at boot must heal without hands."""

from __future__ import annotations

import contextlib
import faulthandler
import random
import time

from rookery import codec
from rookery.errors import ErrorKind, ErrorRecord, RookeryError, record_of
from rookery.node import clock, deeds, handover, places
from rookery.node.cmdline import KERNEL, CommandLine, parse
from rookery.node.console import Console, error_lines, step_line
from rookery.node.crash import Crash
from rookery.node.deeds import Traveller
from rookery.node.network import Network
from rookery.node.patience import delay
from rookery.node.plan import FIRST, Known, needs_new_start, next_step, plan, resume_at
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.run import end, run, start
from rookery.wire.report import STEPS, Report, Step

REPEAT_SECONDS = 30.0
# Before a new start: time to read why, and spread, since a whole room may have been refused at once.
START_SECONDS = 10.0


def travel(boot_id: str, kernel_seconds: float, console: Console) -> None:
    """Go the whole way, until everything is ready for the change of roots. Returns only then.

    boot_id: 32 hex digits, the same for all attempts of a boot. kernel_seconds: what the kernel took.
    """
    line = _command_line(console)
    report = Report(boot_id, 0, FIRST, {Step.KERNEL: kernel_seconds})
    reporter = Reporter(report, handover.next_sequence, lambda record: _say_trouble(console, record))
    deeds.undo_root()
    with places.FAULT.open("w") as fault:
        faulthandler.enable(fault)  # where a fault in the swarm engine's machine code struck
        _walk(Traveller(boot_id, Known(line), Network(places.LEASES), console, reporter, Head(line.head)))
        faulthandler.disable()
    reporter.close()


def _walk(traveller: Traveller) -> None:
    attempts: dict[Step, int] = {}
    refusals = 0
    step: Step | None = FIRST
    while step is not None:
        places.STEP.write_text(step)
        traveller.reporter.change(step=step, attempt=attempts.get(step, 0) + 1, error=None)
        traveller.began = clock.since_boot()
        try:
            _take(traveller, step)
            following = next_step(step)
            refusals = 0 if step is Step.HELLO else refusals
        except Exception as error:  # noqa: BLE001  # whatever it is, it is shown, reported and tried again
            attempts[step] = attempts.get(step, 0) + 1
            record = record_of(error)
            following = resume_at(step, record.kind)
            _failed(traveller, step, record, attempts[step])
            _passed(traveller, step)
            refusals += step is Step.HELLO and record.kind is ErrorKind.UNAUTHORIZED
            if needs_new_start(step, record.kind, refusals):
                _start_again(traveller.console, refusals)
        if step is Step.HELLO:
            _tell_crash(traveller)
        step = following
    traveller.reporter.flush(deeds.FLUSH_SECONDS)


def _take(traveller: Traveller, step: Step) -> None:
    said = ""
    for action in plan(traveller.known):
        if action.step is step:
            said = deeds.do(traveller, action) or said
    seconds = _passed(traveller, step)
    if said:
        traveller.console.say(step_line(step, seconds, said))


def _passed(traveller: Traveller, step: Step) -> float:
    """Add the time since the step began to what it took before; returns it."""
    seconds = max(0.0, clock.since_boot() - traveller.began + traveller.moved.pop(step, 0.0))
    before = traveller.reporter.report.seconds
    traveller.reporter.change(now=False, seconds={**before, step: round(before.get(step, 0.0) + seconds, 3)})
    return seconds


def _failed(traveller: Traveller, step: Step, record: ErrorRecord, attempt: int) -> None:
    wait = delay(attempt, random.random())  # noqa: S311  # to spread nodes, not to hide anything
    traveller.console.say(*error_lines(step, record, attempt, wait))
    traveller.reporter.change(step=step, error=record, attempt=attempt)
    if STEPS.index(step) >= STEPS.index(Step.ROOT):
        deeds.undo_root()
    if traveller.known.line.shell:
        _shell(traveller.console)
    time.sleep(wait)


def _start_again(console: Console, refusals: int) -> None:
    """Start the machine again, from its firmware on. Does not return, unless the machine cannot be restarted."""
    wait = START_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  # to spread nodes, not to hide anything
    console.say(
        f"the head refused this machine's boot token {refusals} times; with a new start comes a new one",
        f"    this machine starts again in {wait:.0f} s",
    )
    time.sleep(wait)
    console.say("starting again")
    deeds.restart()


def _tell_crash(traveller: Traveller) -> None:
    """Report how an earlier process of this journey ended, if one did; it could not do so itself."""
    with contextlib.suppress(FileNotFoundError):
        crash = codec.loads(Crash, places.CRASH.read_bytes(), what=str(places.CRASH))
        traveller.reporter.change(step=crash.step, error=crash.error, attempt=crash.attempt)
        if traveller.reporter.flush(deeds.FLUSH_SECONDS):
            places.CRASH.unlink()


def _command_line(console: Console) -> CommandLine:
    """Process 1's own words; what is wrong with them no retry can mend, but somebody should see it."""
    while True:
        try:
            return parse(KERNEL.read_text())
        except RookeryError as error:
            console.say(*error_lines(Step.KERNEL, error.record, 1, REPEAT_SECONDS))
            time.sleep(REPEAT_SECONDS)


def _say_trouble(console: Console, record: ErrorRecord | None) -> None:
    console.say(f"reports are not taken: {record.message}; going on without" if record else "reports are taken again")


def _shell(console: Console) -> None:
    console.say("a shell, as rookery.shell asks for; the journey goes on when it ends")
    run(["busybox", "--install", "-s", "/bin"], check=False)
    with open("/dev/console", "r+b", buffering=0) as terminal:
        shell = start(["busybox", "cttyhack", "sh", "-l"], stdin=terminal, stdout=terminal, stderr=terminal)
        try:
            shell.wait()
        finally:
            end(shell)
