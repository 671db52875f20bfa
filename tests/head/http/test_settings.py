# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from rookery.api.types import Change
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import Node
from rookery.head.http.settings import changed, differences, fields_changed, shown


def known(reference: str) -> str:
    if reference.startswith("base"):
        return reference if ":" in reference else f"{reference}:latest"
    raise RookeryError("no such image", kind=ErrorKind.NOT_FOUND)


def test_own_keys_and_attributes() -> None:
    node = Node("n01", macs=("52:54:00:00:00:01",), attributes={"rack": "a1", "groups": "x"})
    settings = {
        "mac": "5254.0000.0002,52-54-00-00-00-03",
        "image": "base",
        "address": "10.0.0.7",
        "may_seed": "no",
        "kernel_arguments": "  quiet   nosmt ",
        "rack": "",
        "row": "7",
    }
    after = changed(node, settings, known)
    assert after.macs == ("52:54:00:00:00:02", "52:54:00:00:00:03")
    assert (after.image, after.address, after.may_seed) == ("base:latest", "10.0.0.7", False)
    assert after.kernel_arguments == "quiet nosmt"
    assert after.attributes == {"groups": "x", "row": "7"}
    assert set(fields_changed(node, after)) == {
        "macs",
        "image",
        "address",
        "may_seed",
        "kernel_arguments",
        "attributes",
    }


def test_an_empty_value_takes_away() -> None:
    node = Node("n01", macs=("52:54:00:00:00:01",), image="base:latest", address="10.0.0.7")
    after = changed(node, {"mac": "", "image": "", "address": "", "mode": ""}, known)
    assert (after.macs, after.image, after.address, after.mode) == ((), None, None, "ram")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"Rack": "1"}, "'Rack'"),
        ({"mac": "zz"}, "mac:"),
        ({"mac": "01:00:5e:00:00:01"}, "multicast"),
        ({"may_seed": "maybe"}, "may_seed"),
        ({"mode": "magic"}, "mode"),
        ({"kernel_arguments": "a;b"}, "';'"),
        ({"rack": "x" * 5000}, "rack"),
        ({"image": "nothing"}, "no such image"),
    ],
)
def test_wrong_settings_name_the_key(settings: dict[str, str], named: str) -> None:
    with pytest.raises(RookeryError, match=named):
        changed(Node("n01"), settings, known)


def test_alike_changes_are_folded() -> None:
    before = [Node(f"n{number:02}", image="old:latest" if number == 3 else None) for number in range(1, 5)]
    pairs = [(node, changed(node, {"image": "base"}, known)) for node in before]
    found = differences(pairs, applied=False)
    assert found.nodes == "n[01-04]"
    assert set(found.changes) == {
        Change("n[01-02,04]", "image", "", "base:latest"),
        Change("n03", "image", "old:latest", "base:latest"),
    }
    assert not found.applied


def test_shown_settings_give_the_node_again() -> None:
    node = Node(
        "n01",
        macs=("52:54:00:00:00:01",),
        address="10.0.0.1",
        image="base:latest",
        attributes={"rack": "a"},
        may_seed=False,
    )
    assert changed(Node("x"), shown(node), known) == node
