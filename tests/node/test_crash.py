# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal

import pytest

from rookery.errors import ErrorKind
from rookery.node.crash import KEPT, crash_of
from rookery.wire.report import Step


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (-signal.SIGSEGV, "the agent's process was ended by SIGSEGV"),
        (-signal.SIGKILL, "the agent's process was ended by SIGKILL"),
        (-99, "the agent's process was ended by signal 99"),
        (1, "the agent's process ended with exit code 1"),
    ],
)
def test_how_it_ended(status: int, message: str) -> None:
    crash = crash_of(status, "fetch", "Fatal Python error\n", 2)
    assert (crash.step, crash.attempt, crash.error.message) == (Step.FETCH, 2, message)
    assert (crash.error.kind, crash.error.details) == (ErrorKind.INTERNAL, "Fatal Python error")
    assert ("memory" in crash.error.hint) == (status == -signal.SIGKILL)


def test_before_the_first_step() -> None:
    assert crash_of(1, "", "x" * 10 * KEPT, 1).step is Step.KERNEL
    assert len(crash_of(1, "nonsense", "x" * 10 * KEPT, 1).error.details) == KEPT
