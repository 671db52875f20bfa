# SPDX-License-Identifier: Apache-2.0
"""Which versions go, and that nobody is left with one that went."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import images
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Credential, Node, Version
from rookery.wire.report import NodeState

Make = Callable[..., Version]
NOW = 1000.0


@pytest.fixture
def versions(catalog: Catalog, make_version: Make) -> list[Version]:
    """Six versions of one image, oldest first; only the last has a tag."""
    made = [make_version("base", f"content {number}", float(number)) for number in range(6)]
    for version in made:
        catalog.add_version(version)
    return made


def going(catalog: Catalog, keep: int = 0, held: dict[str, str] | None = None) -> list[str]:
    return [version.id for version in catalog.collect(keep, held or {}, NOW, dry_run=True).going]


def test_what_has_no_tag_goes(catalog: Catalog, versions: list[Version]) -> None:
    assert going(catalog) == [version.id for version in reversed(versions[:5])]
    done = catalog.collect(0, {}, NOW, dry_run=False)
    assert [version.id for version in done.going] == [version.id for version in reversed(versions[:5])]
    assert [(version.id, reason) for version, reason in done.staying] == [(versions[5].id, "tagged latest")]
    assert [version.id for version in catalog.image("base").versions] == [versions[5].id]
    assert going(catalog) == []


def test_what_is_needed_stays_and_says_why(catalog: Catalog, versions: list[Version]) -> None:
    ids = [version.id for version in versions]
    catalog.add_nodes(
        [
            Node("n1", image=f"base@{ids[0][:12]}"),
            Node("n2", image="base:latest", state=NodeState.READY, version=ids[1]),
            Node("n3", image="base:latest", state=NodeState.PROVISIONING, version=ids[1]),
            Node("n4", image="base:latest", state=NodeState.WAITING, version=ids[4]),
        ]
    )
    catalog.add_credential(Credential("d" * 64, "ticket", ids[2], NOW + 1))
    catalog.add_credential(Credential("e" * 64, "ticket", ids[4], NOW - 1))
    found = catalog.collect(0, {ids[3]: "a job reads it"}, NOW, dry_run=True)
    assert [version.id for version in found.going] == [ids[4]]
    assert {version.id: reason for version, reason in found.staying} == {
        ids[0]: "assigned to n1",
        ids[1]: "run by n[2-3]",
        ids[2]: "somebody holds a ticket for it",
        ids[3]: "a job reads it",
        ids[5]: "tagged latest",
    }


def test_keep_counts_the_newest_of_each_image(catalog: Catalog, versions: list[Version], make_version: Make) -> None:
    catalog.add_version(make_version("tools", "other", 1.0), tag=None)
    assert going(catalog, keep=1) == [version.id for version in reversed(versions[:5])]
    assert going(catalog, keep=3) == [version.id for version in reversed(versions[:3])]
    catalog.collect(0, {}, NOW, dry_run=False)
    assert [image.name for image in catalog.images()] == ["base"]


def test_a_version_that_is_gone_is_given_to_nobody(catalog: Catalog, versions: list[Version]) -> None:
    catalog.add_nodes([Node("n1")])
    catalog.collect(0, {}, NOW, dry_run=False)
    with pytest.raises(RookeryError, match="removed meanwhile") as caught:
        catalog.change_nodes(["n1"], lambda node: (node, ()), needs=versions[0].id)
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_who_takes_a_version_while_it_is_collected_has_it_or_is_told(
    catalog: Catalog, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is given a version in a transaction that has not ended yet: collecting waits for it, and sees it."""
    catalog.add_nodes([Node("n1")])
    wanted = versions[0].id
    inside, go_on = threading.Event(), threading.Event()
    hold = images.hold

    def slowly(*arguments: object) -> None:
        hold(*arguments)  # type: ignore[arg-type]
        inside.set()
        assert go_on.wait(20)

    monkeypatch.setattr(images, "hold", slowly)
    taking = threading.Thread(
        target=lambda: catalog.change_nodes(
            ["n1"],
            lambda node: (Node("n1", image=f"base@{wanted[:12]}", state=NodeState.BOOTING, version=wanted), ()),
            needs=wanted,
        )
    )
    taking.start()
    assert inside.wait(20)
    collected: list[str] = []
    collecting = threading.Thread(
        target=lambda: collected.extend(row.id for row in catalog.collect(0, {}, NOW, dry_run=False).going)
    )
    collecting.start()
    go_on.set()
    taking.join(20)
    collecting.join(20)
    assert catalog.node("n1").version == wanted
    assert wanted not in collected
    assert len(collected) == 4
