# SPDX-License-Identifier: Apache-2.0
"""A node's words with the head, over HTTP/1.1 (RFC 9110). No retries in here, but where the head has closed a kept
connection: who calls knows what it can wait for."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from dataclasses import dataclass

from rookery import codec
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.wire import routes
from rookery.wire.orders import Answer, Hello, Orders, Welcome
from rookery.wire.relay import Ask, Place
from rookery.wire.report import Report

MOST_ANSWER = 64 << 20
_KINDS = {
    400: ErrorKind.INVALID,
    401: ErrorKind.UNAUTHORIZED,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    409: ErrorKind.CONFLICT,
    410: ErrorKind.NOT_FOUND,
    413: ErrorKind.TOO_LARGE,
}


class Line:
    """A connection to the head that stays open between two calls, until `close`: a caller that soon calls again need
    not wait a second where a switch drops its first packet. Not thread-safe."""

    def __init__(self) -> None:
        self._connection: http.client.HTTPConnection | None = None

    def take(self) -> http.client.HTTPConnection | None:
        """The connection, if one is open; it is the caller's then."""
        connection, self._connection = self._connection, None
        return connection

    def put(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection that has given its answer whole."""
        self._connection = connection

    def close(self) -> None:
        """Hang up."""
        if (connection := self.take()) is not None:
            connection.close()


@dataclass(frozen=True)
class Head:
    """The head at `url` (base URL, `http://10.0.0.1:8470`), spoken to with a session `credential` (none for hello).
    timeout: seconds, for connecting and for each silence."""

    url: str
    credential: str = ""
    timeout: float = 10.0

    def hello(self, hello: Hello) -> Welcome:
        """Show the boot token; get the session credential. Raises RookeryError as `get`."""
        return codec.loads(Welcome, self._call("POST", routes.HELLO, hello), what="the head's welcome")

    def orders(self) -> Orders:
        """This node's orders. Raises RookeryError as `get`; `none_yet` tells whether the node just has to wait."""
        return codec.loads(Orders, self.get(routes.ORDERS), most=MOST_ANSWER, what="the head's orders")

    def report(self, report: Report) -> Answer:
        """Tell the head where this node is; get its word. Raises RookeryError as `get`."""
        return codec.loads(Answer, self._call("POST", routes.REPORT, report), what="the head's answer")

    def place(self, sha256: str, ask: Ask, line: Line | None = None) -> Place:
        """This node's place in the chain of a blob. line: to ask over. Raises RookeryError as `get`."""
        return codec.loads(Place, self._call("POST", f"{routes.CHAIN}/{sha256}", ask, line), what="the head's answer")

    def get(self, path: str) -> bytes:
        """The body at `path`. Raises RookeryError: `unavailable` when the head cannot be reached or breaks off, else
        what the head's problem+json says."""
        return self._call("GET", path, None)

    def _call(self, method: str, path: str, message: object | None, line: Line | None = None) -> bytes:
        body = codec.dumps(message).encode() if message is not None else None
        headers = {"Accept": "application/json, application/problem+json, */*"}
        if self.credential:
            headers["Authorization"] = f"Bearer {self.credential}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        address = urllib.parse.urlsplit(self.url)
        asked = (method, address.path.rstrip("/") + path, body, headers)
        try:
            kept = line.take() if line is not None else None
            try:
                status, content = _exchange(kept or self._connect(), asked, line)
            except (ConnectionError, http.client.BadStatusLine):
                # The head hangs up on who is silent for long, and when it starts anew.
                if kept is None:
                    raise
                status, content = _exchange(self._connect(), asked, line)
        except (OSError, http.client.HTTPException) as error:
            raise RookeryError(
                f"the head at {self.url} does not answer",
                kind=ErrorKind.UNAVAILABLE,
                details=f"{method} {path}: {type(error).__name__}: {error}",
                hint="is 'rookery serve' running there, and does the network lead to it?",
            ) from error
        if len(content) > MOST_ANSWER:
            raise RookeryError(f"the head's answer to {method} {path} is too large", kind=ErrorKind.TOO_LARGE)
        if not 200 <= status < 300:
            raise RookeryError.from_record(problem(status, content, f"{method} {path}"))
        return content

    def _connect(self) -> http.client.HTTPConnection:
        address = urllib.parse.urlsplit(self.url)
        return http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=self.timeout)


def _exchange(
    connection: http.client.HTTPConnection, asked: tuple[str, str, bytes | None, dict[str, str]], line: Line | None
) -> tuple[int, bytes]:
    """Ask, and take the answer: its status and content. The connection is kept on the line, or closed."""
    keep = False
    try:
        connection.request(*asked)
        answer = connection.getresponse()
        content = answer.read(MOST_ANSWER + 1)
        if answer.length and len(content) <= MOST_ANSWER:
            raise http.client.IncompleteRead(content, answer.length)  # read() with a limit does not tell
        keep = line is not None and answer.isclosed() and not answer.will_close
        return answer.status, content
    finally:
        if keep and line is not None:
            line.put(connection)
        else:
            connection.close()


def none_yet(record: ErrorRecord) -> bool:
    """Whether the head said that this node has no orders for now: it has no image assigned, or one that is gone."""
    return record.kind in (ErrorKind.NOT_FOUND, ErrorKind.CONFLICT)


def problem(status: int, body: bytes, asked: str) -> ErrorRecord:
    """The error that an answer other than 2xx stands for: its problem+json (RFC 9457), else what its status says."""
    kind = _KINDS.get(status, ErrorKind.UNAVAILABLE if status >= 500 else ErrorKind.FAILED)
    try:
        found = json.loads(body)
        return ErrorRecord(
            ErrorKind(found.get("kind", kind)),
            title := str(found["title"])[:1000],
            # Ours repeats its title as `detail` when there is no more to say; RFC 9457 knows no `details`.
            str(found.get("details") or ("" if found.get("detail") == title else found.get("detail")) or "")[:10_000],
            str(found.get("hint") or "")[:1000],
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return ErrorRecord(kind, f"the head answered {status} to {asked}", body[:200].decode(errors="replace"))
