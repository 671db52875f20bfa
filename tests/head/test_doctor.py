# SPDX-License-Identifier: Apache-2.0
import ctypes
import dataclasses
import ipaddress
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from rookery.head import doctor, listeners
from rookery.head.boot import loaders, probe
from rookery.head.boot.probe import Interface, Reply
from rookery.head.config import Config, Dhcp, DhcpMode, Network, Paths
from rookery.head.doctor import Finding, Level
from rookery.run import run, spawn

FULL = Config(Network("eth0", "10.0.0.1"), Dhcp(DhcpMode.FULL, "10.0.0.100-10.0.0.200"))
DEBIAN = 'PRETTY_NAME="Debian"\nID=debian\n'
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'


def interface(address: str | None = "10.0.0.1/24", up: bool = True, carrier: bool = True) -> Interface:
    return Interface("eth0", up, carrier, ipaddress.IPv4Interface(address) if address else None)


def head(directory: Path) -> Paths:
    paths = Paths(directory)
    for path in (paths.site_key, paths.operator_token):
        path.write_text("x")
        path.chmod(0o600)
    return paths


def only(found: list[Finding] | tuple[Finding, ...], name: str) -> Finding:
    (one,) = [finding for finding in found if finding.name == name]
    return one


def test_everything_wrong_has_a_remedy(tmp_path: Path) -> None:
    config = dataclasses.replace(FULL, network=Network("rknone0", "10.0.0.1"))
    found = doctor.examine(config, Paths(tmp_path / "absent"))
    assert only(found, "directory").level is Level.FAULT
    assert only(found, "interface rknone0").message == "does not exist"
    for finding in found:
        assert bool(finding.remedy) == (finding.level is not Level.OK), finding


def test_a_host_is_examined_before_it_is_a_head(tmp_path: Path) -> None:
    names = {finding.name for finding in doctor.examine(None, Paths(tmp_path))}
    assert {"program dnsmasq", "boot loaders", "clock"} <= names
    assert not {"directory", "disk space"} & names


@pytest.mark.parametrize(
    ("text", "family"),
    [(DEBIAN, "debian"), ('ID=ubuntu\nID_LIKE="debian"', "debian"), (ROCKY, "fedora"), ("ID=fedora", "fedora"),
     ("ID=arch", ""), ("", "")],
)  # fmt: skip
def test_families_of_distributions(text: str, family: str) -> None:
    assert doctor.family(text) == family


@pytest.mark.parametrize(
    ("family", "remedy"),
    [
        ("debian", "apt install squashfs-tools"),
        ("fedora", "dnf install squashfs-tools"),
        ("", "package squashfs-tools"),
    ],
)
def test_a_missing_program_names_the_package_of_the_distribution(family: str, remedy: str) -> None:
    found = doctor.program_findings(family, False, lambda _name: None)
    assert len(found) == len(doctor.PROGRAMS)
    assert remedy in only(found, "program mksquashfs").remedy


def test_dnsmasq_is_needed_only_by_a_head_that_uses_it() -> None:
    assert only(doctor.program_findings("", True, lambda _name: None), "program dnsmasq").level is Level.FAULT
    assert only(doctor.program_findings("", False, lambda _name: None), "program dnsmasq").level is Level.WARNING


def test_programs_that_are_there_are_named_with_their_place() -> None:
    finding = only(doctor.program_findings("debian", True, lambda name: Path("/bin") / name), "program dnsmasq")
    assert finding == Finding("program dnsmasq", Level.OK, "/bin/dnsmasq")


def test_boot_loaders(tmp_path: Path) -> None:
    finding = doctor.loader_finding(True, (tmp_path,))
    assert finding.level is Level.FAULT
    assert "undionly.kpxe, snponly.efi not found" in finding.message
    assert finding.remedy == loaders.HINT
    assert doctor.loader_finding(False, (tmp_path,)).level is Level.WARNING


