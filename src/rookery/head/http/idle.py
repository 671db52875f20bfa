# SPDX-License-Identifier: Apache-2.0
"""Which versions nobody uses just now, and what becomes of their blobs: they are packed (publish/packs.py)."""

from __future__ import annotations

import threading
import time

from rookery.errors import RookeryError
from rookery.head.http import views
from rookery.head.http.services import Services
from rookery.head.progress import OnProgress, Progress
from rookery.log import logger

log = logger(__name__)

STAGE = "packing versions that nobody uses"


def in_swarm(services: Services) -> dict[str, str]:
    """The versions that somebody fetches or gives now, by id, and how many do."""
    now = time.monotonic()
    found = {}
    for image in services.catalog.images():
        for row in image.versions:
            hashes = [blob.info_hash for blob in views.manifest(row).blobs if blob.info_hash]
            if count := sum(services.tracker.present(info_hash, now) for info_hash in hashes):
                found[row.id] = f"in the swarm, {count} member{'' if count == 1 else 's'}"
    return found


def pack_idle(services: Services, on_progress: OnProgress, cancel: threading.Event) -> int:
    """Pack the versions that have no tag, no node, no ticket, no job and nobody in their swarm; the bytes that this
    freed.

    What cannot be packed stays as it is: this goes with a publication, which must not fail for it.
    """
    freed = 0
    with services.holds.settled() as held:
        needed = {**in_swarm(services), **held}
        idle = services.catalog.collect(0, needed, time.time(), dry_run=True).going
        for done, version in enumerate(idle):
            if cancel.is_set():
                break
            on_progress(Progress(STAGE, done, len(idle), line=f"{version.image}@{version.id[:12]}"))
            try:
                freed += services.published.pack(version, idle)
            except (RookeryError, OSError) as error:
                log.warning("version %s is not packed: %s", version.id[:12], error)
    if freed:
        log.info("packing versions that nobody uses freed %d MB", freed // 1_000_000)
    return freed
