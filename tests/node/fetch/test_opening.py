# SPDX-License-Identifier: Apache-2.0
"""A node and a blob's opening: real sockets, real files."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.node.fetch.metainfo import Metainfo
from rookery.node.fetch.opening import Opening
from rookery.node.fetch.partfile import Origin
from rookery.relay.giver import Giver
from rookery.relay.incoming import Incoming
from rookery.relay.taker import join
from rookery.wire import merkle, opening
from rookery.wire.engine import BLOCK
from rookery.wire.manifest import Blob, Role
from rookery.wire.relay import Feed, Place

LOOPBACK = "127.0.0.1"
KEY = "cd" * 32
PIECE, SIZE = 4 * BLOCK, 11 * BLOCK + 100
DATA = os.urandom(SIZE)
LAYER = b"".join(merkle.root(merkle.leaves(DATA[at : at + PIECE]), 4) for at in range(0, SIZE, PIECE))
ROOT = merkle.root(LAYER, 4, merkle.root(b"", 4)).hex()
CONTENT = opening.dump(DATA[:PIECE], LAYER, SIZE, PIECE)
BLOB = Blob(Role.DATA, "data", SIZE, "ab" * 32, "12" * 32, pieces_root=ROOT)


def wait_until(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


class Node:
    """One that takes the opening, and gives it."""

    def __init__(self, part: Path, blob: Blob = BLOB, head: str = "10.0.0.1") -> None:
        self.part, self.opening, self.giver = part, Opening(blob, part, head), Giver(LOOPBACK, 0)
        self.opening.expect(self.giver)
        self.opening.put(self.giver, KEY)

    @property
    def endpoint(self) -> str:
        return join(LOOPBACK, self.giver.port)

    def take(self, opener: str) -> None:
        self.opening.take(Place((Feed(0, 1, ("10.0.0.1:8473",)),), KEY, 1.0, opener))

    @property
    def gives(self) -> bool:
        return self.opening._given.content() == CONTENT


class Room:
    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory, self.stack, self.count = directory, stack, 0

    def node(self, blob: Blob = BLOB, head: str = "10.0.0.1") -> Node:
        self.count += 1
        node = Node(self.directory / f".node{self.count}.part", blob, head)
        self.stack.callback(node.giver.close)
        return node

    def source(self, content: bytes = CONTENT) -> str:
        giver = Giver(LOOPBACK, 0)
        self.stack.callback(giver.close)
        giver.put_metadata(ROOT, Incoming(content), KEY)
        return join(LOOPBACK, giver.port)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with contextlib.ExitStack() as stack:
        yield Room(tmp_path, stack)


def test_it_goes_from_node_to_node_and_into_their_files(room: Room) -> None:
    nodes = [room.node() for _ in range(4)]
    for node, above in zip(nodes[1:], nodes[:-1], strict=True):
        node.take(above.endpoint)
    nodes[0].take(room.source())
    wait_until(lambda: all(node.opening.at for node in nodes), "all had it")
    for node in nodes:
        assert node.part.read_bytes() == DATA[:BLOCK]
        assert node.gives
        assert node.opening.settle() == Origin(LOOPBACK, is_head=False)


def test_who_gave_it_may_be_the_head(room: Room) -> None:
    node = room.node(head=LOOPBACK)
    node.take(room.source())
    wait_until(lambda: node.opening.at, "it came")
    assert node.opening.settle() == Origin(LOOPBACK, is_head=True)


@pytest.mark.parametrize("at", [0, 40, len(CONTENT) - 1])
def test_a_wrong_one_is_neither_kept_nor_passed_on(room: Room, at: int) -> None:
    wrong = bytearray(CONTENT)
    wrong[at] ^= 1
    node, below = room.node(), room.node()
    below.take(node.endpoint)
    node.take(room.source(bytes(wrong)))
    wait_until(lambda: below.opening._given.closed, "who waits below is told that nothing comes")
    for one in (node, below):
        assert one.opening.settle() is None
        assert not one.part.exists()
        assert not one.gives


def test_an_opener_that_is_not_there_is_no_harm_and_is_told_on(room: Room) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        nobody = join(LOOPBACK, closed.getsockname()[1])
    node, below = room.node(), room.node()
    below.take(node.endpoint)
    node.take(nobody)
    wait_until(lambda: below.opening._given.closed, "both know that it does not come")
    assert node.opening.settle() is below.opening.settle() is None


def test_what_comes_when_others_write_is_given_but_not_written(room: Room) -> None:
    above, node = room.node(), room.node()
    node.take(above.endpoint)
    assert node.opening.settle() is None
    node.part.write_bytes(b"another's")
    above.take(room.source())
    wait_until(lambda: node.gives, "it came")
    time.sleep(0.05)
    assert node.part.read_bytes() == b"another's"
    assert node.opening.at is None


def test_closing_ends_the_wait_for_it(room: Room) -> None:
    above, node = room.node(), room.node()
    node.take(above.endpoint)
    wait_until(lambda: any(thread.name == "opening" for thread in threading.enumerate()), "it waits")
    node.opening.close()
    wait_until(lambda: not any(thread.name == "opening" for thread in threading.enumerate()), "it has stopped")
    assert node.opening.settle() is None


@pytest.mark.parametrize(
    ("blob", "opener"),
    [
        (Blob(Role.DATA, "data", SIZE, "ab" * 32, "12" * 32), "somebody"),
        (Blob(Role.DATA, "data", BLOCK, "ab" * 32, "12" * 32, pieces_root=ROOT), "somebody"),
        (BLOB, ""),
    ],
    ids=["published before", "one block", "nobody named"],
)
def test_nobody_is_asked_when_there_is_nothing_to_ask_for(room: Room, blob: Blob, opener: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        node = room.node(blob)
        node.take(opener and join(LOOPBACK, listener.getsockname()[1]))
        assert node.opening._given.closed, "who waits is told so"
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert node.opening.settle() is None


def test_a_disk_that_is_full_costs_nothing_but_the_block(room: Room) -> None:
    node = room.node()
    node.opening._part = Path("/dev/full")
    node.take(room.source())
    wait_until(lambda: node.gives, "it came")
    time.sleep(0.05)
    assert node.opening.settle() is None


def test_who_has_the_file_makes_it(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    metainfo = Metainfo(b"", SIZE, PIECE, LAYER)
    node, below = room.node(), room.node()
    node.opening.make(metainfo, path)
    below.take(node.endpoint)
    wait_until(lambda: below.opening.at, "it came")
    path.write_bytes(bytes(SIZE))
    for bad in (path, tmp_path / "nothing"):
        rotten = room.node()
        rotten.opening.make(metainfo, bad)
        assert not rotten.gives
        assert rotten.opening._given.closed, "nobody waits for it"
