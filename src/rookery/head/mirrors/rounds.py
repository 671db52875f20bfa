# SPDX-License-Identifier: Apache-2.0
"""Rounds over the mirrors: every published file is looked for on each, at registration, when asked, and now and then.

One wrong file makes the whole mirror `bad`: none of its URLs is handed out before a later check finds all of it right.
A file that is not there (yet) is no fault.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Mirror, MirrorFile, MirrorState
from rookery.head.mirrors import address
from rookery.head.mirrors.check import Wanted, client, look
from rookery.head.progress import OnProgress, Progress, silent
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.dressing import piece_digests
from rookery.log import logger
from rookery.wire import routes
from rookery.wire.manifest import Blob, parse_payload, require_name

log = logger(__name__)

LOOK_SECONDS = 30.0  # between two looks whether a mirror is due
STOP_SECONDS = 3.0  # that a check under way has to end with the head
AGAIN_SECONDS = 120.0  # at least so long after a check comes the one for a new version
MOST_LINES = 20
STAGE = "checking"


@dataclass(frozen=True)
class _Sought:
    wanted: Wanted
    urls: tuple[str, ...]  # where it may lie: a blob of several versions has several places


class Rounds:
    """Registers and checks mirrors. own: this head's base URL. Thread-safe and blocking."""

    def __init__(self, catalog: Catalog, store: BlobStore, own: str, clock: Callable[[], float] = time.time) -> None:
        self._catalog, self._store, self._own, self._clock = catalog, store, own, clock

    def add(
        self,
        mirror: Mirror,
        *,
        whole: bool = False,
        on_progress: OnProgress = silent,
        cancel: threading.Event | None = None,
    ) -> Mirror:
        """Check a mirror and register it. Only name, url, priority and location of `mirror` count.

        Raises RookeryError, and registers nothing: `invalid`, `conflict` when name or URL is taken, `unavailable` when
        it does not answer, `corrupt` when it has other bytes or answers as no client could use it, `not-found` when it
        has none of what is published.
        """
        url = self.required(mirror)
        found = self._look(url, whole, on_progress, cancel or threading.Event())
        if wrong := [file for file in found if file.state is MirrorState.BAD]:
            raise RookeryError(
                f"{mirror.name} is no mirror of this head: {_told(wrong)}",
                kind=ErrorKind.CORRUPT,
                details=_lines(wrong),
                hint="correct it, and add it then; nothing was registered",
            )
        if found and not any(file.state is MirrorState.GOOD for file in found):
            raise RookeryError(
                f"{mirror.name} has nothing of what is published",
                kind=ErrorKind.NOT_FOUND,
                details="\n".join(f"not there: {file.url}" for file in found[:3]),
                hint="copy the files there first, or say where they lie with {image}, {version}, {name} and {sha256}",
            )
        now = self._clock()
        good = dataclasses.replace(mirror, url=url, added_at=now, state=MirrorState.GOOD, reason="", checked_at=now)
        self._catalog.add_mirror(good, found)
        self._event(good, "added", f"mirror {good.name} at {url} was added: {_told(found)}")
        return good

    def required(self, mirror: Mirror) -> str:
        """The normal URL of a mirror that may be added. Raises `invalid`, `conflict`."""
        require_name(mirror.name, "mirror name")
        url = address.normal(mirror.url)
        own = address.normal(f"{self._own}{routes.FILES}")
        if url.startswith(own) or url == own.removesuffix(routes.FILES):
            raise RookeryError(f"{url} is this head itself", kind=ErrorKind.INVALID)
        for there in self._catalog.mirrors():
            if mirror.name == there.name or url == there.url:
                raise RookeryError(
                    f"mirror {there.name} is at {there.url} already",
                    kind=ErrorKind.CONFLICT,
                    hint=f"'rookery mirror rm {there.name}' removes it",
                )
        return url

    def check(
        self,
        name: str,
        *,
        whole: bool = False,
        on_progress: OnProgress = silent,
        cancel: threading.Event | None = None,
    ) -> Mirror:
        """Check a registered mirror and remember what was found; the mirror as it is then.

        Raises RookeryError `not-found`, `cancelled`, or `corrupt` for a damaged copy of the head's own.
        """
        before, _ = self._catalog.mirror(name)
        kept: tuple[MirrorFile, ...] = ()
        try:
            kept = self._look(before.url, whole, on_progress, cancel or threading.Event())
            wrong = [file for file in kept if file.state is MirrorState.BAD]
            state = MirrorState.BAD if wrong else MirrorState.GOOD
            reason = _told(wrong) if wrong else ""
        except RookeryError as error:
            if error.kind is not ErrorKind.UNAVAILABLE:
                raise
            state, reason = MirrorState.UNREACHABLE, error.record.message
        after = dataclasses.replace(before, state=state, reason=reason, checked_at=self._clock())
        self._catalog.judge_mirror(after, kept)
        if (before.state, before.reason) != (after.state, after.reason):
            says = "is good again" if state is MirrorState.GOOD else f"is {state} and not handed out: {reason}"
            self._event(after, state, f"mirror {name} {says}")
        return after

    def remove(self, name: str) -> Mirror:
        """Forget a mirror. Raises `not-found`."""
        gone = self._catalog.remove_mirror(name)
        self._event(gone, "removed", f"mirror {name} at {gone.url} was removed")
        return gone

    def due(self, seconds: float) -> tuple[str, ...]:
        """Names of the mirrors whose last check is so long ago, or older than something that was published."""
        now = self._clock()
        # Versions tell the whole second in which they were published.
        newest = max((row.published_at for image in self._catalog.images() for row in image.versions), default=0.0)

        def is_due(mirror: Mirror) -> bool:
            at = mirror.checked_at
            return at is None or now - at >= seconds or (newest + 1 > at and now - at >= AGAIN_SECONDS)

        return tuple(mirror.name for mirror in self._catalog.mirrors() if is_due(mirror))

    def _look(self, url: str, whole: bool, on_progress: OnProgress, cancel: threading.Event) -> tuple[MirrorFile, ...]:
        sought = self._sought(url)
        found: list[MirrorFile] = []
        with client() as http:
            for number, one in enumerate(sought):
                if cancel.is_set():
                    raise RookeryError("the check was cancelled", kind=ErrorKind.CANCELLED)
                on_progress(Progress(STAGE, number, len(sought), "steps", one.wanted.name))
                file = None
                for place in one.urls:
                    file = look(http, place, one.wanted, whole=whole, cancel=cancel)
                    if file.state is not MirrorState.MISSING:
                        break
                assert file is not None
                found.append(file)
        on_progress(Progress(STAGE, len(sought), len(sought), "steps"))
        return tuple(found)

    def _sought(self, url: str) -> tuple[_Sought, ...]:
        found: dict[str, _Sought] = {}
        for image in self._catalog.images():
            for row in image.versions:
                for blob in parse_payload(row.manifest.signed_bytes).blobs:
                    place = address.file_url(url, row.image, row.id, blob.name, blob.sha256)
                    known = found.get(blob.sha256)
                    if known is None:
                        found[blob.sha256] = _Sought(self._wanted(blob), (place,))
                    elif place not in known.urls:
                        found[blob.sha256] = dataclasses.replace(known, urls=(*known.urls, place))
        return tuple(found.values())

    def _wanted(self, blob: Blob) -> Wanted:
        # By the torrent where there is one: a blob that is packed must not be brought back for this.
        if not blob.info_hash:
            return Wanted(blob.name, blob.size, blob.sha256, path=self._store.path(blob.sha256))
        try:
            torrent = self._store.torrent(blob.sha256).read_bytes()
        except FileNotFoundError:
            raise RookeryError(f"the torrent of {blob.name} is gone", kind=ErrorKind.NOT_FOUND) from None
        return Wanted(blob.name, blob.size, blob.sha256, piece_digests(torrent))

    def _event(self, mirror: Mirror, kind: str, message: str) -> None:
        self._catalog.add_event(f"mirror:{mirror.name}", kind, message)


