# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.wire.facts import Facts, NetworkCard
from rookery.wire.manifest import ROLES, Blob, Manifest, SignedManifest, VersionKind, payload_of, version_id


class Clock:
    """Time that only moves when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def make_version() -> Callable[..., Version]:
    """make_version("base", "content"): a version whose blobs follow from the content."""

    def make(
        image: str, content: str, kind: VersionKind = VersionKind.IMAGE, architecture: str = "x86_64", at: float = 1.0
    ) -> Version:
        blobs = tuple(
            Blob(role, str(role), 1000, hashlib.sha256(f"{content} {role}".encode()).hexdigest())
            for role in sorted(ROLES[kind])
        )
        manifest = Manifest(version_id(kind, blobs), kind, image, 0, blobs, architecture)
        signed = SignedManifest(base64.b64encode(payload_of(manifest)).decode(), "0" * 64, "0" * 128)
        return Version(manifest.version, image, kind, at, 3000, signed)

    return make


@pytest.fixture
def facts() -> Facts:
    return Facts(
        architecture="x86_64",
        firmware="bios",
        cpus=2,
        cpu_model="QEMU",
        memory=2 << 30,
        kernel_release="6.1.0",
        agent_version="0.1.0",
        uuid="6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
        network_cards=(NetworkCard("eth0", "52:54:00:00:00:01"),),
    )
