# SPDX-License-Identifier: Apache-2.0
"""The deeds that can be done without a machine of one's own; all of them are done in test_boot.py."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rookery import codec
from rookery.errors import ErrorKind, RookeryError
from rookery.node import deeds, places
from rookery.node.action import Action, Kind
from rookery.node.cmdline import CommandLine
from rookery.node.console import Console
from rookery.node.deeds import Traveller
from rookery.node.fetch.stats import FetchStats
from rookery.node.network import Network
from rookery.node.plan import Known
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.wire.manifest import Blob, Manifest, Role, VersionKind, version_id
from rookery.wire.orders import Orders
from rookery.wire.report import Report, Step

CASE = json.loads((Path(__file__).parents[1] / "plans/ram/everything-ordered.json").read_text())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "newroot"
    path.mkdir()
    monkeypatch.setattr(places, "NEW_ROOT", path)
    monkeypatch.setattr(places, "UNITS", tmp_path / "units")
    monkeypatch.setattr(places, "SETTLED", tmp_path / "settled")
    return path


@pytest.fixture
def traveller(tmp_path: Path) -> Iterator[Traveller]:
    numbers = itertools.count(1)
    reporter = Reporter(Report("ab" * 16, 0, Step.MODULES), lambda: next(numbers), lambda _record: None)
    line = CommandLine(orders=str(tmp_path / "orders.json"))
    try:
        yield Traveller("ab" * 16, Known(line), Network(tmp_path), Console([]), reporter, Head(""))
    finally:
        reporter.close()


def test_every_kind_of_action_has_a_deed() -> None:
    assert set(deeds._DEEDS) == set(Kind)


def test_files_are_written_into_the_new_root_only(root: Path, traveller: Traveller, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "etc").symlink_to("/outside")  # the image's own /outside, not this machine's
    deeds.do(traveller, Action(Step.SETTLE, Kind.WRITE, "/etc/secret", "because", "s\n", 0o600))
    assert (root / "outside/secret").read_text() == "s\n"
    assert (root / "outside/secret").stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "outside").iterdir())

    deeds.do(traveller, Action(Step.SETTLE, Kind.WRITE, "/root/.ssh/authorized_keys", "because", "k\n", 0o600))
    assert (root / "root/.ssh").stat().st_mode & 0o777 == 0o700


def test_links_and_units_can_be_made_twice(root: Path, traveller: Traveller) -> None:
    link = Action(Step.SETTLE, Kind.LINK, "/etc/systemd/system/a.wants/x.service", "because", "/lib/x.service")
    unit = Action(Step.SWITCH, Kind.WRITE_UNIT, "x.service", "because", "[Service]\n")
    for action in (link, unit, link, unit):
        deeds.do(traveller, action)
    assert (root / "etc/systemd/system/a.wants/x.service").readlink() == Path("/lib/x.service")
    assert (places.UNITS / "default.target.wants/x.service").read_text() == "[Service]\n"


def test_orders_from_a_file(traveller: Traveller, tmp_path: Path) -> None:
    action = Action(Step.ORDERS, Kind.TAKE_ORDERS, str(tmp_path / "orders.json"), "because")
    with pytest.raises(RookeryError, match="no orders in") as caught:
        deeds.do(traveller, action)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    (tmp_path / "orders.json").write_text(json.dumps(CASE["orders"]))
    assert "n01 runs base:stable, mode ram" in deeds.do(traveller, action)
    assert traveller.known.orders == codec.decode(Orders, CASE["orders"])
    assert traveller.head == Head("http://10.0.0.1:8470", "c")


def test_a_manifest_of_nobody_is_not_known(traveller: Traveller, tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_text(json.dumps(CASE["orders"]))
    (tmp_path / "site.pub").write_text("ab" * 32 + "\n")
    deeds.do(traveller, Action(Step.ORDERS, Kind.TAKE_ORDERS, "", "because"))
    with pytest.raises(RookeryError, match="another site's key"):
        deeds.do(traveller, Action(Step.ORDERS, Kind.CHECK_MANIFEST, str(tmp_path / "site.pub"), "because"))
    assert traveller.known.manifest is None


@pytest.mark.parametrize("there", [None, b"too short"])
def test_an_image_that_was_not_read_back_is_never_mounted(
    traveller: Traveller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes | None
) -> None:
    """Only the fetcher gives a file this name, and only after its digest; here something else happened to it."""
    monkeypatch.setattr(places, "BLOBS", tmp_path)
    digest = "ab" * 32
    blobs = tuple(Blob(role, role, 1000, digest) for role in (Role.ROOT, Role.KERNEL, Role.DRIVERS))
    manifest = Manifest(version_id(VersionKind.IMAGE, blobs), VersionKind.IMAGE, "base", 0, blobs)
    traveller.known = dataclasses.replace(traveller.known, manifest=manifest)
    verify = Action(Step.VERIFY, Kind.VERIFY, digest, "because")
    if there is not None:
        (tmp_path / digest).write_bytes(there)
        traveller.fetched = FetchStats()
    with pytest.raises(RookeryError) as caught:
        deeds.do(traveller, verify)
    assert caught.value.kind is ErrorKind.CORRUPT
