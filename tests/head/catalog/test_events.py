# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.events import KEPT_SECONDS, MOST_MESSAGE


def test_events_come_in_order(catalog: Catalog) -> None:
    before = time.time()
    first = catalog.add_event("node:n1", "ready", "ready after 3 s")
    second = catalog.add_event("head", "started", "x")
    assert before <= first.at <= second.at <= time.time()
    assert first.id < second.id
    assert catalog.events() == (first, second)
    assert catalog.events(after=first.id) == (second,)
    assert catalog.events(subject="node:n1") == (first,)
    assert catalog.events(limit=1) == (first,)
    assert catalog.events(subject="\x00") == ()


def test_what_a_machine_sent_is_made_harmless(catalog: Catalog) -> None:
    event = catalog.add_event("node:n1", "failed", "bad \x1b[31m\x00 \ud800 piece\nnext" + "x" * 10_000)
    assert event.message.startswith("bad  [31m    piece next")
    assert len(event.message) == MOST_MESSAGE
    assert catalog.events() == (event,)


def test_a_reader_that_goes_on_from_the_last_id_misses_nothing(catalog: Catalog) -> None:
    writers, each = 8, 25
    seen: list[int] = []
    finished = threading.Event()

    def read() -> None:
        after, last_round = 0, False
        while True:
            last_round = finished.is_set()
            for event in catalog.events(after):
                seen.append(event.id)
                after = event.id
            if last_round:
                return

    def write(number: int) -> list[int]:
        return [catalog.add_event(f"node:n{number}", "kind", "message").id for _ in range(each)]

    with ThreadPoolExecutor(writers + 1) as pool:
        reader = pool.submit(read)
        written = [number for numbers in pool.map(write, range(writers)) for number in numbers]
        finished.set()
        reader.result()
    assert seen == sorted(written)


def test_old_events_go_and_ids_are_not_used_again(catalog: Catalog) -> None:
    last = catalog.add_event("head", "kind", "old")
    catalog.purge(last.at + KEPT_SECONDS - 1)
    assert catalog.events() == (last,)
    catalog.purge(last.at + KEPT_SECONDS + 1)
    assert catalog.events() == ()
    assert catalog.add_event("head", "kind", "new").id > last.id
