# SPDX-License-Identifier: Apache-2.0
"""Places that an operator names and that cannot be written or read: that is told, and it is no fault of rookery."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rookery import run

# The first start packs the agent, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A file system on which nothing can be written."""
    where = tmp_path / "sealed"
    where.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "ro", "rookery-test", where])
    try:
        yield where
    finally:
        run.run(["umount", "-l", where])


def require_told(done: Any, code: int, message: str) -> None:
    assert done.code == code, done
    lines = done.err.splitlines()
    assert message in lines[0], done
    assert lines[0].startswith("error: cannot ") or "there is no" in lines[0] or "is a directory" in lines[0], done
    assert "a fault of rookery" not in done.err
    assert lines[-1].startswith("try: "), done


def test_what_is_fetched_and_exported(operate: Any, running: Any, tmp_path: Path, sealed: Path) -> None:
    file = tmp_path / "file"
    file.write_text("placed\n")
    url = json.loads(operate("publish", str(file), "--as", "placed", "--json").out)["url"]
    read_only = "Read-only file system"
    require_told(operate("fetch", url, "--to", str(sealed)), 5, f"cannot write {sealed}: {read_only}")
    require_told(operate("fetch", url, "--to", str(sealed / "in")), 5, read_only)
    require_told(operate("fetch", url, "--to", str(file / "in")), 2, "Not a directory")
    to = tmp_path / "to"
    for stats, code, message in (
        (tmp_path / "none" / "stats", 3, f"there is no directory {tmp_path / 'none'}"),
        (sealed / "stats", 5, read_only),
        (tmp_path, 2, f"{tmp_path} is a directory"),
    ):
        require_told(operate("fetch", url, "--to", str(to), "--stats", str(stats)), code, message)
        assert not to.exists()  # known before anything was fetched
    done = operate("image", "export", "placed", str(sealed / "x.capsule"))
    assert (done.code, f"cannot write in {sealed}: {read_only}" in done.err, "try: " in done.err) == (5, True, True)
    assert "Traceback" not in running.log.read_text()


def test_a_new_heads_directory(rookery: Any, tmp_path: Path, sealed: Path) -> None:
    (tmp_path / "file").touch()
    for directory, code in ((sealed / "head", 5), (tmp_path / "file" / "head", 2)):
        require_told(rookery("init", "--address", "127.0.0.1", "--dir", str(directory)), code, str(directory))


@pytest.mark.parametrize("command", [("serve",), ("dhcp", "snippet"), ("image", "list"), ("init",), ("fetch",)])
def test_another_users_directory(tmp_path: Path, command: tuple[str, ...]) -> None:
    head = tmp_path / "head"
    head.mkdir()
    (head / "rookery.toml").touch()
    (head / "operator.token").write_text("secret\n")
    head.chmod(0)
    if command == ("fetch",):
        where = ("http://127.0.0.1:9/fetch/x?ticket=x", "--to", str(tmp_path), "--stats", str(head / "stats"))
    else:
        where = ("--dir", str(head))
    # Root that file modes hold for, as for everybody else.
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    done = run.run([*bound, sys.executable, "-m", "rookery.cli", *command, *where], check=False)
    assert done.code == 5, done.stderr
    assert str(head) in done.stderr
    assert "a fault of rookery" not in done.stderr
    assert "try: run " in done.stderr
