# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery.head.mirrors.check import Wanted
from tests.head.mirrors.liar import Liar, serving


@pytest.fixture
def liar() -> Iterator[Liar]:
    with serving() as running:
        yield running


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    """A file of 3 MB that nobody has guessed before."""
    content = hashlib.shake_256(b"mirror").digest(3_000_001)
    path = tmp_path / "blob"
    path.write_bytes(content)
    return Wanted("root.squashfs", len(content), hashlib.sha256(content).hexdigest(), path=path)
