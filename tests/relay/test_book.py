# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.relay import book as books
from rookery.relay.book import Book, Growth, from_bitmap


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_a_bitmap_comes_back_as_it_was(have: list[bool]) -> None:
    book = Book(len(have))
    book.extend(piece for piece, there in enumerate(have) if there)
    bitmap = book.bitmap()
    assert len(bitmap) == (len(have) + 7) // 8
    # BEP 3: the highest bit of the first byte is piece 0, and the bits behind the last piece are 0.
    bits = [bool(byte >> shift & 1) for byte in bitmap for shift in range(7, -1, -1)]
    assert bits == have + [False] * (len(bits) - len(have))
    assert [bool(one) for one in from_bitmap(bitmap, len(have))] == have == book.have()
    assert book.missing() == [piece for piece, there in enumerate(have) if not there]


def test_what_a_bitmap_does_not_say_is_not_there() -> None:
    assert from_bitmap(b"", 3) == bytearray(3)
    assert from_bitmap(b"\xff", 12) == bytearray(b"\1" * 8 + bytes(4))
    assert from_bitmap(b"\xff\xff\xff", 9) == bytearray(b"\1" * 9)


def test_the_log_has_every_piece_once_in_the_order_in_which_it_came() -> None:
    book = Book(5)
    assert [book.add(piece) for piece in (3, 0, 3, 4)] == [True, True, False, True]
    assert [book.at(place) for place in range(len(book))] == [3, 0, 4]
    assert (book.has(3), book.has(1), book.complete) == (True, False, False)
    book.extend([0, 1, 2])
    assert [book.at(place) for place in range(len(book))] == [3, 0, 4, 1, 2]
    assert book.complete
    whole = Book(3, complete=True)
    assert whole.complete
    assert [whole.at(place) for place in range(3)] == [0, 1, 2]
    assert not whole.add(1)


def test_many_hands_put_each_piece_in_once() -> None:
    book = Book(2000)
    news: list[int] = []

    def put() -> None:
        news.extend(piece for piece in range(2000) if book.add(piece))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(news) == list(range(2000))
    assert sorted(book.at(place) for place in range(len(book))) == list(range(2000))


@pytest.mark.parametrize("event", ["add", "beat", "close", "grow"])
def test_who_waits_is_woken(event: str) -> None:
    book = Book(2)
    woken = threading.Event()

    def wait() -> None:
        book.wait(book.news, 30.0)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not woken.wait(0.1), "there was no news"
    getattr(book, event)(*{"add": [0], "grow": [Growth(0, b"", 1)]}.get(event, []))
    assert woken.wait(5)
    thread.join()
    # What happened before is news, too: nobody sleeps through it.
    began = time.monotonic()
    book.wait(0, 30.0)
    assert time.monotonic() - began < 5


def test_a_piece_grows_until_it_is_there() -> None:
    book = Book(3)
    book.grow(Growth(1, b"leaves"))
    book.grow(Growth(1, b"leaves", 5))
    book.grow(Growth(2, b"others", 1))
    assert book.growing() == (Growth(1, b"leaves", 5), Growth(2, b"others", 1))
    assert (len(book), book.has(1)) == (0, False)
    book.add(1)
    book.abandon(2)
    book.abandon(2)
    assert book.growing() == ()
    book.grow(Growth(1, b"leaves", 5))
    assert book.growing() == (), "it is there: nothing of it grows any more"


def test_a_wait_ends_by_itself() -> None:
    book = Book(2)
    book.add(0)
    began = time.monotonic()
    book.wait(book.news, 0.1)
    assert 0.09 < time.monotonic() - began < 5


def test_the_way_up_stands_as_long_as_beats_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(books.time, "monotonic", lambda: now[0])
    book = Book(1)
    assert book.since_beat() > 1e6
    book.beat()
    now[0] += 3
    assert (book.since_beat(), book.beats) == (3.0, 1)
    book.add(0)
    assert book.since_beat() == 0.0, "with everything there, it is the top itself"
