# SPDX-License-Identifier: Apache-2.0
"""Over real sockets: what uvicorn, our protocol and our middleware do together."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from rookery.head.http import limits, problems
from rookery.wire import routes

MUCH = 1 << 30


@contextlib.contextmanager
def serving(**seconds: float) -> Iterator[int]:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(limits.Limits, **seconds)

    @app.post(routes.REPORT)
    async def take(request: Request) -> int:
        return len(await request.body())

    @app.get("/much")
    async def much() -> StreamingResponse:
        return StreamingResponse(b"x" * (1 << 20) for _ in range(MUCH >> 20))

    wire = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=limits.PatientProtocol, ws="none", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [wire]})
    thread.start()
    try:
        yield wire.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(body_seconds=0.3) as number:
        yield number


def ask(
    port: int, method: str, path: str, body: bytes | Iterator[bytes] | None = None
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        return answer.status, found if isinstance(found, dict) else {"answer": found}


def test_a_body_within_the_limit(port: int) -> None:
    most = limits.MOST_BODY_OF[routes.REPORT]
    assert ask(port, "POST", routes.REPORT, b"x" * most) == (200, {"answer": most})


def test_a_stated_length_above_the_limit_is_refused_unread(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(f"POST {routes.REPORT} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n".encode())
        answer = b""
        while part := wire.recv(65536):  # to its end: the head closes such a connection
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


def test_a_length_of_thousands_of_digits(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(f"POST {routes.REPORT} HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 5000}\r\n\r\n".encode())
        assert wire.recv(65536).split()[1] in {b"400", b"413"}


def test_a_chunked_body_above_the_limit(port: int) -> None:
    parts = (b"x" * 65536 for _ in range(100))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        with contextlib.suppress(ConnectionError):  # it may close while we are still sending
            connection.request(
                "POST", routes.REPORT, parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
            )
        with contextlib.suppress(ConnectionError):
            answer = connection.getresponse()
            assert answer.status == 413
            assert json.loads(answer.read())["kind"] == "too-large"
    assert ask(port, "POST", routes.REPORT, b"still there") == (200, {"answer": 11})


def test_a_body_that_stops_coming(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(f"POST {routes.REPORT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc".encode())
        assert wire.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_a_caller_who_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TAKE_SECONDS", 0.3)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        threading.Event().wait(1)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while part := wire.recv(1 << 20):  # what the kernel still held, then the end
                taken += len(part)
    assert taken < MUCH


def test_headers_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.5)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            while wire.recv(65536):
                pass
            # the head closed the connection: recv has come to its end
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("POST", routes.REPORT, b"x")
                assert connection.getresponse().read() == b"1"


def test_a_path_beyond_the_limit(port: int) -> None:
    status, body = ask(port, "GET", "/" + "x" * 20000)
    assert (status, body["kind"]) == (413, "too-large")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", routes.REPORT, 405)])
def test_what_is_not_there(port: int, method: str, path: str, status: int) -> None:
    found, body = ask(port, method, path)
    assert (found, body["status"]) == (status, status)
    assert body["title"]
