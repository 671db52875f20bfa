# SPDX-License-Identifier: Apache-2.0
"""Nobody's root: what goes, what stays, what is never followed, and times."""

import os
import re
from pathlib import Path

import pytest

from rookery.head.build import identity
from rookery.head.build.recipe import IdentityRules

GOES = (
    "etc/hostname",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/shadow-",
    "etc/munge/munge.key",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/dhcp/dhclient.leases",
    "var/log/apt/term.log",
    "var/log/dpkg.log",
    "var/cache/ldconfig/aux-cache",
    "usr/lib/python3/__pycache__/os.cpython-311.pyc",
    "tmp/.X0-lock",
    "run/lock/x",
    "root/.bash_history",
)
STAYS = (
    "etc/ssh/sshd_config",
    "etc/shadow",
    "etc/hosts",
    "var/lib/dpkg/status",
    "usr/lib/python3/os.py",
    "root/.bashrc",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in (*GOES, *STAYS, "etc/machine-id"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0123456789abcdef")
    return root


def test_identity_goes_and_the_rest_stays(tree: Path) -> None:
    identity.neutralise(tree)
    assert [name for name in GOES if os.path.lexists(tree / name)] == []
    assert [name for name in STAYS if not (tree / name).is_file()] == []
    assert (tree / "etc/machine-id").read_bytes() == b""
    assert (tree / "var/log/apt").is_dir()
    assert (tree / "tmp").is_dir()


def test_links_are_removed_but_never_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("hostname", "ssh_host_key", "x.log"):
        outside.mkdir(exist_ok=True)
        (outside / name).write_text("mine")
    (tree / "etc/hostname").unlink()
    (tree / "etc/hostname").symlink_to(outside / "hostname")
    (tree / "var/log/elsewhere").symlink_to(outside)
    (tree / "etc/iscsi").symlink_to(outside)
    identity.remove(tree, ["etc/iscsi/hostname", "etc/*/x.log"])
    identity.neutralise(tree)
    assert sorted(path.name for path in outside.iterdir()) == ["hostname", "ssh_host_key", "x.log"]
    assert not os.path.lexists(tree / "etc/hostname")
    assert not os.path.lexists(tree / "var/log/elsewhere")


def test_a_link_to_a_running_resolver_stays(tree: Path) -> None:
    (tree / "etc/resolv.conf").unlink()
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    identity.neutralise(tree)
    assert (tree / "etc/resolv.conf").is_symlink()


def test_a_recipe_keeps_and_removes_what_it_wants(tree: Path) -> None:
    (tree / "root/.cache").mkdir()
    for name in ("wanted", "other"):
        (tree / "root/.cache" / name).write_text("x")
    rules = IdentityRules(
        keep=("/etc/ssh/ssh_host_*", "/var/log/apt", "/root/.cache/wanted", "/etc/machine-id"), remove=("/etc/hosts",)
    )
    identity.neutralise(tree, rules)
    kept = ("etc/ssh/ssh_host_ed25519_key", "var/log/apt/term.log", "root/.cache/wanted")
    assert [name for name in kept if not (tree / name).is_file()] == []
    assert (tree / "etc/machine-id").read_bytes() == b"0123456789abcdef"
    gone = ("etc/hosts", "var/log/dpkg.log", "root/.cache/other", "etc/hostname")
    assert [name for name in gone if os.path.lexists(tree / name)] == []


def test_times_depend_on_the_packages_only(tree: Path) -> None:
    started = 2_000_000_000.0
    for path in tree.rglob("*"):
        os.utime(path, (started + 5, started + 5))  # made by the build
    os.utime(tree / "usr/lib/python3/os.py", (1_500_000_000, 1_500_000_000))
    os.utime(tree / "root/.bashrc", (1_600_000_000, 1_600_000_000))  # the newest that came in a package
    (tree / "usr/link").symlink_to("lib")
    assert identity.settle_times(tree, started) == 1_600_000_000
    assert (tree / "usr/lib/python3/os.py").stat().st_mtime == 1_500_000_000
    assert (tree / "etc/shadow").stat().st_mtime == 1_600_000_000
    assert (tree / "usr/link").lstat().st_mtime == 1_600_000_000
    assert (tree / "usr/lib/python3").stat().st_mtime == 1_600_000_000
    for stamp in ("etc/.updated", "var/.updated"):
        assert (tree / stamp).stat().st_mtime == (tree / "usr").stat().st_mtime


def test_the_reference_lists_what_is_removed() -> None:
    text = (Path(__file__).parents[3] / "docs/reference/identity.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("| `/")]
    listed = re.findall(r"`/([^`]+)`", "\n".join(line.split("|")[1] for line in tables))
    assert sorted(listed) == sorted(identity.REMOVED)
