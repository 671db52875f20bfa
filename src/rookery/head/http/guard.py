# SPDX-License-Identifier: Apache-2.0
"""Who is calling, and what of the published blobs that opens."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
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
MOST_AT_ONCE = 500  # secrets in one look-up


@dataclass(frozen=True)
class Access:
    """A caller who may fetch. version: the id of the one version that is open to it, or None: every version's."""

    credential: Credential
    version: str | None


class Fresh(Generic[T]):
    """Answers that are believed for a short while; errors are never kept. For one event loop.

    ask: called in a thread, with all the secrets that came while the last call ran, so that a thousand callers in one
    second cost a few look-ups and not a thousand; answers in their order, errors as values.
    """

    def __init__(
        self, ask: Callable[[Sequence[str]], Sequence[T | RookeryError]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[bytes, tuple[float, T]] = {}
        self._waiting: dict[str, asyncio.Future[T]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, secret: str) -> T:
        """What is known of a secret; raises what `ask` answered."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        until, value = self._known.get(digest, (0.0, None))
        if value is not None and now < until:
            return value
        if (answer := self._waiting.get(secret)) is None:
            answer = self._waiting[secret] = asyncio.get_running_loop().create_future()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
        # A caller that goes away must not take the answer from others with the same secret.
        fresh = await asyncio.shield(answer)
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[digest] = (now + FRESH_SECONDS, fresh)
        return fresh

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                asked = {secret: self._waiting.pop(secret) for secret in list(self._waiting)[:MOST_AT_ONCE]}
                answers: Sequence[T | BaseException]
                try:
                    answers = await run_in_threadpool(self._ask, list(asked))
                except Exception as error:  # noqa: BLE001 - every caller gets it
                    answers = [error] * len(asked)
                for future, answer in zip(asked.values(), answers, strict=True):
                    if isinstance(answer, BaseException):
                        future.set_exception(answer)
                        future.exception()  # the caller may be gone: then nobody asks for it, which is no fault
                    else:
                        future.set_result(answer)
        finally:
            self._asking = None


class Guard:
    """Checks credentials. Secrets are looked up by their SHA-256, so the time that takes tells nothing about them."""

    def __init__(self, credentials: Credentials, fleet: Fleet) -> None:
        self._credentials = credentials
        self._fleet = fleet
        self._checked = Fresh(self._check)
        self._accesses = Fresh(self._access)

    async def operator(self, request: Request) -> Credential:
        """The operator's credential. Raises RookeryError `unauthorized` or `forbidden`."""
        try:
            return _require(await self._checked.get(bearer(request)), Kind.OPERATOR)
        except RookeryError as error:
            hint = "give the token in the head's operator.token: --token @FILE, or $ROOKERY_TOKEN"
            raise RookeryError(str(error), kind=error.kind, hint=error.record.hint or hint) from error

    async def node(self, request: Request) -> Credential:
        """A node's session credential; its subject is the node's name. Raises as `operator`."""
        return _require(await self._checked.get(bearer(request)), Kind.SESSION)

    async def access(self, secret: str) -> Access:
        """What a credential opens of the published blobs. Raises as `operator`."""
        return await self._accesses.get(secret)

    async def fetcher(self, request: Request) -> Access:
        """As `access`, for the caller of a request."""
        return await self.access(bearer(request))

    def _check(self, secrets: Sequence[str]) -> list[Credential | RookeryError]:
        held = self._credentials.holders(secrets)
        return [found if isinstance(found, RookeryError) else found[0] for found in held]

    def _access(self, secrets: Sequence[str]) -> list[Access | RookeryError]:
        opened = self._fleet.versions_for(secrets)
        return [found if isinstance(found, RookeryError) else Access(*found) for found in opened]


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
