# SPDX-License-Identifier: Apache-2.0
"""What a recipe builds upon: the root of a published image, and nothing else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.http.bases import bases
from rookery.head.progress import silent

if TYPE_CHECKING:
    from conftest import RunningHead


def test_a_published_image_gives_its_root(head: RunningHead) -> None:
    version = head.publish_image("base", "stable")
    part = bases(head.services)("base:stable")
    assert part.version == version.id
    assert (part.packages, part.architecture) == ({"bash": "5.2"}, "x86_64")
    assert part.path.stat().st_size == 200_000


def test_what_is_no_image_is_refused(head: RunningHead, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"x")
    head.services.publisher.path(tmp_path / "data.bin", "data", "latest", silent, threading.Event())
    with pytest.raises(RookeryError, match="not an image but a file") as caught:
        bases(head.services)("data")
    assert caught.value.kind is ErrorKind.INVALID
    with pytest.raises(RookeryError) as caught:
        bases(head.services)("nothing")
    assert caught.value.kind is ErrorKind.NOT_FOUND
