# SPDX-License-Identifier: Apache-2.0
"""How the journey's process ended when it did not end well: what process 1 writes down for the next one to report."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from rookery.errors import ErrorKind, ErrorRecord
from rookery.wire.report import Step

KEPT = 4000  # characters of what the process said of itself


@dataclass(frozen=True)
class Crash:
    """step: where it was. attempt: how many processes ended so. error: what a person is told."""

    step: Step
    attempt: int
    error: ErrorRecord


def crash_of(status: int, step: str, fault: str, attempt: int) -> Crash:
    """From a wait status (as of os.wait; on a signal, negative as os.waitstatus_to_exitcode gives it), the step that
    was written down, and what faulthandler wrote."""
    if status < 0:
        try:
            how = signal.Signals(-status).name
        except ValueError:
            how = f"signal {-status}"
        message = f"the agent's process was ended by {how}"
    else:
        message = f"the agent's process ended with exit code {status}"
    known = Step(step) if step in list(Step) else Step.KERNEL
    hint = "out of memory, if the kernel's messages say so" if status == -signal.SIGKILL else "report this as a bug"
    return Crash(known, attempt, ErrorRecord(ErrorKind.INTERNAL, message, fault.strip()[:KEPT], hint))
