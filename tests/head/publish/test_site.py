# SPDX-License-Identifier: Apache-2.0
"""The site's key: made once, kept to oneself, and what it signs is believed by a node."""

import dataclasses
import os
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.config import Paths
from rookery.head.publish.site import SiteKey, is_signed
from rookery.node.trust import open_manifest
from rookery.wire.manifest import Blob, Manifest, Role, VersionKind, version_id

BLOBS = (Blob(Role.DATA, "data", 3, "ab" * 32),)
MANIFEST = Manifest(version_id(VersionKind.FILE, BLOBS), VersionKind.FILE, "notes", 1_700_000_000, BLOBS)


def test_a_key_is_made_once_and_read_back(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    made = SiteKey.create(paths)
    assert paths.site_key.stat().st_mode & 0o777 == 0o600
    assert SiteKey.load(paths).public == made.public == paths.site_public.read_text().strip()
    before = paths.site_key.read_bytes()
    with pytest.raises(RookeryError) as caught:
        SiteKey.create(paths)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert paths.site_key.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.key", "site.pub"]


def test_a_node_believes_what_it_signs_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    key, other = SiteKey.create(Paths(tmp_path)), SiteKey.create(Paths(tmp_path / "other"))
    signed = key.sign(MANIFEST)
    assert open_manifest(signed, key.public) == MANIFEST
    assert is_signed(signed, key.public)
    assert not is_signed(signed, other.public)
    assert not is_signed(dataclasses.replace(signed, key=other.public), other.public)
    assert not is_signed(dataclasses.replace(signed, signature="00"), key.public)
    with pytest.raises(RookeryError):
        open_manifest(signed, other.public)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda paths: paths.site_key.unlink(), ErrorKind.NOT_FOUND),
        (lambda paths: paths.site_key.write_text("short"), ErrorKind.CORRUPT),
        (lambda paths: paths.site_key.write_text("00" * 32), ErrorKind.CORRUPT),
        (lambda paths: paths.site_public.unlink(), ErrorKind.CORRUPT),
        (lambda paths: os.chmod(paths.site_key, 0o640), ErrorKind.FORBIDDEN),
    ],
)
def test_a_key_that_cannot_be_trusted_is_not_loaded(tmp_path: Path, spoil, kind: ErrorKind) -> None:
    paths = Paths(tmp_path)
    SiteKey.create(paths)
    spoil(paths)
    with pytest.raises(RookeryError) as caught:
        SiteKey.load(paths)
    assert caught.value.kind is kind
    assert caught.value.record.hint