class Watcher:
    """A thread that checks mirrors when they are due, until `stop`. seconds: between two checks of one."""

    def __init__(self, rounds: Rounds, seconds: float, look_seconds: float = LOOK_SECONDS) -> None:
        self._rounds, self._seconds, self._look_seconds = rounds, seconds, look_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirrors", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a check under way is given up. A mirror that hangs is not waited for: the head ends."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._look_seconds):
            try:
                for name in self._rounds.due(self._seconds):
                    self._rounds.check(name, cancel=self._stopping)
            except RookeryError as error:
                if not self._stopping.is_set():
                    log.warning("checking mirrors: %s", error)
            except Exception:  # the next round may do better
                if not self._stopping.is_set():
                    log.exception("checking mirrors failed")


def _told(files: list[MirrorFile] | tuple[MirrorFile, ...]) -> str:
    """What was found, in one line."""
    if wrong := [file for file in files if file.state is MirrorState.BAD]:
        rest = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return f"{wrong[0].url}: {wrong[0].reason}{rest}"
    good = sum(file.state is MirrorState.GOOD for file in files)
    return f"{good} of {len(files)} files are there"


def _lines(files: list[MirrorFile]) -> str:
    return "\n".join(f"{file.url}: {file.reason}" for file in files[:MOST_LINES])
