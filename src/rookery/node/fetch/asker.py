# SPDX-License-Identifier: Apache-2.0
"""Asks the head for the place in the chain, in a thread of its own: a head that does not answer holds nothing up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from rookery.errors import RookeryError
from rookery.log import logger
from rookery.node.talk import Head, Line
from rookery.wire.orders import Source
from rookery.wire.relay import Ask, Place

log = logger(__name__)

ASK_TIMEOUT = 5.0
LEAST = 0.05  # s between two asks that nobody asked for
SOON = 1.0  # s: the connection is kept for who is to ask again within; a head of thousands has not one for each


class Asker:
    """One blob's. make: what is asked, when it is. Nothing is asked by itself before `start`."""

    def __init__(self, source: Source, sha256: str, make: Callable[[], Ask]) -> None:
        self._head = Head(source.head, source.credential, ASK_TIMEOUT)
        self._sha256, self._make, self._line = sha256, make, Line()
        self._lock = threading.Lock()
        self._answer: Place | None = None
        self._wake, self._stopping = threading.Event(), False
        self._seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="chain-ask", daemon=True)

    def once(self, ask: Ask) -> Place:
        """Ask now; not from two threads. Raises RookeryError as `Head.place`."""
        keep = False
        try:
            place = self._head.place(self._sha256, ask, self._line)
            self._seconds = max(place.seconds, LEAST)
            keep = place.seconds <= SOON and not self._stopping
            return place
        finally:
            if not keep:
                self._line.close()

    def start(self) -> None:
        """Begin to ask by ourselves, as often as the head says."""
        self._thread.start()

    def ask(self) -> None:
        """Ask soon."""
        self._wake.set()

    def answer(self) -> Place | None:
        """The head's last answer, once."""
        with self._lock:
            answer, self._answer = self._answer, None
            return answer

    def leave(self, ask: Ask) -> None:
        """Tell the head that this node goes, if it hears."""
        self._line.close()
        with contextlib.suppress(RookeryError):
            Head(self._head.url, self._head.credential, 1.0).place(self._sha256, ask)

    def stop(self) -> None:
        """Ask no more."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(ASK_TIMEOUT)
        self._line.close()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if self._stopping:
                return
            try:
                place = self.once(self._make())
            except RookeryError as error:
                log.info("asking for the place in the chain: %s", error)
                self._seconds = min(self._seconds * 2, 10.0)
                continue
            with self._lock:
                self._answer = place
