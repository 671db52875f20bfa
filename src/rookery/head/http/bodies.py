# SPDX-License-Identifier: Apache-2.0
"""JSON in and out: request bodies through rookery.codec, strictly and within limits; answers from dataclasses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from rookery import codec

T = TypeVar("T")


def body(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads the request's body as a `kind`. How long it may be is decided in limits.py."""

    async def read(request: Request) -> T:
        return codec.loads(kind, await request.body(), what="the request")

    return read


def answer(value: object, status: int = 200) -> Response:
    """A dataclass as JSON."""
    return Response(codec.dumps(value), status, media_type="application/json")
