# SPDX-License-Identifier: Apache-2.0
"""Looking at images; what is planned from it is in test_plan.py."""

from __future__ import annotations

from pathlib import Path

from rookery.node import settle
from rookery.node.settle import Image


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def link(root: Path, path: str, target: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


def test_an_empty_tree() -> None:
    assert settle.look(Path("/nonexistent")) == Image()


def test_debian(tmp_path: Path) -> None:
    link(tmp_path, "lib", "usr/lib")
    link(tmp_path, "sbin", "usr/sbin")
    put(tmp_path, "usr/lib/systemd/systemd", "usr/lib/systemd/system/systemd-networkd.service")
    put(tmp_path, "usr/sbin/sshd", "usr/bin/ssh-keygen")
    link(tmp_path, "usr/sbin/init", "/lib/systemd/systemd")
    assert settle.look(tmp_path) == Image("/sbin/init", systemd=True, networkd="present", ssh=True)

    put(tmp_path, "etc/ssh/ssh_host_rsa_key")
    link(tmp_path, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    link(
        tmp_path,
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/lib/systemd/system/systemd-networkd.service",
    )
    assert settle.look(tmp_path) == Image(
        "/sbin/init", systemd=True, networkd="enabled", ssh=True, host_key=True, resolv_link=True
    )


def test_network_manager_counts_when_it_is_enabled(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/systemd/systemd", "usr/lib/systemd/system/NetworkManager.service")
    assert not settle.look(tmp_path).network_manager
    unit = "etc/systemd/system/multi-user.target.wants/NetworkManager.service"
    link(tmp_path, unit, "/usr/lib/systemd/system/NetworkManager.service")
    found = settle.look(tmp_path)
    assert found.network_manager
    assert found.init == "/usr/lib/systemd/systemd"


def test_another_init(tmp_path: Path) -> None:
    put(tmp_path, "sbin/init", "sbin/ifup")
    assert settle.look(tmp_path) == Image("/sbin/init")
