# SPDX-License-Identifier: Apache-2.0
"""Who may do what: operator tokens, one-time boot tokens, session credentials, tickets.

A secret is 256 random bits, shown once to whom it is for; the catalog keeps its SHA-256 alone. A digest of that much
chance cannot be guessed or turned back, so neither salt nor a slow hash would add anything.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Credential, Standing

BOOT_SECONDS = 15 * 60
SESSION_SECONDS = 30 * 86400
NEVER = 253_402_300_799.0  # the end of the year 9999
MOST_SECRET = 256
# Boot tokens of one node that are valid at one time. A firmware that asks again gets a new one, and which of its
# questions it acts on is not known; more than a handful is somebody who asks in its name.
BOOT_TOKENS = 16
SESSIONS_OF_A_BOOT = 4
PURGE_SECONDS = 3600.0
_BOOT_ID = re.compile(r"[0-9a-f]{32}")


class Kind(StrEnum):
    """What a credential is for."""

    OPERATOR = "operator"  # everything
    BOOT = "boot"  # one hello
    SESSION = "session"  # a node, from its hello to its next
    TICKET = "ticket"  # fetching one version


class Credentials:
    """Makes and checks credentials. Thread-safe. clock: seconds since 1970."""

    def __init__(
        self, catalog: Catalog, clock: Callable[[], float] = time.time, boot_seconds: float = BOOT_SECONDS
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._boot_seconds = boot_seconds
        self._purged_at = 0.0
        self._purging = threading.Lock()

    def operator(self) -> str:
        """A new operator token; those before it end."""
        self._catalog.remove_credentials(Kind.OPERATOR)
        return self._make(Kind.OPERATOR, "", NEVER)

    def boot_token(self, node: str) -> str:
        """A token for one hello of `node` within 15 minutes. It ends nothing: anyone can ask in a machine's name."""
        self._purge()
        return self._make(Kind.BOOT, node, self._clock() + self._boot_seconds, keep=BOOT_TOKENS)

    def hello(self, token: str, boot_id: str) -> tuple[str, str]:
        """(node, session credential) for a boot token: its first use binds it to the boot, which may repeat it.

        Ends the node's sessions of other boots and its older boot tokens. Raises RookeryError `invalid` for a boot_id
        that is not 32 hex digits, `unauthorized` for a token that is unknown, expired or another boot's.
        """
        if not _BOOT_ID.fullmatch(boot_id):
            raise RookeryError(f"boot_id: expected 32 hex digits, got {boot_id[:40]!r}", kind=ErrorKind.INVALID)
        found = self._find(token)
        if found is None or found.kind != Kind.BOOT or found.expires_at <= self._clock():
            raise _unauthorized("the boot token is not known or has expired", "start the machine again")
        if not self._catalog.spend(found.digest, boot_id):
            raise _unauthorized("the boot token was used by another boot", "start the machine again")
        self._catalog.supersede(found, boot_id)
        return found.subject, self.session(found.subject, boot_id)

    def session(self, node: str, boot_id: str) -> str:
        """A credential for one boot of a node, for 30 days."""
        expires_at = self._clock() + SESSION_SECONDS
        return self._make(Kind.SESSION, node, expires_at, used_by=boot_id, keep=SESSIONS_OF_A_BOOT)

    def ticket(self, version_id: str, seconds: float) -> str:
        """A credential that fetches one version, for `seconds`."""
        self._purge()
        return self._make(Kind.TICKET, version_id, self._clock() + seconds)

    def check(self, credential: str) -> Credential:
        """The credential behind a secret. Raises RookeryError `unauthorized`; a boot token is good for hello only."""
        return self._valid(self._find(credential))

    def holders(self, secrets: Sequence[str]) -> list[tuple[Credential, Standing | None] | RookeryError]:
        """As `check` for many at once: for each the credential and, of a session, how its node stands; or the error."""
        digests = [_digest(secret) if 0 < len(secret) <= MOST_SECRET else "" for secret in secrets]
        known = self._catalog.holders(digests)
        found: list[tuple[Credential, Standing | None] | RookeryError] = []
        for digest in digests:
            credential, standing = known.get(digest, (None, None))
            try:
                found.append((self._valid(credential), standing))
            except RookeryError as error:
                found.append(error)
        return found

    def require(self, credential: str, *kinds: Kind) -> Credential:
        """As `check`. Raises `forbidden` when it is none of `kinds`."""
        found = self.check(credential)
        if found.kind not in kinds:
            raise RookeryError(
                f"a credential of kind {found.kind} does not allow this; needed is {' or '.join(kinds)}",
                kind=ErrorKind.FORBIDDEN,
            )
        return found

    def _valid(self, found: Credential | None) -> Credential:
        if found is None or found.kind == Kind.BOOT or found.expires_at <= self._clock():
            raise _unauthorized("the credential is not known or has expired")
        return found

    def _make(
        self, kind: Kind, subject: str, expires_at: float, used_by: str | None = None, keep: int | None = None
    ) -> str:
        secret = secrets.token_urlsafe(32)
        self._catalog.add_credential(Credential(_digest(secret), kind, subject, expires_at, used_by), keep)
        return secret

    def _find(self, secret: str) -> Credential | None:
        if not 0 < len(secret) <= MOST_SECRET:
            return None
        return self._catalog.credential(_digest(secret))

    def _purge(self) -> None:
        now = self._clock()
        with self._purging:
            if now - self._purged_at < PURGE_SECONDS:
                return
            self._purged_at = now
        self._catalog.purge(now)


def _digest(secret: str) -> str:
    # What comes over the network may hold half a surrogate pair, which has no UTF-8.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _unauthorized(message: str, hint: str = "") -> RookeryError:
    return RookeryError(message, kind=ErrorKind.UNAUTHORIZED, hint=hint)
