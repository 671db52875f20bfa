# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from rookery.errors import RookeryError
from rookery.node.inside import inside


def test_links_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "etc/resolv.conf").symlink_to("/run/resolve/stub.conf")
    (tmp_path / "etc/shadow").symlink_to("../../../../../etc/passwd")
    assert inside(tmp_path, "/lib/x") == tmp_path / "usr/lib/x"
    assert inside(tmp_path, "/etc/resolv.conf") == tmp_path / "run/resolve/stub.conf"
    assert inside(tmp_path, "/etc/shadow") == tmp_path / "etc/passwd"
    assert inside(tmp_path, "/../../etc/./hosts") == tmp_path / "etc/hosts"


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(RookeryError, match="circle"):
        inside(tmp_path, "/a/x")
