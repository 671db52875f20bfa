# SPDX-License-Identifier: Apache-2.0
"""Errors as problem+json (RFC 9457): the only place where an error record becomes HTTP.

`type` is `urn:rookery:error:KIND`, `title` the record's message, `detail` the details or the message; `kind`, `details`
and `hint` carry the record itself, so that a client can rebuild it.
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rookery.errors import ErrorKind, ErrorRecord, RookeryError, record_of
from rookery.log import logger
from rookery.wire import routes

log = logger(__name__)

MEDIA_TYPE = "application/problem+json"
_CHALLENGE = 'Basic realm="a ticket as the password, any user"'  # browsers and wget ask for it then

STATUS = {
    ErrorKind.INVALID: 422,
    ErrorKind.UNAUTHORIZED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.CORRUPT: 500,
    ErrorKind.MISSING: 500,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.NO_SPACE: 507,
    ErrorKind.FAILED: 500,
    ErrorKind.CANCELLED: 409,
    ErrorKind.INTERNAL: 500,
}
_KIND = {400: ErrorKind.INVALID, 404: ErrorKind.NOT_FOUND, 405: ErrorKind.INVALID, 408: ErrorKind.UNAVAILABLE}

SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "kind"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "what failed"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "kind": {"type": "string", "enum": [str(kind) for kind in ErrorKind]},
        "details": {"type": "string"},
        "hint": {"type": "string", "description": "one thing to try"},
    },
}


def problem(record: ErrorRecord, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """The response for a record; `status` where HTTP itself decided it."""
    code = status or STATUS[record.kind]
    body = {
        "type": f"urn:rookery:error:{record.kind}",
        "title": record.message,
        "status": code,
        "detail": record.details or record.message,
        "kind": str(record.kind),
        "details": record.details,
        "hint": record.hint,
    }
    extra = {"WWW-Authenticate": "Bearer"} if code == HTTPStatus.UNAUTHORIZED else {}
    return JSONResponse(body, code, {**extra, **(headers or {})}, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let every error of `app` leave as problem+json."""
    app.add_exception_handler(RookeryError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(request: Request, error: Exception) -> Response:
    record = record_of(error)
    if record.kind is ErrorKind.UNAUTHORIZED and request.url.path.startswith(routes.FILES):
        return problem(record, headers={"WWW-Authenticate": _CHALLENGE})
    return problem(record)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _KIND.get(error.status_code, ErrorKind.INVALID if error.status_code < 500 else ErrorKind.INTERNAL)
    message = {
        404: f"no such path: {request.url.path[:200]}",
        405: f"{request.url.path[:200]} does not take {request.method[:20]}",
    }.get(error.status_code, str(error.detail))
    return problem(ErrorRecord(kind, message), error.status_code, dict(error.headers or {}))


async def _validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return problem(ErrorRecord(ErrorKind.INVALID, lines[0] if lines else "invalid request", "\n".join(lines[1:20])))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed: %r", request.method, request.url.path, error)  # uvicorn tells where
    record = record_of(error)
    if record.kind is not ErrorKind.INTERNAL:
        return problem(record)
    # What went wrong inside is for the log, not for whoever asked.
    return problem(ErrorRecord(ErrorKind.INTERNAL, "the head failed at this", hint="its log says why"))