def test_python_modules_are_loaded_for_real() -> None:
    assert [finding.level for finding in doctor.python_findings(["libtorrent", "nacl.signing"])] == [Level.OK]
    (finding,) = doctor.python_findings(["rookery_no_such_module"])
    assert finding.level is Level.FAULT
    assert "No module named 'rookery_no_such_module'" in finding.message


def test_a_clock_before_the_program_was_made_is_wrong() -> None:
    assert doctor.clock_finding(time.time()).level is Level.OK
    assert doctor.clock_finding(0).level is Level.FAULT


def test_kernel_limits(tmp_path: Path) -> None:
    limit = tmp_path / "gc_thresh3"
    limit.write_text("1024\n")
    small = doctor.kernel_findings(limit, open_files=1024)
    assert [finding.name for finding in small] == ["neighbour table", "open files"]
    limit.write_text("16384\n")
    assert [finding.level for finding in doctor.kernel_findings(limit, open_files=-1)] == [Level.OK]
    assert doctor.kernel_findings(tmp_path / "absent", open_files=1 << 20)[0].level is Level.OK


def test_secrets_that_others_may_read(tmp_path: Path) -> None:
    paths = head(tmp_path)
    assert [finding.level for finding in doctor.directory_findings(paths)] == [Level.OK]
    paths.site_key.chmod(0o640)
    paths.operator_token.unlink()
    found = doctor.directory_findings(paths)
    assert "mode 0640" in only(found, "site key").message
    assert "is missing" in only(found, "operator token").message
    paths.config.write_text("")
    paths.config.chmod(0o604)
    found = doctor.directory_findings(paths)
    assert only(found, "configuration").level is Level.WARNING
    assert "mode 0604" in only(found, "configuration").message
    assert f"chmod 600 {paths.config}" in only(found, "configuration").remedy
    paths.config.chmod(0o600)
    assert "configuration" not in [finding.name for finding in doctor.directory_findings(paths)]
    tmp_path.chmod(0o777)
    assert only(doctor.directory_findings(paths), "directory").remedy.startswith("chmod o-w")


@pytest.mark.parametrize(("free", "level"), [(10**8, "fault"), (5 * 10**9, "warning"), (10**11, "ok")])
def test_disk_space(tmp_path: Path, free: int, level: str) -> None:
    assert doctor.space_finding(tmp_path, free).level == level
    assert "GB free" in doctor.space_finding(tmp_path / "not" / "there").message


@pytest.mark.parametrize(
    ("here", "level", "message"),
    [
        (None, Level.FAULT, "does not exist"),
        (interface(None), Level.FAULT, "has no IPv4 address"),
        (interface(up=False), Level.FAULT, "is down"),
        (interface(carrier=False), Level.WARNING, "has no link"),
        (interface("10.9.0.1/24"), Level.FAULT, "has 10.9.0.1/24, and network.address is 10.0.0.1"),
        (interface("10.0.0.1/25"), Level.FAULT, "is not within 10.0.0.0/25"),
        (interface("10.0.0.150/24"), Level.FAULT, "contains the head's own address"),
        (interface(), Level.OK, "up, 10.0.0.1/24"),
    ],
)
def test_the_interface_against_the_configuration(here: Interface | None, level: Level, message: str) -> None:
    found = doctor.interface_findings(FULL, here)
    assert any(finding.level is level and message in finding.message for finding in found), found


def reply(server: str, address: str = "", file: str = "") -> Reply:
    return Reply(probe.OFFER, server, address, "", file)


@pytest.mark.parametrize(
    ("mode", "replies", "level", "message"),
    [
        ("full", (), "ok", "the only one"),
        ("full", (reply("10.0.0.9", "10.0.0.50"),), "fault", "10.0.0.9 gives addresses"),
        ("full", (reply("10.0.0.9", file="x"),), "ok", "the only one"),
        ("proxy", (), "warning", "none gives addresses"),
        ("proxy", (reply("10.0.0.9", "10.0.0.50"),), "ok", "10.0.0.9 gives addresses"),
        ("proxy", (reply("10.0.0.9", "10.0.0.50", "pxelinux.0"),), "warning", "tells machines what to boot"),
        ("off", (reply("10.0.0.9", "10.0.0.50"),), "warning", "nothing to boot"),
        ("off", (reply("10.0.0.9", "10.0.0.50", "snponly.efi"),), "ok", "gives addresses"),
    ],
)
def test_what_rivals_mean(mode: str, replies: tuple[Reply, ...], level: str, message: str) -> None:
    finding = doctor.judge_rivals(DhcpMode(mode), replies)
    assert finding.level == level
    assert message in finding.message


