# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Node, Version
from rookery.wire.report import NodeState

Make = Callable[..., Version]


def _kind(call: Callable[..., object], *arguments: object) -> ErrorKind:
    with pytest.raises(RookeryError) as caught:
        call(*arguments)
    assert caught.value.record.message
    return caught.value.kind


def test_a_version_comes_back_as_it_went_in(catalog: Catalog, make_version: Make) -> None:
    version = make_version("base", "a", tags=("stable",))
    catalog.add_version(version)
    assert catalog.version(version.id) == dataclasses.replace(version, tags=("latest", "stable"))
    assert [image.name for image in catalog.images()] == ["base"]


def test_references(catalog: Catalog, make_version: Make) -> None:
    old, new, other = make_version("base", "a", 1.0), make_version("base", "b", 2.0), make_version("tools", "c", 3.0)
    catalog.add_version(old)
    catalog.tag("base", "stable", old.id[:8])
    catalog.add_version(new)
    catalog.add_version(other, tag=None)
    for reference, version in {
        "base": new,
        "base:latest": new,
        "base:stable": old,
        f"base@{old.id[:8]}": old,
        f"base@{old.id}": old,
        old.id: old,
        old.id[:8]: old,
        other.id[:20]: other,
    }.items():
        assert catalog.resolve(reference).id == version.id
    for reference in ("none", "base:none", "tools", f"tools@{old.id}", "f" * 64, "base:", ":", "", "a\x00", "\ud800"):
        if reference == "base:":
            assert catalog.resolve(reference).id == new.id
        else:
            assert _kind(catalog.resolve, reference) is ErrorKind.NOT_FOUND
    assert _kind(catalog.resolve, "base@xyz") is ErrorKind.NOT_FOUND
    assert _kind(catalog.version, old.id[:12]) is ErrorKind.NOT_FOUND
    assert [version.id for version in catalog.image("base").versions] == [new.id, old.id]
    assert [image.name for image in catalog.images()] == ["base", "tools"]


def test_an_ambiguous_prefix_lists_what_it_means(catalog: Catalog, make_version: Make) -> None:
    first, second = make_version("base", "a"), make_version("base", "b")
    # Two digests that begin alike are not to be had; two rows that say so are.
    alike = dataclasses.replace(second, id=first.id[:60] + ("0000" if first.id[60:] != "0000" else "1111"))
    catalog.add_version(first)
    catalog.add_version(alike)
    with pytest.raises(RookeryError) as caught:
        catalog.resolve(first.id[:12])
    assert caught.value.kind is ErrorKind.CONFLICT
    assert set(caught.value.record.details.split("\n")) == {first.id, alike.id}


def test_an_image_name_that_looks_like_an_id_is_a_name(catalog: Catalog, make_version: Make) -> None:
    version = make_version("deadbeef", "a")
    catalog.add_version(version)
    assert catalog.resolve("deadbeef").id == version.id


def test_the_same_content_again_only_moves_the_tag(catalog: Catalog, make_version: Make) -> None:
    version, newer = make_version("base", "a", 1.0), make_version("base", "b", 2.0)
    catalog.add_version(version)
    catalog.add_version(newer)
    catalog.add_version(dataclasses.replace(version, published_at=9.0))
    assert catalog.resolve("base").id == version.id
    assert [found.published_at for found in catalog.image("base").versions] == [2.0, 1.0]


def test_the_same_content_under_two_names(catalog: Catalog, make_version: Make) -> None:
    first, second = make_version("a", "same", 1.0), make_version("b", "same", 2.0)
    assert first.id == second.id
    catalog.add_version(first)
    catalog.add_version(second)
    assert catalog.resolve("b").manifest == second.manifest
    assert catalog.resolve(first.id[:8]).image == catalog.version(first.id).image == "a"
    catalog.remove_image("a")
    assert catalog.version(first.id).image == "b"


@pytest.mark.parametrize(("name", "tag"), [("../x", "t"), ("x", "a:b"), ("", "t"), ("x", "../t"), ("x" * 129, "t")])
def test_bad_names_are_refused(catalog: Catalog, make_version: Make, name: str, tag: str) -> None:
    version = dataclasses.replace(make_version("ok", "a"), image=name)
    assert _kind(catalog.add_version, version, tag) is ErrorKind.INVALID
    assert catalog.images() == ()


