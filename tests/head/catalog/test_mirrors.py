# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Mirror, MirrorFile, MirrorState, Place

A, B = "a" * 64, "b" * 64
NEAR = Mirror("near", "http://near/images", 1, "de", 5.0, MirrorState.GOOD, "", 6.0)
FAR = Mirror("far", "http://far/images", 20, "", 5.0, MirrorState.GOOD, "", 6.0)


def _kind(call: Callable[..., object], *arguments: object) -> ErrorKind:
    with pytest.raises(RookeryError) as caught:
        call(*arguments)
    assert caught.value.record.hint
    return caught.value.kind


def _has(mirror: Mirror, sha256: str, state: MirrorState = MirrorState.GOOD) -> MirrorFile:
    return MirrorFile(sha256, f"{mirror.url}/{sha256[0]}", state, "", True, 6.0)


def test_a_mirror_comes_back_as_it_went_in(catalog: Catalog) -> None:
    catalog.add_mirror(NEAR, [_has(NEAR, A), _has(NEAR, B, MirrorState.MISSING)])
    assert catalog.mirror("near") == (NEAR, (_has(NEAR, A), _has(NEAR, B, MirrorState.MISSING)))
    assert catalog.mirrors() == (NEAR,)
    assert catalog.remove_mirror("near") == NEAR
    assert catalog.mirrors() == ()
    assert catalog.places([A]) == {}


def test_two_mirrors_are_never_the_same_one(catalog: Catalog) -> None:
    catalog.add_mirror(NEAR)
    assert _kind(catalog.add_mirror, NEAR) is ErrorKind.CONFLICT
    assert _kind(catalog.add_mirror, dataclasses.replace(NEAR, name="other")) is ErrorKind.CONFLICT
    assert _kind(catalog.add_mirror, dataclasses.replace(NEAR, url="http://other")) is ErrorKind.CONFLICT
    assert catalog.mirrors() == (NEAR,)


def test_only_what_is_good_on_a_good_mirror_is_a_place(catalog: Catalog) -> None:
    catalog.add_mirror(FAR, [_has(FAR, A), _has(FAR, B)])
    catalog.add_mirror(NEAR, [_has(NEAR, A), _has(NEAR, B, MirrorState.MISSING)])
    assert [mirror.name for mirror in catalog.mirrors()] == ["near", "far"]
    near, far = Place("near", "http://near/images/a", 1, "de"), Place("far", "http://far/images/a", 20)
    assert catalog.places([A, B, "c" * 64]) == {A: (near, far), B: (Place("far", "http://far/images/b", 20),)}
    # One lie, and nothing of that mirror is handed out.
    bad = dataclasses.replace(FAR, state=MirrorState.BAD, reason="b has other bytes", checked_at=7.0)
    catalog.judge_mirror(bad, [_has(FAR, A), _has(FAR, B, MirrorState.BAD)])
    assert catalog.mirror("far")[0] == bad
    assert catalog.places([A, B]) == {A: (near,)}


def test_judging_a_mirror_that_is_gone_does_nothing(catalog: Catalog) -> None:
    catalog.judge_mirror(NEAR, [_has(NEAR, A)])
    assert catalog.mirrors() == ()
    assert _kind(catalog.mirror, "near") is ErrorKind.NOT_FOUND
    assert _kind(catalog.remove_mirror, "ne\0ar") is ErrorKind.NOT_FOUND
