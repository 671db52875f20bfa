# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.api.client import Client, record_of_problem
from rookery.errors import ErrorKind, ErrorRecord, RookeryError


@pytest.mark.parametrize("kind", ErrorKind)
def test_a_problem_becomes_the_record_it_was(kind: ErrorKind) -> None:
    body = {"type": "x", "title": "it broke", "status": 500, "kind": str(kind), "details": "a\nb", "hint": "try"}
    assert record_of_problem(500, json.dumps(body).encode()) == ErrorRecord(kind, "it broke", "a\nb", "try")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ErrorKind.UNAUTHORIZED), (404, ErrorKind.NOT_FOUND), (418, ErrorKind.FAILED), (502, ErrorKind.UNAVAILABLE)],
)
def test_something_else_than_a_problem(status: int, kind: ErrorKind) -> None:
    record = record_of_problem(status, b"<html>a proxy says no</html>")
    assert (record.kind, str(status) in record.message) == (kind, True)
    assert "a proxy says no" in record.details


@given(st.integers(400, 599), st.binary(max_size=200))
def test_any_body_is_an_error_in_words(status: int, body: bytes) -> None:
    assert record_of_problem(status, body).message


def test_nobody_there(tmp_path: Path) -> None:
    with Client("secret", socket=tmp_path / "api.sock") as client, pytest.raises(RookeryError) as raised:
        client.head()
    assert raised.value.kind is ErrorKind.UNAVAILABLE
    assert f"rookery serve --dir {tmp_path}" in raised.value.record.hint


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that gives one answer to whatever comes."""
    with socket.create_server(("127.0.0.1", 0)) as wire:

        def serve() -> None:
            connection, _ = wire.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{wire.getsockname()[1]}"
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("body", "named"),
    [(b"not JSON", "not JSON"), (b'{"what": 1}', "what"), (b"{}", "missing"), (b"[]", "map")],
)
def test_an_answer_that_is_not_what_was_asked_for(body: bytes, named: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
    with saying(answer) as url, Client("secret", url=url) as client, pytest.raises(RookeryError, match=named) as raised:
        client.nodes()
    assert "the head's answer to GET /api/v1/nodes" in str(raised.value)


def test_an_answer_that_breaks_off() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with saying(answer) as url, Client("secret", url=url) as client, pytest.raises(RookeryError) as raised:
        client.nodes()
    assert raised.value.kind is ErrorKind.UNAVAILABLE