def test_tags(catalog: Catalog, make_version: Make) -> None:
    version = make_version("base", "a")
    catalog.add_version(version, tag=None)
    assert _kind(catalog.tag, "base", "x y", version.id) is ErrorKind.INVALID
    assert _kind(catalog.tag, "base", "stable", "f" * 64) is ErrorKind.NOT_FOUND
    assert _kind(catalog.tag, "base", "stable", "") is ErrorKind.NOT_FOUND
    assert _kind(catalog.tag, "other", "stable", version.id) is ErrorKind.NOT_FOUND
    assert catalog.version(version.id).tags == ()
    catalog.tag("base", "stable", version.id)
    catalog.tag("base", "stable", version.id)
    assert catalog.version(version.id).tags == ("stable",)


@pytest.mark.parametrize("state", [NodeState.BOOTING, NodeState.PROVISIONING, NodeState.READY, NodeState.FAILED])
def test_what_a_node_runs_stays(catalog: Catalog, make_version: Make, state: NodeState) -> None:
    version = make_version("base", "a")
    catalog.add_version(version)
    catalog.add_nodes([Node("n1", state=state, version=version.id)])
    assert _kind(catalog.remove_version, version.id) is ErrorKind.CONFLICT
    assert _kind(catalog.remove_image, "base") is ErrorKind.CONFLICT
    catalog.update_node("n1", state=NodeState.WAITING)
    assert [removed.id for removed in catalog.remove_version(version.id)] == [version.id]
    assert catalog.images() == ()


@pytest.mark.parametrize("reference", ["base:stable", "base", "id", "base@id"])
def test_what_a_node_is_assigned_stays(catalog: Catalog, make_version: Make, reference: str) -> None:
    version, newer = make_version("base", "a"), make_version("base", "b")
    catalog.add_version(version, "stable")
    catalog.tag("base", "latest", version.id)
    catalog.add_version(newer, "next")
    catalog.add_nodes([Node("n1", image=reference.replace("id", version.id[:12]))])
    with pytest.raises(RookeryError) as caught:
        catalog.remove_version(version.id)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "n1 assigned" in caught.value.record.message
    assert [removed.id for removed in catalog.remove_version(newer.id)] == [newer.id]
    catalog.update_node("n1", image=None)
    catalog.remove_image("base")
    assert _kind(catalog.image, "base") is ErrorKind.NOT_FOUND


def test_a_version_goes_under_one_name_or_all(catalog: Catalog, make_version: Make) -> None:
    first, second = make_version("a", "same"), make_version("b", "same")
    catalog.add_version(first)
    catalog.add_version(second)
    assert [removed.image for removed in catalog.remove_version(first.id, "a")] == ["a"]
    assert [image.name for image in catalog.images()] == ["b"]
    catalog.add_version(first)
    assert {removed.image for removed in catalog.remove_version(first.id)} == {"a", "b"}
    assert catalog.images() == ()


def test_what_stays_under_another_name_may_go(catalog: Catalog, make_version: Make) -> None:
    first, second = make_version("a", "same"), make_version("b", "same")
    catalog.add_version(first)
    catalog.add_version(second)
    catalog.add_nodes([Node("n1", state=NodeState.READY, version=first.id, image="b:latest")])
    catalog.remove_image("a")
    assert _kind(catalog.remove_image, "b") is ErrorKind.CONFLICT
    assert _kind(catalog.remove_image, "a") is ErrorKind.NOT_FOUND


def test_a_tag_is_taken_away_unless_nodes_are_assigned_to_it(catalog: Catalog, make_version: Make) -> None:
    old = make_version("base", "a", 1.0)
    catalog.add_version(old)
    catalog.tag("base", "stable", old.id)
    catalog.add_nodes([Node("n1", image="base:stable")])
    with pytest.raises(RookeryError, match=r"tag base:stable is needed: n1 assigned to it") as caught:
        catalog.remove_tag("base", "stable")
    assert caught.value.kind is ErrorKind.CONFLICT
    assert catalog.remove_tag("base", "latest").tags == ("stable",)
    assert catalog.resolve("base:stable").tags == ("stable",)
    assert _kind(catalog.resolve, "base") is ErrorKind.NOT_FOUND
    assert _kind(catalog.remove_tag, "base", "latest") is ErrorKind.NOT_FOUND
    catalog.tag("base", "latest", old.id)
    assert catalog.resolve("base").id == old.id
