# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from rookery.head import init as making
from rookery.head.config import DhcpMode, Paths, load

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_head(rookery: Any, tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "head"
    keys = tmp_path / "keys"
    keys.write_text(f'# mine\n\n  # his\n{KEY} me\nfrom="10.0.0.1" {KEY}\n')
    words = ("--interface", "rk-none", "--address", "10.0.0.1", "--dhcp", "full", "--dhcp-range", "10.0.0.9-10.0.0.20")
    done = rookery("init", "--dir", str(directory), *words, "--authorized-keys", str(keys))
    assert (done.code, "rk-none" in done.err) == (0, True)
    assert f"rookery serve --dir {directory}" in done.out
    paths = Paths(directory)
    config = load(directory)
    assert (config.dhcp.mode, config.dhcp.range) == (DhcpMode.FULL, "10.0.0.9-10.0.0.20")
    assert config.nodes.authorized_keys == (f"{KEY} me", f'from="10.0.0.1" {KEY}')
    for secret in (paths.config, paths.site_key, paths.operator_token, paths.database):
        assert mode(secret) == 0o600
    assert len(paths.site_public.read_text().strip()) == 64
    again = rookery("init", "--dir", str(directory))
    assert (again.code, "already" in again.err) == (4, True)


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519",
        "ssh-ed25519 AAAA me",
        KEY[:-1],
        KEY.replace("ssh-ed25519", "ssh-rsa"),
        KEY.split()[1],
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "me@example.org",
    ],
)
def test_what_is_no_public_key(rookery: Any, tmp_path: Path, line: str) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# mine\n{KEY} me\n{line}\n")
    done = rookery("init", "--dir", str(tmp_path / "head"), "--address", "127.0.0.1", "--authorized-keys", str(keys))
    assert (done.code, f"{keys}:3: " in done.err) == (2, True), done.err
    assert line not in done.err.replace("try: a line is as in id_ed25519.pub: ssh-ed25519 AAAAC3Nz... comment", "")
    assert not (tmp_path / "head").exists()


def test_without_anything_it_takes_this_hosts_usual_address(rookery: Any, tmp_path: Path) -> None:
    assert rookery("init", "--dir", str(tmp_path)).code == 0
    assert load(tmp_path).network.address
    text = (tmp_path / "rookery.toml").read_text()
    assert "# interface" in text


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--dhcp", "full"), 2, "--interface"),
        (("--dhcp", "full", "--interface", "eth0"), 2, "dhcp.range"),
        (("--dhcp", "proxy"), 2, "--interface"),
        (("--address", "10.0.0.300"), 2, "10.0.0.300"),
        (("--dhcp", "what"), 2, "what"),
        (("--interface", "eth0", "--dhcp", "full", "--dhcp-range", "10.0.0.9-10.0.0.2"), 2, "above the last"),
        (("--database", "oracle://x/y"), 2, "oracle"),
        (("--database", "sqlite:////proc/nowhere/x.sqlite"), 6, "database"),
    ],
)
def test_on_failure_nothing_stays(rookery: Any, tmp_path: Path, words: tuple[str, ...], code: int, named: str) -> None:
    done = rookery("init", "--dir", str(tmp_path / "deep" / "head"), *words)
    assert (done.code, named in done.err) == (code, True), done.err
    assert list(tmp_path.iterdir()) == []


def test_on_failure_what_was_there_stays(rookery: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "operator.token")

    monkeypatch.setattr(making.files, "write_atomic", full)
    done = rookery("init", "--dir", str(tmp_path))
    assert done.code == 9
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_every_key_of_the_configuration_is_shown(rookery: Any, tmp_path: Path) -> None:
    assert rookery("init", "--dir", str(tmp_path)).code == 0
    lines = (tmp_path / "rookery.toml").read_text().splitlines()
    config = load(tmp_path)
    for table, values in vars(config).items():
        start = lines.index(f"[{table}]")
        for key in vars(values):
            assert any(line.lstrip("# ").startswith(f"{key} = ") for line in lines[start:]), f"{table}.{key}"


def test_dhcp_snippet(rookery: Any, tmp_path: Path) -> None:
    rookery("init", "--dir", str(tmp_path), "--address", "10.0.0.1")
    for server in ("dnsmasq", "isc", "kea", "table"):
        assert "10.0.0.1" in rookery("dhcp", "snippet", "--server", server, "--dir", str(tmp_path)).out
    assert rookery("dhcp", "snippet", "--server", "what", "--dir", str(tmp_path)).code == 2


def test_doctor(rookery: Any, tmp_path: Path) -> None:
    before = rookery("doctor", "--dir", str(tmp_path))
    assert "rookery init" in before.out
    rookery("init", "--dir", str(tmp_path), "--address", "127.0.0.1")
    (tmp_path / "operator.token").chmod(0o644)
    sick = rookery("doctor", "--dir", str(tmp_path))
    assert sick.code == 1
    assert "chmod 600" in sick.out
    (tmp_path / "rookery.toml").write_text("[network]\nport = 'x'\n")
    assert "rookery.toml" in rookery("doctor", "--dir", str(tmp_path), "--json").out


def test_two_services_cannot_have_one_port(rookery: Any, tmp_path: Path) -> None:
    refused = rookery("init", "--dir", str(tmp_path / "head"), "--address", "127.0.0.1", "--relay-port", "8471")
    assert refused.code == 2
    assert "network.swarm_port and network.relay_port are both 8471" in refused.err
    assert not (tmp_path / "head").exists()
