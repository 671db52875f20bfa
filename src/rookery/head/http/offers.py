# SPDX-License-Identifier: Apache-2.0
"""What clients that are not ours are told of a version: URLs, torrents, metalinks and headers, with their ticket."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from rookery import __version__
from rookery.api.files import Offered, OfferedFile, OfferedVersion
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Place, Version
from rookery.head.fleet.credentials import Kind
from rookery.head.fleet.fleet import TICKET_SECONDS
from rookery.head.http import views
from rookery.head.http.announce import PUBLIC
from rookery.head.http.guard import MOST_SECRET, Guard
from rookery.head.http.metalink import MEDIA_TYPE, File, Url, metalink
from rookery.head.http.services import Services
from rookery.head.swarm.dressing import Pieces, dressed, piece_digests
from rookery.wire import routes
from rookery.wire.manifest import Blob

PIECE = 1 << 20  # bytes; of files that no torrent has cut into pieces
GENERATOR = f"Rookery/{__version__}"


@dataclass(frozen=True)
class Caller:
    """version: the id of the one version that is open to the caller, or None: every version's. ticket: its own, if it
    has one; empty for an operator, and where no ticket is needed. everybody: the site's files are public."""

    version: str | None
    ticket: str = ""
    everybody: bool = False

    def require(self, row: Version) -> None:
        """Raise RookeryError `forbidden` unless the version is open to the caller."""
        if self.version not in (None, row.id):
            raise RookeryError(
                f"the ticket is for version {str(self.version)[:12]}, but this is {row.id[:12]}",
                kind=ErrorKind.FORBIDDEN,
                hint="a ticket stays with its version when a tag moves: ask for a new one on the head",
            )


async def who(request: Request, guard: Guard, *, public: bool) -> Caller:
    """Who calls, by the ticket in the query, a bearer, or a password. Raises RookeryError `unauthorized`, `forbidden`.

    public: nobody is asked who they are.
    """
    if public:
        return Caller(None, everybody=True)
    secret = request.query_params.get("ticket", "") or _shown(request.headers.get("authorization", ""))
    if not 0 < len(secret) <= MOST_SECRET:
        raise _unauthorized("this needs a ticket: ?ticket=… in the URL, or as a password")
    try:
        access = await guard.access(secret)
    except RookeryError as error:
        if error.kind is not ErrorKind.UNAUTHORIZED:
            raise
        raise _unauthorized("the ticket is not known or has expired") from error
    if access.credential.kind == Kind.OPERATOR:
        return Caller(None)
    if access.credential.kind != Kind.TICKET:
        raise RookeryError("nodes fetch blobs by their digest, not here", kind=ErrorKind.FORBIDDEN)
    return Caller(access.version, secret)


def _unauthorized(message: str) -> RookeryError:
    hint = "'rookery ticket IMAGE --for curl' on the head prints a command with a new one"
    return RookeryError(message, kind=ErrorKind.UNAUTHORIZED, hint=hint)


