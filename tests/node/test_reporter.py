# SPDX-License-Identifier: Apache-2.0
"""Reports to a real HTTP server that can be switched off and on."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rookery import codec
from rookery.errors import ErrorKind, ErrorRecord
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.wire.orders import Answer, Word
from rookery.wire.report import Report, Step, Transfer

PATIENCE = 20.0


class Listening(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0, word: Word = Word.GO_ON) -> None:
        self.reports: queue.Queue[Report] = queue.Queue()
        self.word = word
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def head(self) -> Head:
        return Head(f"http://127.0.0.1:{self.server_address[1]}", "session")

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Listening

    def do_POST(self) -> None:
        self.server.reports.put(codec.loads(Report, self.rfile.read(int(self.headers["Content-Length"]))))
        body = codec.dumps(Answer(self.server.word)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Listening]:
    listening = Listening()
    try:
        yield listening
    finally:
        listening.stop()


@pytest.fixture
def troubles() -> queue.Queue[ErrorRecord | None]:
    return queue.Queue()


@pytest.fixture
def reporter(troubles: queue.Queue[ErrorRecord | None]) -> Iterator[Reporter]:
    numbers = itertools.count(1)
    reporter = Reporter(Report("ab" * 16, 0, Step.MODULES), lambda: next(numbers), troubles.put)
    try:
        yield reporter
    finally:
        reporter.close()


def test_what_happened_before_the_head_was_known_is_in_the_first_report(reporter: Reporter, server: Listening) -> None:
    reporter.change(step=Step.NETWORK, seconds={"modules": 1.0})
    assert not reporter.flush(0.1)
    reporter.to(server.head, 60.0)
    first = server.reports.get(timeout=PATIENCE)
    assert (first.sequence, first.step, first.seconds) == (1, Step.NETWORK, {"modules": 1.0})


def test_a_change_is_sent_at_once_and_progress_when_it_is_time(reporter: Reporter, server: Listening) -> None:
    reporter.to(server.head, 60.0)
    reporter.change(now=False, transfer=Transfer(total=10, done=5))
    reporter.change(step=Step.FETCH)
    assert reporter.flush(PATIENCE)
    found = [server.reports.get(timeout=PATIENCE)]
    while not server.reports.empty():
        found.append(server.reports.get())
    assert found[-1].step is Step.FETCH
    assert found[-1].transfer.done == 5
    reporter.to(server.head, 0.05)
    reporter.change(now=False, transfer=Transfer(total=10, done=6))
    while server.reports.get(timeout=PATIENCE).transfer.done != 6:
        pass


def test_the_journey_goes_on_without_a_head(
    reporter: Reporter, troubles: queue.Queue[ErrorRecord | None], server: Listening
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    reporter.to(Head(f"http://127.0.0.1:{port}", "session"), 0.05)
    for step in (Step.FETCH, Step.VERIFY, Step.ROOT):
        reporter.change(step=step)
    lost = troubles.get(timeout=PATIENCE)
    assert lost is not None
    assert lost.kind is ErrorKind.UNAVAILABLE
    back = Listening(port)
    try:
        assert troubles.get(timeout=PATIENCE) is None
        assert back.reports.get(timeout=PATIENCE).step is Step.ROOT
        assert troubles.empty()  # told once, not at each try
    finally:
        back.stop()


def test_the_heads_word_arrives(reporter: Reporter, server: Listening) -> None:
    words: queue.Queue[Word] = queue.Queue()
    reporter.on_word = words.put
    server.word = Word.STOP_SEEDING
    reporter.to(server.head, 60.0)
    reporter.change(seeding=True)
    assert words.get(timeout=PATIENCE) is Word.STOP_SEEDING
    assert reporter.flush(PATIENCE)
    assert reporter.word is Word.STOP_SEEDING


def test_sequence_grows(reporter: Reporter, server: Listening) -> None:
    reporter.to(server.head, 0.02)
    numbers = [server.reports.get(timeout=PATIENCE).sequence for _ in range(5)]
    assert numbers == sorted(set(numbers))
