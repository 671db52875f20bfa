# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from pathlib import Path

from rookery.node import handover
from rookery.node.handover import Handover, Readiness
from rookery.wire.manifest import Blob, Role
from rookery.wire.orders import SeedPolicy, Source

WORD = Handover(
    boot_id="ab" * 16,
    node="n01",
    version="cd" * 32,
    head="http://10.0.0.1:8470",
    credential="secret",
    blob=Blob(Role.ROOT, "root.squashfs", 5, "ef" * 32),
    source=Source("http://10.0.0.1:8470", "secret"),
    seed=SeedPolicy(),
    switched=12.5,
    seconds={"fetch": 1.5},
)


def test_word_is_left_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    handover.leave(WORD, path)
    assert handover.take(path) == WORD
    assert path.stat().st_mode & 0o777 == 0o600


def test_readiness(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    assert handover.take_readiness(path) is None
    handover.leave_readiness(Readiness(3.5, "running"), path)
    assert handover.take_readiness(path) == Readiness(3.5, "running")


def test_sequence_grows_for_everybody(tmp_path: Path) -> None:
    path, numbers = tmp_path / "sequence", []

    def count() -> None:
        numbers.extend(handover.next_sequence(path) for _ in range(50))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 201))
