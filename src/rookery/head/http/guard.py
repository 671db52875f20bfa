# SPDX-License-Identifier: Apache-2.0
"""Who is calling, and what of the published blobs that opens."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Credential
from rookery.head.fleet.credentials import Credentials, Kind
from rookery.head.fleet.fleet import Fleet

T = TypeVar("T")
FRESH_SECONDS = 2.0  # how long an answer about a credential is believed: a swarm announces and fetches in bursts
MOST_REMEMBERED = 50_000
MOST_SECRET = 256


@dataclass(frozen=True)
class Access:
    """A caller who may fetch. version: the id of the one version that is open to it, or None: every version's."""

    credential: Credential
    version: str | None


class _Fresh(Generic[T]):
    """Answers that are believed for a short while; errors are never kept. For one event loop."""

    def __init__(self, ask: Callable[[str], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[bytes, tuple[float, T]] = {}

    async def get(self, secret: str) -> T:
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        until, value = self._known.get(digest, (0.0, None))
        if value is not None and now < until:
            return value
        fresh = await run_in_threadpool(self._ask, secret)
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[digest] = (now + FRESH_SECONDS, fresh)
        return fresh


class Guard:
    """Checks credentials. Secrets are looked up by their SHA-256, so the time that takes tells nothing about them."""

    def __init__(self, credentials: Credentials, fleet: Fleet) -> None:
        self._credentials = credentials
        self._fleet = fleet
        self._checked = _Fresh(credentials.check)
        self._accesses = _Fresh(self._access)

    async def operator(self, request: Request) -> Credential:
        """The operator's credential. Raises RookeryError `unauthorized` or `forbidden`."""
        return _require(await self._checked.get(bearer(request)), Kind.OPERATOR)

    async def node(self, request: Request) -> Credential:
        """A node's session credential; its subject is the node's name. Raises as `operator`."""
        return _require(await self._checked.get(bearer(request)), Kind.SESSION)

    async def access(self, secret: str) -> Access:
        """What a credential opens of the published blobs. Raises as `operator`."""
        return await self._accesses.get(secret)

    async def fetcher(self, request: Request) -> Access:
        """As `access`, for the caller of a request."""
        return await self.access(bearer(request))

    def _access(self, secret: str) -> Access:
        credential = self._credentials.check(secret)
        return Access(credential, self._fleet.version_for(credential))


Dependency = Callable[[Request], Awaitable[object]]


def bearer(request: Request) -> str:
    """The secret of `Authorization: Bearer …` (RFC 6750). Raises RookeryError `unauthorized` when there is none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not 0 < len(secret) <= MOST_SECRET:
        raise RookeryError("this needs a credential: Authorization: Bearer …", kind=ErrorKind.UNAUTHORIZED)
    return secret


def _require(credential: Credential, kind: Kind) -> Credential:
    if credential.kind != kind:
        raise RookeryError(
            f"a credential of kind {credential.kind} does not allow this; needed is {kind}", kind=ErrorKind.FORBIDDEN
        )
    return credential
