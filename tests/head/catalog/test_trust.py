# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Origin, Version

ONE, TWO = "ab" * 32, "cd" * 32


def test_keys_have_one_name_each(catalog: Catalog) -> None:
    first = catalog.trust(ONE, "physics")
    assert catalog.trust(ONE, "physics") == first
    for key, name in ((TWO, "physics"), (ONE, "chemistry")):
        with pytest.raises(RookeryError) as caught:
            catalog.trust(key, name)
        assert caught.value.kind is ErrorKind.CONFLICT
        assert "trust rm physics" in caught.value.record.hint
    catalog.trust(TWO, "chemistry")
    assert [(known.name, known.key) for known in catalog.trusted_keys()] == [("chemistry", TWO), ("physics", ONE)]
    catalog.distrust(ONE)
    catalog.distrust(ONE)
    assert [known.name for known in catalog.trusted_keys()] == ["chemistry"]


def test_an_origin_is_kept(catalog: Catalog, make_version: Callable[..., Version]) -> None:
    plain = make_version("base", "a")
    version = dataclasses.replace(plain, origin=Origin(ONE, "their-base", 5.0, 6.0, plain.manifest))
    catalog.add_version(version)
    assert catalog.version(version.id).origin == version.origin
