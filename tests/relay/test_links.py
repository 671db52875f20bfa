# SPDX-License-Identifier: Apache-2.0
"""Givers and takers over loopback: real sockets, real files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.relay import frames, giver, measure, taker
from rookery.relay.book import Book
from rookery.relay.frames import HEADER, Greeting, Kind
from rookery.relay.giver import Allowance, Giver, Shelf
from rookery.relay.taker import GarbageError, Taker, join, split

LOOPBACK = "127.0.0.1"
PIECE = 16384
SHA, KEY = "ab" * 32, "cd" * 32


def wait_until(true: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


class Content:
    """Random bytes in pieces, the last one short."""

    def __init__(self, pieces: int) -> None:
        self.data = os.urandom((pieces - 1) * PIECE + 1000)
        self.pieces = pieces
        self.digests = [hashlib.sha256(self.piece(number)).digest() for number in range(pieces)]

    def piece(self, number: int) -> bytes:
        return self.data[number * PIECE : (number + 1) * PIECE]

    def length(self, number: int) -> int:
        return min(PIECE, len(self.data) - number * PIECE)

    def shelf(self, path: Path, book: Book | None = None) -> Shelf:
        if book is None:
            path.write_bytes(self.data)
            book = Book(self.pieces, complete=True)
        return Shelf(path, len(self.data), PIECE, book, KEY)


class Node:
    """A link of a chain: a file that grows, checked piece by piece, and the giver that passes it on."""

    def __init__(self, content: Content, path: Path) -> None:
        self.content, self.path = content, path
        self.book = Book(content.pieces)
        self.came: list[int] = []
        path.touch()
        os.truncate(path, len(content.data))
        self.giver = Giver(LOOPBACK, 0)
        self.giver.put(SHA, content.shelf(path, self.book))

    @property
    def endpoint(self) -> str:
        return join(LOOPBACK, self.giver.port)

    def on_piece(self, piece: int, data: memoryview) -> bool:
        self.came.append(piece)
        if hashlib.sha256(data).digest() != self.content.digests[piece]:
            return False
        self.write(piece, bytes(data))
        return True

    def write(self, piece: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(piece * PIECE)
            file.write(data)
        self.book.add(piece)

    def take(self, endpoint: str, *, key: str = KEY, stripe: int = 0, stripes: int = 1) -> Taker:
        return Taker(endpoint, Greeting(SHA, key, stripe, stripes), self.book, self.content.length, self.on_piece)

    @property
    def right(self) -> bool:
        return self.path.read_bytes() == self.content.data


class Room:
    """What a test opens, closed at its end."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory, self.stack, self.count = directory, stack, 0

    def node(self, content: Content) -> Node:
        self.count += 1
        node = Node(content, self.directory / f"node{self.count}")
        self.stack.callback(node.giver.close)
        return node

    def source(self, content: Content, rate: int = 0) -> Giver:
        found = Giver(LOOPBACK, 0, rate)
        self.stack.callback(found.close)
        found.put(SHA, content.shelf(self.directory / "source"))
        return found

    def take(self, node: Node, endpoint: str, **words: object) -> Taker:
        link = node.take(endpoint, **words)  # type: ignore[arg-type]
        self.stack.callback(link.stop)
        return link

    def speaker(self, say: Callable[[socket.socket], None]) -> str:
        """A parent that reads the hello, says what a test wants, and waits until its child hangs up; its endpoint."""
        listener = self.stack.enter_context(socket.create_server((LOOPBACK, 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    frames.patience(connection, 20, 20)
                    frames.read_hello(connection)
                    say(connection)
                    while connection.recv(1):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.stack.callback(thread.join, 5)
        return join(LOOPBACK, listener.getsockname()[1])

    def call(self, port: int, greeting: Greeting, bitmap: bytes = b"") -> socket.socket:
        """A child by hand."""
        connection = self.stack.enter_context(socket.create_connection((LOOPBACK, port)))
        frames.patience(connection, 5.0, 5.0)
        connection.sendall(frames.hello(greeting, bitmap))
        return connection


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with contextlib.ExitStack() as stack:
        yield Room(tmp_path, stack)


@pytest.fixture
def content() -> Content:
    return Content(40)


def ended(link: Taker) -> RookeryError | None:
    wait_until(lambda: not link.running, "the link ended")
    return link.error


def heard(connection: socket.socket) -> list[tuple[int, int, bytes]]:
    """All frames until the parent has no more."""
    found: list[tuple[int, int, bytes]] = []
    while True:
        try:
            kind, piece, length = HEADER.unpack(frames.read_exactly(connection, HEADER.size))
        except ConnectionResetError:
            return found
        found.append((kind, piece, frames.read_exactly(connection, length)))


def test_everything_goes_over(room: Room, content: Content) -> None:
    source, node = room.source(content), room.node(content)
    link = room.take(node, join(LOOPBACK, source.port))
    assert ended(link) is None
    assert node.right
    assert node.book.complete
    assert (link.taken.pieces, link.taken.size) == (40, len(content.data))
    assert source.sent == len(content.data)
    wait_until(lambda: source.children == 0, "the child is not counted any more")


def test_much_may_be_on_the_way_to_a_taker(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    # A relay's acknowledgements are late: with the window that Linux begins with it would take a part of its link only.
    content = Content(300)
    node, held, arrived = room.node(content), threading.Event(), threading.Event()
    monkeypatch.setattr(node, "on_piece", lambda piece, data: held.wait(20))

    def say(connection: socket.socket) -> None:
        for number in range(content.pieces):
            data = content.piece(number)
            connection.sendall(HEADER.pack(Kind.PIECE, number, len(data)) + data)
        until = time.monotonic() + 10
        while frames.unsent(connection) > len(content.data) - frames.WINDOW // 2 and time.monotonic() < until:
            time.sleep(0.01)
        if time.monotonic() < until:
            arrived.set()

    room.take(node, room.speaker(say))
    assert arrived.wait(15)
    held.set()


def test_what_grows_is_passed_on_before_it_is_whole(room: Room, content: Content) -> None:
    first, second, third = (room.node(content) for _ in range(3))
    links = [room.take(second, first.endpoint), room.take(third, second.endpoint)]
    order = list(range(39, -1, -1))
    for number, piece in enumerate(order):
        first.write(piece, content.piece(piece))
        if number in (0, 20):
            wait_until(lambda: len(third.book) == number + 1, "it came through while the rest was not there")  # noqa: B023
    assert [ended(link) for link in links] == [None, None]
    assert third.right
    assert third.came == order, "in the order in which it came"
    assert (first.giver.sent, second.giver.sent, third.giver.sent) == (len(content.data), len(content.data), 0)


@pytest.mark.parametrize(("sha256", "key"), [(SHA, "ce" + KEY[2:]), (SHA, ""), ("ef" * 32, KEY), (SHA, KEY.upper())])
def test_who_does_not_know_the_key_gets_nothing(room: Room, content: Content, sha256: str, key: str) -> None:
    source, node = room.source(content), room.node(content)
    connection = room.call(source.port, Greeting(sha256, key))
    ((kind, _, reason),) = heard(connection)
    assert kind == Kind.BYE
    assert reason == b"this blob is not given here", "the same words for a wrong key and an unknown blob"
    link = Taker(join(LOOPBACK, source.port), Greeting(sha256, key), node.book, content.length, node.on_piece)
    error = ended(link)
    assert error is not None
    assert "not given here" in str(error)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert (source.sent, len(node.book)) == (0, 0)
    wait_until(lambda: not source._connections, "the connection is closed")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"RKR1\xff\xff\xff\xff", b"RKR1\0\0\0\2{}"])
def test_who_speaks_another_language_is_told_so(room: Room, content: Content, data: bytes) -> None:
    source = room.source(content)
    with socket.create_connection((LOOPBACK, source.port)) as connection:
        frames.patience(connection, 5.0, 5.0)
        connection.sendall(data)
        kind, _, length = HEADER.unpack(frames.read_exactly(connection, HEADER.size))
        assert kind == Kind.BYE
        assert frames.read_exactly(connection, length)
    node = room.node(content)
    assert ended(room.take(node, join(LOOPBACK, source.port))) is None, "others do not mind"


def test_garbage_ends_the_link_and_is_not_kept(room: Room, content: Content) -> None:
    wrong = bytearray(content.data)
    wrong[7 * PIECE + 5] ^= 1
    source, node = room.source(content), room.node(content)
    (room.directory / "source").write_bytes(wrong)
    link = room.take(node, join(LOOPBACK, source.port))
    error = ended(link)
    assert isinstance(error, GarbageError)
    assert error.kind is ErrorKind.CORRUPT
    assert "piece 7" in str(error)
    assert node.came == list(range(8)), "and nothing more was taken"
    assert not node.book.has(7)
    assert node.path.read_bytes()[7 * PIECE : 8 * PIECE] == bytes(PIECE)


@pytest.mark.parametrize(
    ("piece", "length"), [(40, PIECE), (1 << 31, 10), (0, PIECE - 1), (0, 0), (39, PIECE)], ids=str
)
def test_a_piece_that_there_is_not(room: Room, content: Content, piece: int, length: int) -> None:
    def say(connection: socket.socket) -> None:
        connection.sendall(HEADER.pack(Kind.PIECE, piece, length) + bytes(length))

    node = room.node(content)
    assert isinstance(ended(room.take(node, room.speaker(say))), GarbageError)
    assert (node.came, len(node.book)) == ([], 0)


@pytest.mark.parametrize("frame", [(9, 0, 0), (Kind.PIECE, 0, 1 << 30), (Kind.PAD, 0, 0xFFFFFFFF), (0, 0, 4)], ids=str)
def test_a_parent_that_speaks_another_language(room: Room, content: Content, frame: tuple[int, int, int]) -> None:
    node = room.node(content)
    error = ended(room.take(node, room.speaker(lambda connection: connection.sendall(HEADER.pack(*frame)))))
    assert error is not None
    assert error.kind is ErrorKind.INVALID


def test_a_child_that_hangs_up_leaves_nothing_behind(room: Room, content: Content) -> None:
    first, node = room.node(content), room.node(content)
    first.write(0, content.piece(0))
    before = set(threading.enumerate())
    link = room.take(node, first.endpoint)
    wait_until(lambda: len(node.book) == 1, "the link is there")
    assert first.giver.children == 1
    link.stop()
    assert not link.running
    wait_until(lambda: first.giver.children == 0, "the parent saw that it went")
    wait_until(lambda: not set(threading.enumerate()) - before, "no thread stays")
    assert not first.giver._connections
    # And it may come again.
    again = room.take(node, first.endpoint)
    for piece in range(1, 40):
        first.write(piece, content.piece(piece))
    assert ended(again) is None
    assert node.came == list(range(40)), "nothing came twice"


def test_a_parent_that_dies_is_noticed_at_once(room: Room, content: Content) -> None:
    first, node = room.node(content), room.node(content)
    first.write(3, content.piece(3))
    link = room.take(node, first.endpoint)
    wait_until(lambda: len(node.book) == 1, "the link is there")
    began = time.monotonic()
    first.giver.close()
    error = ended(link)
    assert time.monotonic() - began < 1.5
    assert error is not None
    assert error.kind is ErrorKind.UNAVAILABLE
    assert not isinstance(error, GarbageError)


def test_a_parent_that_is_not_there(room: Room, content: Content) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        endpoint = join(LOOPBACK, probe.getsockname()[1])
        error = ended(room.take(room.node(content), endpoint))
    assert error is not None
    assert endpoint in str(error)


def test_a_silent_parent_is_given_up(room: Room, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taker, "SILENT", 0.4)
    node = room.node(content)
    began = time.monotonic()
    error = ended(room.take(node, room.speaker(lambda _connection: None)))
    assert 0.3 < time.monotonic() - began < 3
    assert error is not None

    def half(connection: socket.socket) -> None:
        connection.sendall(HEADER.pack(Kind.PIECE, 0, PIECE) + bytes(100))

    assert ended(room.take(node, room.speaker(half))) is not None, "nor in the middle of a piece"
    assert len(node.book) == 0


def test_a_parent_that_has_nothing_to_give_is_not_silent(
    room: Room, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taker, "SILENT", 1.0)
    monkeypatch.setattr(giver, "BEAT", 0.1)
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    first, node = room.node(content), room.node(content)
    link = room.take(node, first.endpoint)
    time.sleep(2.0)
    assert link.running
    assert node.book.beats == 0, "its own way up does not stand, and it does not say that it does"
    first.book.beat()
    wait_until(lambda: node.book.beats > 0, "a beat is passed on")
    assert node.book.since_beat() < 1


def test_a_beat_goes_down_the_whole_chain_in_no_time(room: Room, content: Content) -> None:
    nodes = [room.node(content) for _ in range(6)]
    for above, below in itertools.pairwise(nodes):
        room.take(below, above.endpoint)
    wait_until(lambda: all(node.giver.children for node in nodes[:-1]), "the chain stands")
    time.sleep(measure.SECONDS + giver.BEAT)  # what measures the links is over
    began = time.monotonic()
    nodes[0].book.beat()
    wait_until(lambda: nodes[-1].book.beats, "it came down")
    assert time.monotonic() - began < giver.BEAT, "no link waits for its own clock"


def test_stripes_are_what_they_say_and_together_everything(room: Room, content: Content) -> None:
    source, node = room.source(content), room.node(content)
    endpoint = join(LOOPBACK, source.port)
    assert ended(room.take(node, endpoint, stripe=2, stripes=3)) is None
    assert node.came == list(range(2, 40, 3))
    assert [ended(room.take(node, endpoint, stripe=stripe, stripes=3)) for stripe in (0, 1)] == [None, None]
    assert sorted(node.came) == list(range(40))
    assert node.right
    assert source.sent == len(content.data)


def test_what_is_there_is_not_sent_again(room: Room, content: Content) -> None:
    source, node = room.source(content), room.node(content)
    there = [0, 5, 6, 7, 39]
    for piece in there:
        node.write(piece, content.piece(piece))
    assert ended(room.take(node, join(LOOPBACK, source.port))) is None
    assert node.right
    assert node.came == [piece for piece in range(40) if piece not in there]
    assert source.sent == len(content.data) - sum(content.length(piece) for piece in there)
    # Who has everything is let go at once, and gets nothing.
    assert ended(room.take(node, join(LOOPBACK, source.port))) is None
    assert len(node.came) == 35


def test_a_bitmap_that_is_too_short_or_too_long_does_no_harm(room: Room, content: Content) -> None:
    source = room.source(content)
    for bitmap, expected in ((b"", 40), (b"\xff", 32), (b"\xff" * 50, 0)):
        frames_heard = heard(room.call(source.port, Greeting(SHA, KEY), bitmap))
        assert [kind for kind, _, _ in frames_heard].count(Kind.PIECE) == expected


def test_the_cap_holds_for_all_children_together(room: Room) -> None:
    content = Content(64)  # about 1 MB
    rate = 2_000_000
    source = room.source(content, rate)
    nodes = [room.node(content) for _ in range(2)]
    began = time.monotonic()
    links = [room.take(node, join(LOOPBACK, source.port)) for node in nodes]
    assert [ended(link) for link in links] == [None, None]
    seconds, due = time.monotonic() - began, 2 * len(content.data) / rate
    assert 0.8 * due < seconds < 2 * due + 0.5
    assert all(node.right for node in nodes)


def test_a_cap_is_changed_while_it_gives(room: Room) -> None:
    content = Content(64)
    source, node = room.source(content, 100_000), room.node(content)
    link = room.take(node, join(LOOPBACK, source.port))
    wait_until(lambda: len(node.book) >= 2, "it came slowly")
    assert len(node.book) < 20
    source.allowance.rate = 0
    assert ended(link) is None
    assert node.right


def test_allowance_is_a_rate_and_other_means_count() -> None:
    allowance = Allowance(1_000_000)
    began = time.monotonic()
    for _ in range(10):
        allowance.take(30_000)
    assert 0.2 < time.monotonic() - began < 1.5
    waits = [allowance.spend(100_000) for _ in range(3)]
    assert waits[0] < waits[1] < waits[2]
    assert 0.19 < waits[2] - waits[0] < 0.21
    free = Allowance()
    began = time.monotonic()
    free.take(1 << 40)
    assert time.monotonic() - began < 0.5


def test_the_link_is_measured_although_the_parent_has_nothing_yet(room: Room, content: Content) -> None:
    first, node = room.node(content), room.node(content)
    link = room.take(node, first.endpoint)
    wait_until(lambda: link.taken.rate > 0, "measured by padding")
    assert node.came == []
    assert first.giver.sent == 0, "padding is no piece"


def test_what_is_taken_off_ends_for_its_children_and_for_them_only(room: Room, content: Content) -> None:
    other, kept = "ef" * 32, room.node(content)
    first, node = room.node(content), room.node(content)
    first.giver.put(other, Shelf(first.path, len(content.data), PIECE, Book(content.pieces), KEY))
    first.write(0, content.piece(0))
    link = room.take(node, first.endpoint)
    stays = Taker(first.endpoint, Greeting(other, KEY), kept.book, content.length, kept.on_piece)
    room.stack.callback(stays.stop)
    wait_until(lambda: first.giver.children == 2, "both are there")
    wait_until(lambda: len(node.book) == 1, "one piece came")
    first.giver.take_off(SHA)
    first.giver.take_off(SHA)
    assert ended(link) is not None
    assert stays.running
    assert first.giver.shelf(SHA) is None


def test_no_descriptor_stays_open(room: Room, content: Content) -> None:
    first = room.node(content)

    def open_files() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{fd}") == str(first.path) for fd in os.listdir("/proc/self/fd"))

    assert open_files() == 1
    first.giver.put(SHA, content.shelf(first.path, first.book))
    wait_until(lambda: open_files() == 1, "the former one is closed", 2)
    first.giver.take_off(SHA)
    wait_until(lambda: open_files() == 0, "nothing is open", 2)


def test_a_taken_port_is_passed_over(room: Room, content: Content) -> None:
    source = room.source(content)
    with pytest.raises(RookeryError, match=f"listen on {LOOPBACK}:{source.port}") as caught:
        Giver(LOOPBACK, source.port)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "network.relay_port" in caught.value.record.hint
    second = Giver(LOOPBACK, source.port, tries=100)
    room.stack.callback(second.close)
    assert source.port < second.port < source.port + 100


def test_the_last_port_is_taken(room: Room) -> None:
    with contextlib.suppress(OSError):  # perhaps another program has it: as good
        room.stack.enter_context(socket.create_server((LOOPBACK, 65535)))
    with pytest.raises(RookeryError):
        Giver(LOOPBACK, 65535, tries=100)


def test_a_file_that_is_cut_is_not_read_past_its_end(room: Room, content: Content) -> None:
    source, node = room.source(content), room.node(content)
    os.truncate(room.directory / "source", 3 * PIECE + 10)
    assert ended(room.take(node, join(LOOPBACK, source.port))) is not None
    assert node.came == [0, 1, 2]


def test_stopping_while_pieces_come_waits_for_the_one_at_hand(room: Room, content: Content) -> None:
    source, node = room.source(content), room.node(content)
    inside, go_on = threading.Event(), threading.Event()

    def slow(piece: int, data: memoryview) -> bool:
        inside.set()
        assert go_on.wait(10)
        return node.on_piece(piece, data)

    link = Taker(join(LOOPBACK, source.port), Greeting(SHA, KEY), node.book, content.length, slow)
    assert inside.wait(5)
    stopper = threading.Thread(target=link.stop)
    stopper.start()
    time.sleep(0.1)
    assert stopper.is_alive()
    go_on.set()
    stopper.join(5)
    assert not stopper.is_alive()
    count = len(node.came)
    time.sleep(0.1)
    assert len(node.came) == count, "after stop, nothing is written any more"


def test_endpoints() -> None:
    for address, port, text in (("10.0.0.1", 8473, "10.0.0.1:8473"), ("fd00::1", 1, "[fd00::1]:1")):
        assert join(address, port) == text
        assert split(text) == (address, port)
    for wrong in ("", "10.0.0.1", "host:1", "10.0.0.1:x", ":1", "x" * 100):
        with pytest.raises(RookeryError):
            split(wrong)


def test_headers_are_what_the_page_says() -> None:
    assert HEADER.pack(Kind.PIECE, 2, 3) == struct.pack(">III", 1, 2, 3)


@pytest.mark.parametrize("there", [1, 1000, PIECE - 1])
def test_a_piece_whose_end_comes_later_is_taken_at_once(room: Room, content: Content, there: int) -> None:
    """A low-water mark that counts from what was taken already would wait for bytes of the next piece."""
    come = threading.Event()

    def say(connection: socket.socket) -> None:
        connection.sendall(HEADER.pack(Kind.PIECE, 0, PIECE) + content.piece(0)[:there])
        time.sleep(0.3)  # the child has taken it
        connection.sendall(content.piece(0)[there:])
        come.set()

    node = room.node(content)
    room.take(node, room.speaker(say))
    assert come.wait(5)
    began = time.monotonic()
    wait_until(lambda: node.book.has(0), "it came")
    assert time.monotonic() - began < taker.SILENT / 2


def test_a_slow_parent_is_not_silent(room: Room, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taker, "SILENT", 0.5)

    def say(connection: socket.socket) -> None:
        connection.sendall(HEADER.pack(Kind.PIECE, 0, PIECE))
        for place in range(0, PIECE, PIECE // 8):
            time.sleep(0.2)
            connection.sendall(content.piece(0)[place : place + PIECE // 8])

    node = room.node(content)
    room.take(node, room.speaker(say))
    wait_until(lambda: node.book.has(0), "it came, in three times the patience")
