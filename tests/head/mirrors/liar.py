# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that serves a file well, or as badly as it is told to."""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Liar:
    """content: by path. fault: what it does wrong. asked: (method, path, Range) of every request."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.fault = ""
        self.asked: list[tuple[str, str, str]] = []
        self.url = ""
        self.waiting = threading.Event()
        self.go_on = threading.Event()


def _handler(liar: Liar) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a list of faults
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            liar.asked.append((self.command, self.path, wanted))
            content = liar.content.get(self.path)
            if content is None:
                self.say(404, b"nothing here", {"Content-Type": "text/html"})
            elif liar.fault in ("302", "401", "403", "500", "503", "418"):
                self.say(int(liar.fault), b"", {"Location": "http://elsewhere.example/x"})
            elif liar.fault == "html":
                self.say(200, b"<html>Welcome to our mirror</html>", {"Content-Type": "text/html; charset=utf-8"})
            elif liar.fault == "hang":
                liar.waiting.set()
                liar.go_on.wait(30)
                self.close_connection = True
            elif liar.fault == "cut":
                self.send_response(206)
                self.send_header("Content-Range", f"{wanted.replace('=', ' ')}/{len(content)}")
                self.send_header("Content-Length", str(int(wanted.rpartition("-")[2]) + 1))
                self.end_headers()
                self.wfile.write(content[:1000])
                self.close_connection = True
            else:
                self.well(content, wanted)

        def well(self, content: bytes, wanted: str) -> None:
            etag = {"no-etag": "", "weak-etag": 'W/"1"'}.get(liar.fault, f'"{len(content)}-1"')
            more = {"ETag": etag} if etag else {}
            if etag and self.headers.get("If-None-Match") == etag:
                self.say(304, b"", more)
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
            if found is None or liar.fault == "no-ranges":
                self.say(200, content, more)
                return
            first, end = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
            if first >= len(content):
                self.say(416, b"", more)
                return
            size = len(content) + (5 if liar.fault == "size" else 0)
            shift = 1 if liar.fault == "shift" else 0
            more["Content-Range"] = f"bytes {first + shift}-{end - 1 + shift}/{size}"
            if liar.fault == "no-content-range":
                del more["Content-Range"]
            if liar.fault == "gzip":
                more["Content-Encoding"] = "gzip"
            self.say(206, content[first:end] + (b"more" if liar.fault == "too-much" else b""), more)

        def say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 304:
                self.wfile.write(body)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is what it is about


@contextlib.contextmanager
def serving() -> Iterator[Liar]:
    liar = Liar()
    with _Server(("127.0.0.1", 0), _handler(liar)) as server:
        assert isinstance(server, socketserver.TCPServer)
        liar.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield liar
        finally:
            liar.go_on.set()
            server.shutdown()
            thread.join()