def _shown(authorization: str) -> str:
    """The secret in an Authorization header: a bearer's (RFC 6750) or a password (RFC 7617)."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


class Offers:
    """Makes what is told. Thread-safe and blocking."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def blobs(self, row: Version) -> tuple[Blob, ...]:
        """The files of a version."""
        return views.manifest(row).blobs

    def versions(self, rows: Sequence[Version], caller: Caller) -> Offered:
        """All of these versions, with their URLs."""
        listed = [(row, self.blobs(row)) for row in rows]
        places = self._places(blob for _, blobs in listed for blob in blobs)
        return Offered(tuple(self._version(row, blobs, caller.ticket, places) for row, blobs in listed))

    def of_ticket(self, row: Version, ticket: str) -> OfferedVersion:
        """What a ticket opens."""
        blobs = self.blobs(row)
        return self._version(row, blobs, "" if self._services.config.files.public else ticket, self._places(blobs))

    def torrent(self, blob: Blob, row: Version, caller: Caller) -> bytes:
        """The torrent of a file, with the tracker's URL for this caller, and with mirrors as web seeds.

        The head is no web seed: it gives in the swarm, where one copy of it goes a long way.
        Raises RookeryError `not-found` for a file that the swarm does not carry.
        """
        ticket = PUBLIC if caller.everybody else self._ticket(row, caller)
        announce = routes.announce_url(self._services.url, ticket)
        seeds = [place.url for place in self._places((blob,)).get(blob.sha256, ())]
        return dressed(self._stored(blob), announce, seeds)

    def metalink(self, row: Version, blobs: Sequence[Blob], caller: Caller) -> bytes:
        """A metalink of some files of a version. Raises RookeryError `not-found`."""
        ticket = "" if caller.everybody else self._ticket(row, caller)
        places = self._places(blobs)
        own = self._services.config.files
        files = []
        for blob in blobs:
            parts = (row.image, row.id, blob.name)
            there = [Url(place.url, place.priority, place.location) for place in places.get(blob.sha256, ())]
            there.append(Url(self._url(parts, ticket), own.priority, own.location))
            there.sort(key=lambda place: place.priority)
            torrent = self._url((*parts[:2], f"{blob.name}.torrent"), ticket) if blob.info_hash else ""
            files.append(
                File(blob.name, blob.size, blob.sha256, row.image, row.id, self._pieces(blob), torrent, tuple(there))
            )
        return metalink(files, row.published_at, GENERATOR)

    def headers(self, row: Version, blob: Blob, caller: Caller) -> dict[str, str]:
        """Headers of a file: its name, its digest (RFC 9530, and RFC 3230 for clients of RFC 6249), where else it is,
        and what describes it (RFC 6249)."""
        digest = base64.b64encode(bytes.fromhex(blob.sha256)).decode()
        parts = (row.image, row.id, blob.name)
        offered = self._file(row, blob, caller.ticket, self._places((blob,)))
        links = [f'<{offered.metalink}>; rel=describedby; type="{MEDIA_TYPE}"; name="{parts[-1]}.meta4"']
        if offered.torrent:
            links.append(f'<{offered.torrent}>; rel=describedby; type="application/x-bittorrent"')
        for place in self._places((blob,)).get(blob.sha256, ()):
            geo = f"; geo={place.location}" if place.location else ""
            links.append(f"<{place.url}>; rel=duplicate; pri={place.priority}{geo}")
        return {
            "Content-Disposition": f'attachment; filename="{blob.name}"',
            "Repr-Digest": f"sha-256=:{digest}:",
            "Digest": f"SHA-256={digest}",
            "Link": ", ".join(links),
        }

    def _version(
        self, row: Version, blobs: Sequence[Blob], ticket: str, places: dict[str, tuple[Place, ...]]
    ) -> OfferedVersion:
        return OfferedVersion(
            row.image,
            row.id,
            row.kind,
            row.tags,
            row.size,
            row.published_at,
            self._url((row.image, row.id), ticket),
            self._url((row.image, f"{row.id}.meta4"), ticket),
            tuple(self._file(row, blob, ticket, places) for blob in blobs),
        )

    def _file(self, row: Version, blob: Blob, ticket: str, places: dict[str, tuple[Place, ...]]) -> OfferedFile:
        def url(suffix: str = "") -> str:
            return self._url((row.image, row.id, f"{blob.name}{suffix}"), ticket)

        there = tuple(place.url for place in places.get(blob.sha256, ()))
        torrent = url(".torrent") if blob.info_hash else ""
        return OfferedFile(blob.name, blob.role, blob.size, blob.sha256, url(), torrent, url(".meta4"), there)

    def _url(self, parts: tuple[str, ...], ticket: str) -> str:
        return routes.file_url(self._services.url, parts, ticket)

    def _ticket(self, row: Version, caller: Caller) -> str:
        """The caller's own; a new one for an operator, whose token must not stand in a file that is handed on."""
        return caller.ticket or self._services.credentials.ticket(row.id, TICKET_SECONDS)

    def _places(self, blobs: Iterable[Blob]) -> dict[str, tuple[Place, ...]]:
        return self._services.catalog.places([blob.sha256 for blob in blobs])

    def _stored(self, blob: Blob) -> bytes:
        if not blob.info_hash:
            raise RookeryError(
                f"{blob.name} is not carried by the swarm: it has no torrent",
                kind=ErrorKind.NOT_FOUND,
                hint="its URL and its metalink do",
            )
        self._services.published.require_blob(blob.sha256, None)  # a packed one is given again
        try:
            return self._services.store.torrent(blob.sha256).read_bytes()
        except FileNotFoundError:
            raise RookeryError(f"the torrent of {blob.name} is gone", kind=ErrorKind.NOT_FOUND) from None

    def _pieces(self, blob: Blob) -> Pieces | None:
        if blob.info_hash:
            return piece_digests(self._stored(blob))
        return _read_pieces(self._services.store.path(blob.sha256)) if blob.size else None


@functools.lru_cache(maxsize=256)
def _read_pieces(path: Path) -> Pieces:
    """Digests of the pieces of a stored file, which never changes. Raises RookeryError `not-found`."""
    try:
        with path.open("rb") as file:
            digests = tuple(hashlib.sha256(part).hexdigest() for part in iter(lambda: file.read(PIECE), b""))
    except FileNotFoundError:
        raise RookeryError(f"no blob {path.name}", kind=ErrorKind.NOT_FOUND) from None
    return Pieces("sha-256", PIECE, digests)
