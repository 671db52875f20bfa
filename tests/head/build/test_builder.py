# SPDX-License-Identifier: Apache-2.0
"""Builders as plug-ins: ours, another distribution's by an entry point, and those that are not there."""

import sys
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import builder
from rookery.head.build.deb import DebBuilder

PLUGIN = """\
class PenguinBuilder:
    def check(self, recipe): pass
    def build(self, recipe, site): pass
class NoBuilder: pass
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two entry points, installed as pip leaves it."""
    info = tmp_path / "penguin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: penguin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rookery.builders]\npenguin = penguin_builder:PenguinBuilder\nnothing = penguin_builder:NoBuilder\n"
    )
    (tmp_path / "penguin_builder.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "penguin_builder", raising=False)


def test_debian_is_ours() -> None:
    assert isinstance(builder.find("debian"), DebBuilder)


@pytest.mark.usefixtures("plugin")
def test_another_package_adds_a_distribution() -> None:
    assert type(builder.find("penguin")).__name__ == "PenguinBuilder"


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_is_no_builder_is_refused() -> None:
    with pytest.raises(RookeryError, match="is not a builder"):
        builder.find("nothing")


def test_an_unknown_distribution_lists_the_known() -> None:
    with pytest.raises(RookeryError) as caught:
        builder.find("debain")
    assert caught.value.kind is ErrorKind.INVALID
    assert "debian" in caught.value.record.details
    assert "'debian'" in caught.value.record.hint
