# SPDX-License-Identifier: Apache-2.0
"""Versions that nobody uses are packed when another one is published, and come back when somebody asks for them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from rookery import codec
from rookery.api.types import NewTicket
from rookery.api.versions import Collect
from rookery.head.catalog.rows import Version
from rookery.head.http.idle import pack_idle
from rookery.head.http.views import manifest
from rookery.head.progress import Progress, silent
from rookery.head.publish.verify import verify
from rookery.node.fetch.fetch import fetch
from rookery.wire import routes
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import FetchOffer

if TYPE_CHECKING:
    from conftest import RunningHead

SIZE = 3_000_000


class Shelf:
    """Two versions of a file, most of whose bytes are the same."""

    def __init__(self, head: RunningHead, directory: Path) -> None:
        self.head, self.source = head, directory / "data.img"
        self.old = os.urandom(SIZE)
        self.first = self.publish(self.old)
        self.second = self.publish(self.old[: SIZE // 2] + b"put in" + self.old[SIZE // 2 :])

    def publish(self, content: bytes) -> Version:
        self.source.write_bytes(content)
        services = self.head.services
        version = services.publisher.path(self.source, "data", "latest", silent, threading.Event())
        services.published.added(version)
        return version

    def blob(self, version: Version) -> Blob:
        return manifest(version).blob(Role.DATA)

    def is_packed(self, version: Version) -> bool:
        return self.head.services.store.is_packed(self.blob(version).sha256)

    def pack(self) -> int:
        return pack_idle(self.head.services, silent, threading.Event())


@pytest.fixture
def shelf(head: RunningHead, tmp_path: Path) -> Shelf:
    return Shelf(head, tmp_path)


def test_what_nobody_uses_is_packed_and_what_is_tagged_is_not(shelf: Shelf) -> None:
    assert shelf.pack() > SIZE * 0.9
    assert (shelf.is_packed(shelf.first), shelf.is_packed(shelf.second)) == (True, False)
    assert shelf.pack() == 0


def test_what_somebody_has_a_ticket_for_stays(shelf: Shelf) -> None:
    shelf.head.operator.ticket(NewTicket(f"data@{shelf.first.id}"))
    assert shelf.pack() == 0
    assert not shelf.is_packed(shelf.first)


def test_a_packed_version_comes_back_when_it_is_fetched(shelf: Shelf, tmp_path: Path) -> None:
    shelf.pack()
    head, blob = shelf.head, shelf.blob(shelf.first)
    where = urlsplit(head.operator.ticket(NewTicket(f"data@{shelf.first.id}")).url)
    source = codec.loads(FetchOffer, head.get(f"{where.path}?{where.query}").content).source
    torrent = head.get(f"{routes.TORRENT}/{blob.sha256}", source.credential).content
    stats = fetch(blob, torrent, source, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == shelf.old
    assert stats.bytes_from_head_swarm == SIZE
    assert not shelf.is_packed(shelf.first)


def test_bytes_of_a_packed_blob_are_to_be_had_by_http(shelf: Shelf) -> None:
    blob = shelf.blob(shelf.first)
    shelf.pack()
    assert shelf.head.operator.collect(Collect(dry_run=True)).going[0].id == shelf.first.id
    assert shelf.is_packed(shelf.first), "looking does not bring it back"
    credential = shelf.head.token
    assert shelf.head.get(f"{routes.BLOB}/{blob.sha256}", credential).content == shelf.old


def test_verifying_leaves_it_packed_and_finds_damage(shelf: Shelf) -> None:
    shelf.pack()
    services = shelf.head.services

    def problems() -> tuple[object, ...]:
        return verify(shelf.first, services.store, services.key.public, silent, threading.Event())

    assert problems() == ()
    assert shelf.is_packed(shelf.first)
    path = services.store.path(shelf.blob(shelf.second).sha256)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    assert "is damaged" in str(problems())


def test_a_head_that_starts_again_leaves_packed_versions_packed(shelf: Shelf) -> None:
    shelf.pack()
    shelf.head.services.published.give_all()
    assert shelf.is_packed(shelf.first)
    assert [event for event in shelf.head.services.catalog.events() if event.kind == "trouble"] == []


def test_packing_is_told_and_can_be_cut_short(shelf: Shelf) -> None:
    told: list[Progress] = []
    cancel = threading.Event()
    cancel.set()
    assert pack_idle(shelf.head.services, told.append, cancel) == 0
    pack_idle(shelf.head.services, told.append, threading.Event())
    assert [progress.line for progress in told] == [f"data@{shelf.first.id[:12]}"]
