# SPDX-License-Identifier: Apache-2.0
"""By command line: an image out of a tree, one on top of it, the same on another machine, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Place, Sshd

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def no_images(operate: Any) -> Any:
    yield
    for image in json.loads(operate("image", "list", "--json").out)["images"]:
        operate("image", "rm", image["name"], "-y")


def built(operate: Any, *words: str) -> dict[str, Any]:
    done = operate("image", "build", *words, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def test_from_a_tree_to_an_image_on_top_of_it(
    operate: Any, running: Place, sshd: Sshd, make_root: Callable[[Path], Path], tmp_path: Path
) -> None:
    make_root(tmp_path / "tree")
    (tmp_path / "tree.toml").write_text('archive = "tree"\ncommands = ["echo made >/etc/made"]\n')
    (tmp_path / "above.toml").write_text('from = "small:stable"\ncommands = ["echo above >/etc/above"]\n')
    small = built(operate, "small", str(tmp_path / "tree.toml"), "--tag", "stable")
    above = built(operate, "above", str(tmp_path / "above.toml"))
    assert above["id"] != small["id"]

    (running.directory / "known_hosts").write_text(sshd.known)
    shutil.copy(sshd.place / "user", running.directory / "id")
    there = ["--on", "root@127.0.0.1", "--ssh-option", f"Port={sshd.port}"]
    there += [word for option in sshd.options for word in ("--ssh-option", option)]
    assert built(operate, "small", str(tmp_path / "tree.toml"), *there)["id"] == small["id"]
    assert built(operate, "above", str(tmp_path / "above.toml"), *there)["id"] == above["id"]
    assert os.listdir(sshd.place / "there") == []
    assert os.listdir(running.directory / "work") == []


def test_what_leaves_the_tree_is_refused(operate: Any, running: Place, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../written"))
    (tmp_path / "evil.toml").write_text('archive = "evil.tar"\n')
    done = operate("image", "build", "evil", str(tmp_path / "evil.toml"))
    assert done.code == 2
    assert "is refused: its entry '../../written' has a name that leaves the tree" in done.err
    (tmp_path / "none.toml").write_text('from = "nobody"\n')
    assert operate("image", "build", "above", str(tmp_path / "none.toml")).code == 3
    done = operate("image", "build", "evil", str(tmp_path / "evil.toml"), "--on", "-oProxyCommand=x")
    assert (done.code, "is not a host" in done.err) == (2, True)
