# SPDX-License-Identifier: Apache-2.0
"""Reports to the head from a thread of its own: a snapshot whenever something changed, and every so often.

The journey only changes the snapshot and never waits: a head that is slow or gone stops nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rookery.errors import ErrorRecord, RookeryError
from rookery.node.talk import Head
from rookery.wire.orders import Word
from rookery.wire.report import Report

TIMEOUT = 5.0
LEAST_SECONDS = 0.2  # between two reports, however much changes


class Reporter:
    """Keeps the snapshot and sends it once it knows a head.

    report: the first snapshot. sequence: gives the next number. on_trouble: called from the thread when the head was
    lost (with why) and when it is back (with None).
    """

    def __init__(
        self, report: Report, sequence: Callable[[], int], on_trouble: Callable[[ErrorRecord | None], None]
    ) -> None:
        self._report = report
        self._sequence = sequence
        self._on_trouble = on_trouble
        self._head: Head | None = None
        self._every = 1.0
        self._changes = 0
        self._sent = 0
        self._lost = False
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()
        self.word = Word.GO_ON
        self.on_word: Callable[[Word], None] = lambda _word: None

    @property
    def report(self) -> Report:
        """The snapshot as it is now."""
        with self._condition:
            return self._report

    def to(self, head: Head, every: float) -> None:
        """Send to `head` from now on, at least every `every` seconds."""
        with self._condition:
            self._head, self._every = replace(head, timeout=TIMEOUT), every
            self._condition.notify_all()

    def change(self, *, now: bool = True, **fields: Any) -> None:
        """Change fields of the snapshot; with `now`, send it as soon as may be, else when it is time."""
        with self._condition:
            self._report = replace(self._report, **fields)
            if now:
                self._changes += 1
                self._condition.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until the head has the latest change, `seconds` at most; whether it has."""
        with self._condition:
            if self._head is None:
                return False
            return self._condition.wait_for(lambda: self._sent >= self._changes, seconds)

    def close(self) -> None:
        """Stop reporting."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        while True:
            with self._condition:
                due = self._condition.wait_for(self._is_due, self._every)
                if self._closed:
                    return
                if self._head is None:
                    continue
                head, changes = self._head, self._changes
                report = replace(self._report, sequence=self._sequence())
            self._send(head, report, changes)
            time.sleep(LEAST_SECONDS if due else 0.0)

    def _is_due(self) -> bool:
        return self._closed or (self._head is not None and not self._lost and self._sent < self._changes)

    def _send(self, head: Head, report: Report, changes: int) -> None:
        try:
            answer = head.report(report)
        except RookeryError as error:
            if not self._lost:
                self._on_trouble(error.record)
            self._lost = True  # no more hurry: the next try is when it is time
            return
        if self._lost:
            self._on_trouble(None)
        with self._condition:
            self._lost, self._sent, self.word = False, max(self._sent, changes), answer.word
            self._condition.notify_all()
        self.on_word(answer.word)
