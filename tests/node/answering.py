# SPDX-License-Identifier: Apache-2.0
"""A real HTTP server in the head's place, which answers what a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from rookery import codec
from rookery.wire.relay import Place


class Answering(ThreadingHTTPServer):
    """A real HTTP server that answers what a test says, and remembers what it was asked."""

    daemon_threads = True
    status, body, length = 200, b"{}", -1

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization", ""), body))
        self.send_response(self.server.status)
        length = self.server.length if self.server.length >= 0 else len(self.server.body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Keeping(Answering):
    """One that keeps connections open; `drop` says that it hangs up behind the next answer, without a word."""

    drop = False

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Keeping
        self.connections = 0
        self.body = codec.dumps(Place((), "k", 0.3)).encode()

    def process_request(self, request: object, client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]


class _Keeping(_Handler):
    protocol_version = "HTTP/1.1"
    server: Keeping

    def do_POST(self) -> None:
        self._answer()
        self.close_connection = self.server.drop


Server = TypeVar("Server", bound=Answering)


def serving(answering: Server) -> Iterator[Server]:
    with answering:
        thread = threading.Thread(target=answering.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield answering
        finally:
            answering.shutdown()
            thread.join()
