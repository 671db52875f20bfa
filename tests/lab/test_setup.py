# SPDX-License-Identifier: Apache-2.0
"""What `make demo` says on a machine where it cannot install what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rookery.run import Completed, run, which

TOP = Path(__file__).parents[2]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A path with nothing but what the script itself needs, and a user who is not root."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("dirname", "cat"):
        found = which(name)
        assert found
        (place / name).symlink_to(found)
    (place / "id").write_text("#!/bin/sh\necho 1000\n")
    (place / "id").chmod(0o755)
    return place


def setup(programs: Path) -> Completed:
    env = {"PATH": str(programs), "PYTHON": "python3", "VENV": str(programs.parent / "venv")}
    return run(["/bin/sh", str(TOP / "lab" / "setup.sh"), "demo"], check=False, env=env)


def test_another_distribution_is_told_what_to_install(programs: Path) -> None:
    done = setup(programs)
    assert done.code == 1
    assert "not Debian" in done.stderr
    for package in ("python3", "qemu-system-x86", "mmdebstrap", "squashfs-tools", "cpio", "zstd"):
        assert f" {package}" in done.stderr
    assert not (programs.parent / "venv").exists()


def test_a_user_who_is_not_root_is_told_the_command(programs: Path) -> None:
    called = programs.parent / "called"
    (programs / "apt-get").write_text(f"#!/bin/sh\necho called >{called}\n")
    (programs / "apt-get").chmod(0o755)
    done = setup(programs)
    assert done.code == 1
    assert "sudo apt-get install --no-install-recommends python3 " in done.stderr
    assert " qemu-system-x86" in done.stderr
    assert not called.exists()
    assert os.listdir(programs.parent) == ["bin"]