def test_a_port_in_use_is_named_with_its_user(tmp_path: Path) -> None:
    with socket.socket() as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        bound.bind(("127.0.0.1", 0))
        port, other = listener.getsockname()[1], bound.getsockname()[1]
        assert [user.pid for user in listeners.users("tcp", port)] == [os.getpid()]
        assert [user.pid for user in listeners.users("udp", other)] == [os.getpid()]
        found = doctor.port_findings(Config(Network(port=port)), Paths(tmp_path))
    finding = only(found, f"port {port}/tcp")
    assert finding.level is Level.FAULT
    assert f"(pid {os.getpid()})" in finding.message
    assert "set another port" in finding.remedy
    assert listeners.users("tcp", port) == ()


def test_socket_tables_are_read_by_port_and_state() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:2116 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0\n"
        "   1: 0100007F:2116 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0\n"
        "   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0\n"
    )
    assert listeners.inodes(table, 8470, listeners.LISTEN) == {"111"}
    assert listeners.inodes(table, 8471, listeners.LISTEN) == frozenset()


@pytest.fixture
def network(tmp_path: Path) -> Any:
    """A namespace that this thread is in, with `eth0` (10.0.0.1/24) towards another one with 10.0.0.9/24."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    libc, names = ctypes.CDLL(None), [f"rkdoc{os.getpid()}{end}" for end in "ab"]
    with open("/proc/thread-self/ns/net") as before:
        try:
            for name in names:
                run(["ip", "netns", "add", name])
            run(
                ["ip", "-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1]]
            )
            for name, address in zip(names, ("10.0.0.1/24", "10.0.0.9/24"), strict=True):
                run(["ip", "-n", name, "addr", "add", address, "dev", "eth0"])
                run(["ip", "-n", name, "link", "set", "eth0", "up"])
            with open(f"/run/netns/{names[0]}") as wanted:
                assert libc.setns(wanted.fileno(), 0) == 0
            yield names[1]
        finally:
            assert libc.setns(before.fileno(), 0) == 0
            for name in names:
                run(["ip", "netns", "del", name], check=False)


@pytest.mark.system
def test_a_rival_server_is_found_on_the_network(network: str, tmp_path: Path) -> None:
    here = probe.interface("eth0")
    assert here == interface()
    assert probe.interface("rknone0") is None
    assert doctor.rival_finding(FULL, here, 1).level is Level.OK
    rival = ["dnsmasq", "-k", "-C", "/dev/null", "-p", "0", "-i", "eth0", "-F", "10.0.0.50,10.0.0.60", "--leasefile-ro",
             "--no-ping", "--user=root", "--pid-file="]  # fmt: skip
    with spawn(["ip", "netns", "exec", network, *rival]):
        found = doctor.rival_finding(FULL, here, 1)
        for _ in range(20):  # until it listens
            found = found if found.level is Level.FAULT else doctor.rival_finding(FULL, here, 1)
    assert found.level is Level.FAULT
    assert "10.0.0.9 gives addresses" in found.message


@pytest.mark.system
def test_ports_of_another_namespace_do_not_count(network: str, tmp_path: Path) -> None:
    found = doctor.port_findings(FULL, head(tmp_path))
    tcp = {f"port {number}/tcp" for number in (8470, 8471, 8473)}
    assert {finding.name for finding in found} == tcp | {"port 67/udp", "port 69/udp"}
    assert {finding.level for finding in found} == {Level.OK}
    assert only(doctor.examine(FULL, head(tmp_path)), "other DHCP servers").level is Level.OK
