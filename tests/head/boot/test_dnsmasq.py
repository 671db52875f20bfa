# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot import dnsmasq, loaders, probe
from rookery.head.boot.dnsmasq import Dnsmasq
from rookery.head.catalog.rows import Node
from rookery.head.config import Config, Dhcp, DhcpMode, Network, Paths
from rookery.run import PIPE, end, run, spawn, start

ADDRESS = "10.77.0.1"
START = f"http://{ADDRESS}:8470/boot/start.ipxe"
FULL = Config(Network("rkbr0", ADDRESS), Dhcp(DhcpMode.FULL, "10.77.0.100-10.77.0.150", lease=600))
PROXY = Config(Network("rkbr0", ADDRESS), Dhcp(DhcpMode.PROXY))
OFF = Config(Network("rkbr0", ADDRESS))
BOOT_CASES = [
    ("PXEClient:Arch:00000:UNDI:002001", 0, "undionly.kpxe"),
    ("PXEClient:Arch:00007:UNDI:003016", 7, "snponly.efi"),
    ("PXEClient:Arch:00009:UNDI:003016", 9, "snponly.efi"),
    ("PXEClient:Arch:00011:UNDI:003016", 11, "snponly-arm64.efi"),
    ("HTTPClient:Arch:00016:UNDI:003001", 16, f"http://{ADDRESS}:8470/boot/loader/snponly.efi"),
    ("HTTPClient:Arch:00019:UNDI:003001", 19, f"http://{ADDRESS}:8470/boot/loader/snponly-arm64.efi"),
]


def firmware(vendor: str, code: int, ipxe: bool = False) -> dict[int, bytes]:
    options = {60: vendor.encode(), 93: code.to_bytes(2, "big"), 94: b"\x01\x02\x01", 97: b"\0" + b"\x0f" * 16}
    options[55] = bytes([1, 3, 6, 43, 54, 60, 66, 67])
    return options | ({77: b"iPXE", 175: b"\xb1\x05\x01\x80\x86\x10\x0e"} if ipxe else {})


def eventually(true: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not in {seconds:g} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def paths(head_directory: Path) -> Paths:
    return Paths(head_directory)


@pytest.fixture
def served(room: Any, paths: Paths) -> Iterator[Callable[[Config], Dnsmasq]]:
    """Start dnsmasq in the head's namespace; it is stopped afterwards."""
    started = []

    def serve(config: Config, nodes: tuple[Node, ...] = ()) -> Dnsmasq:
        with room.inside(room.head):
            server = Dnsmasq(config, paths, ADDRESS)
            started.append(server)
            server.start(nodes)
        return server

    try:
        yield serve
    finally:
        for server in started:
            server.stop()


def lease(room: Any, tmp_path: Path, *words: str) -> dict[str, str]:
    """A real client's lease, as the variables that udhcpc gives its script."""
    script, out = tmp_path / "script", tmp_path / "lease"
    script.write_text(f'#!/bin/sh\n[ "$1" = bound ] && env > {out}\nexit 0\n')
    script.chmod(0o755)
    out.unlink(missing_ok=True)
    inside = ["ip", "netns", "exec", room.client]
    ask = ["busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "8", "-T", "1", "-R", "-s", script, *words]
    run([*inside, *ask], timeout=40)
    return dict(line.split("=", 1) for line in out.read_text().splitlines() if "=" in line)


def test_full_configuration(paths: Paths) -> None:
    config = dataclasses.replace(FULL, dhcp=dataclasses.replace(FULL.dhcp, router="10.77.0.9", dns="10.77.0.8"))
    text = dnsmasq.render(config, ADDRESS, paths, "nobody")
    lines = text.splitlines()
    assert {"port=0", "interface=rkbr0", "bind-interfaces", "user=nobody", f"tftp-root={paths.boot}/tftp"} <= set(lines)
    assert {"dhcp-range=10.77.0.100,10.77.0.150,600", "dhcp-option=option:router,10.77.0.9"} <= set(lines)
    assert "dhcp-option=option:dns-server,10.77.0.8" in lines
    assert f"dhcp-boot=tag:ipxe,{START},,{ADDRESS}" in lines
    assert "log-dhcp" not in lines


def test_no_router_and_no_dns_are_sent_unless_configured(paths: Paths) -> None:
    lines = dnsmasq.render(FULL, ADDRESS, paths).splitlines()
    assert {"dhcp-option=option:router", "dhcp-option=option:dns-server"} <= set(lines)


def test_proxy_configuration_gives_no_addresses(paths: Paths) -> None:
    lines = dnsmasq.render(PROXY, ADDRESS, paths).splitlines()
    assert [line for line in lines if line.startswith("dhcp-range")] == ["dhcp-range=10.77.0.1,proxy"]
    assert not any(line.startswith(("dhcp-hostsfile", "dhcp-authoritative")) for line in lines)


def test_off_configuration_is_tftp_only(paths: Paths) -> None:
    text = dnsmasq.render(OFF, ADDRESS, paths)
    assert "dhcp" not in text
    assert "enable-tftp" in text


def test_configuration_needs_an_interface_and_plain_paths(paths: Paths) -> None:
    with pytest.raises(RookeryError, match="DHCP and TFTP need the name of an interface"):
        dnsmasq.render(Config(dhcp=PROXY.dhcp), ADDRESS, paths)
    for name in ("eth0\nport=53", "eth0,eth1", "a b"):
        with pytest.raises(RookeryError, match=r"network\.interface is"):
            dnsmasq.render(dataclasses.replace(OFF, network=Network(name)), ADDRESS, paths)
    with pytest.raises(RookeryError, match="cannot stand in"):
        dnsmasq.render(OFF, ADDRESS, Paths(Path("/srv/a b")))


def test_nothing_is_started_without_an_interface(paths: Paths) -> None:
    server = Dnsmasq(Config(), paths, "")
    server.start()
    server.reload(())
    assert not server.running
    assert server.error is None
    assert not paths.dnsmasq.exists()
    server.stop()


def test_hosts_file() -> None:
    nodes = (
        Node("n01", ("52:54:00:00:00:01", "52:54:00:00:00:02"), address="10.77.0.11"),
        Node("n02", ("52:54:00:00:00:03",)),
        Node("n03", ("52:54:00:00:00:04",), address="10.77.0.11"),
        Node("n04.example.org", ("52:54:00:00:00:05",), address="10.77.0.14"),
        Node("n_05", ("52:54:00:00:00:06",)),
        Node("n06", ()),
    )
    assert dnsmasq.hosts_file(nodes).splitlines() == [
        "52:54:00:00:00:01,52:54:00:00:00:02,10.77.0.11,n01",
        "52:54:00:00:00:03,n02",
        "52:54:00:00:00:04,n03",
        "52:54:00:00:00:05,10.77.0.14,n04",
    ]


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("dnsmasq: failed to bind DHCP server socket: Address already in use", ErrorKind.CONFLICT, "port 67 (DHCP)"),
        ("dnsmasq: failed to bind listening socket for 10.0.0.1 port 69: Address already in use", ErrorKind.CONFLICT,
         "port 69 (TFTP)"),
        ("dnsmasq: unknown interface eth9", ErrorKind.NOT_FOUND, "no network interface eth9"),
        ("dnsmasq: process is missing required capability NET_ADMIN", ErrorKind.FORBIDDEN, "not allowed"),
        ("dnsmasq: bad option at line 3 of dnsmasq.conf", ErrorKind.FAILED, "dnsmasq ended"),
    ],
)  # fmt: skip
def test_what_dnsmasq_says_becomes_an_error_with_a_hint(line: str, kind: ErrorKind, message: str) -> None:
    error = dnsmasq.explain(["dnsmasq: started", line], "eth9")
    assert error.kind is kind
    assert message in error.record.message
    assert line in error.record.details
    assert error.record.hint


@pytest.mark.parametrize("config", [FULL, PROXY, OFF], ids=["full", "proxy", "off"])
def test_dnsmasq_itself_accepts_the_configuration(config: Config, paths: Paths, tmp_path: Path) -> None:
    loaders.tftp_root(paths).mkdir(parents=True)
    paths.dnsmasq.mkdir()
    dnsmasq.hosts_path(paths).write_text("")
    path = tmp_path / "conf"
    path.write_text(dnsmasq.render(config, ADDRESS, paths))
    run(["dnsmasq", "--test", f"--conf-file={path}"])


@pytest.mark.system
@pytest.mark.parametrize(("vendor", "code", "file"), BOOT_CASES)
def test_full_mode_answers_each_architecture(
    room: Any, served: Any, tmp_path: Path, vendor: str, code: int, file: str
) -> None:
    served(FULL)
    got = lease(room, tmp_path, "-V", vendor, "-x", f"0x5d:{code:04x}", "-O", "bootfile", "-O", "vendor")
    assert got["ip"].startswith("10.77.0.1")
    assert got.get("boot_file") == file
    assert got["siaddr"] == ADDRESS
    assert got["lease"] == "600"
    assert "router" not in got
    assert "dns" not in got
    with room.inside(room.client):
        (offer,) = probe.offers("eth0", 20, firmware(vendor, code), most=1)
    assert offer.file == file
    if vendor.startswith("HTTPClient"):
        assert offer.options[60] == b"HTTPClient"


@pytest.mark.system
def test_full_mode_sends_ipxe_to_the_start_script(room: Any, served: Any, tmp_path: Path) -> None:
    served(FULL)
    by_class = lease(room, tmp_path, "-V", "PXEClient:Arch:00000", "-x", "0x5d:0000", "-x", "0x4d:69505845")
    assert by_class["boot_file"] == START
    by_option = lease(room, tmp_path, "-V", "PXEClient:Arch:00007", "-x", "0x5d:0007", "-x", "0xaf:b10501808610")
    assert by_option["boot_file"] == START


@pytest.mark.system
def test_a_machine_that_does_not_boot_gets_an_address_and_no_boot_file(room: Any, served: Any, tmp_path: Path) -> None:
    served(FULL)
    got = lease(room, tmp_path)
    assert got["subnet"] == "255.255.255.0"
    assert "boot_file" not in got


@pytest.mark.system
def test_fixed_addresses_come_with_a_reload_and_without_a_restart(
    room: Any, served: Any, paths: Paths, tmp_path: Path
) -> None:
    with room.inside(room.client):
        mac = Path("/sys/class/net/eth0/address")
        mac_text = run(["ip", "netns", "exec", room.client, "cat", mac]).stdout.strip()
    server = served(FULL)
    pid = server.pid
    assert lease(room, tmp_path)["ip"] != "10.77.0.20"
    server.reload([Node("n07", (mac_text,), address="10.77.0.20")])
    got: dict[str, str] = {}

    def moved() -> bool:
        got.update(lease(room, tmp_path))
        return got["ip"] == "10.77.0.20"

    eventually(moved, "the fixed address")
    assert got["hostname"] == "n07"
    assert server.pid == pid
    assert mac_text in dnsmasq.leases_path(paths).read_text()


@pytest.mark.system
@pytest.mark.parametrize("config", [FULL, PROXY, OFF], ids=["full", "proxy", "off"])
def test_boot_loaders_come_by_tftp(room: Any, served: Any, tmp_path: Path, config: Config) -> None:
    served(config)
    room.ip(room.client, "addr", "add", "10.77.0.99/24", "dev", "eth0")
    for name in ("undionly.kpxe", "snponly.efi"):
        target = tmp_path / name
        run(["ip", "netns", "exec", room.client, "busybox", "tftp", "-g", "-b", "1428", "-r", name, "-l", target,
             ADDRESS], timeout=60)  # fmt: skip
        source = next(path for loader in loaders.LOADERS if loader.name == name and (path := loaders.find(loader)))
        assert target.read_bytes() == source.read_bytes()
    refused = run(["ip", "netns", "exec", room.client, "busybox", "tftp", "-g", "-r", "../dnsmasq/dnsmasq.conf",
                   "-l", tmp_path / "x", ADDRESS], check=False, timeout=60)  # fmt: skip
    assert refused.code != 0


def foreign_server(room: Any, tmp_path: Path, *lines: str) -> Any:
    """A DHCP server that is not ours, as a context manager."""
    conf = tmp_path / "foreign.conf"
    conf.write_text("\n".join([
        "port=0", "interface=eth0", "bind-interfaces", "dhcp-range=10.77.0.200,10.77.0.220,600", "no-ping",
        "leasefile-ro", "user=root", "pid-file=", "log-facility=-", "dhcp-authoritative", *lines, "",
    ]))  # fmt: skip
    return spawn(["ip", "netns", "exec", room.foreign, "dnsmasq", "-k", f"--conf-file={conf}"])


@pytest.mark.system
@pytest.mark.parametrize(("vendor", "code", "file"), BOOT_CASES)
@pytest.mark.parametrize("ipxe", [False, True], ids=["firmware", "ipxe"])
def test_proxy_mode_answers_beside_a_foreign_server(
    room: Any, served: Any, tmp_path: Path, vendor: str, code: int, file: str, ipxe: bool
) -> None:
    with foreign_server(room, tmp_path):
        served(PROXY)
        with room.inside(room.client):
            found: dict[str, probe.Reply] = {}

            def both() -> bool:
                for offer in probe.offers("eth0", 3, firmware(vendor, code, ipxe), most=2):
                    found[offer.server] = offer
                return {ADDRESS, "10.77.0.254"} <= found.keys()

            eventually(both, "an offer of each server")
        ours, theirs = found[ADDRESS], found["10.77.0.254"]
        assert theirs.address.startswith("10.77.0.2")
        assert theirs.file == ""
        assert ours.address == ""  # beside a foreign server we never give addresses
        assert ours.options[60] == vendor.partition(":")[0].encode()
        if ipxe:
            assert ours.file == START
        elif code >= 16:
            assert ours.file == file
        else:
            assert boot_server_reply(room, vendor, code).file == file


def boot_server_reply(room: Any, vendor: str, code: int) -> probe.Reply:
    """What port 4011 answers a machine that has an address by now (PXE 2.1, "Boot Server Discovery")."""
    room.ip(room.client, "addr", "replace", "10.77.0.99/24", "dev", "eth0")
    options = firmware(vendor, code)
    if code == 0:
        # The item of the boot menu that was chosen: its type (dnsmasq counts files from 0x8000) and layer 0.
        options[43] = bytes([71, 4, 0x80, 0, 0, 0, 255])
    mac = "02:00:00:00:00:99"
    with room.inside(room.client), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("10.77.0.99", 68))
        client.settimeout(2)
        for transaction in range(1, 10):
            client.sendto(probe.message(probe.REQUEST, transaction, mac, options, "10.77.0.99"), (ADDRESS, 4011))
            try:
                reply = probe.parse_reply(client.recv(4096), transaction)
            except TimeoutError:
                continue
            if reply is not None:
                assert reply.kind == probe.ACK
                return reply
    raise AssertionError("port 4011 did not answer")


@pytest.mark.system
def test_off_mode_answers_no_dhcp(room: Any, served: Any) -> None:
    served(OFF)
    with room.inside(room.client):
        assert probe.offers("eth0", 3, firmware(*BOOT_CASES[0][:2])) == ()


@pytest.mark.system
def test_a_port_in_use_is_an_error_that_names_it(room: Any, served: Any) -> None:
    with room.inside(room.head), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
        rival.bind(("0.0.0.0", 67))
        with pytest.raises(RookeryError) as caught:
            served(FULL)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "UDP port 67 (DHCP) on rkbr0 is in use" in caught.value.record.message
    with room.inside(room.head), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
        rival.bind((ADDRESS, 69))
        with pytest.raises(RookeryError, match=r"UDP port 69 \(TFTP\)"):
            served(FULL)


@pytest.mark.system
def test_a_missing_interface_is_an_error(served: Any) -> None:
    with pytest.raises(RookeryError, match="no network interface rknone0") as caught:
        served(dataclasses.replace(FULL, network=Network("rknone0", ADDRESS)))
    assert caught.value.kind is ErrorKind.NOT_FOUND


@pytest.mark.system
def test_dnsmasq_that_dies_is_started_again(room: Any, served: Any, paths: Paths) -> None:
    server = served(FULL)
    first = server.pid
    assert int(dnsmasq.pid_path(paths).read_text()) == first
    os.kill(first, signal.SIGKILL)
    eventually(lambda: server.pid not in {None, first}, "another dnsmasq")
    assert server.running
    with room.inside(room.client):
        assert probe.offers("eth0", 20, most=1)
    last = server.pid
    server.stop()
    assert not dnsmasq.is_ours(last, paths)
    assert not dnsmasq.pid_path(paths).exists()
    assert not server.running


HEAD_PROGRAM = """
import sys, time
from pathlib import Path
from rookery.head.boot.dnsmasq import Dnsmasq
from rookery.head.config import Config, Dhcp, DhcpMode, Network, Paths
server = Dnsmasq(Config(Network("rkbr0", "10.77.0.1"), Dhcp(DhcpMode.PROXY)), Paths(Path(sys.argv[1])), "10.77.0.1")
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.system
def test_dnsmasq_does_not_outlive_a_killed_head(room: Any, paths: Paths) -> None:
    head = start(["ip", "netns", "exec", room.head, sys.executable, "-c", HEAD_PROGRAM, paths.directory], stdout=PIPE)
    try:
        assert head.stdout is not None
        pid = int(head.stdout.readline())
        assert dnsmasq.is_ours(pid, paths)
        os.kill(head.pid, signal.SIGKILL)
        head.wait()
        eventually(lambda: not dnsmasq.is_ours(pid, paths), "the end of dnsmasq")
    finally:
        end(head)
        assert head.stdout is not None
        head.stdout.close()


@pytest.mark.system
def test_only_our_own_stale_dnsmasq_is_ended(room: Any, served: Any, paths: Paths) -> None:
    served(OFF).stop()  # writes the files
    stale_argv = ["ip", "netns", "exec", room.head, "dnsmasq", "-k", f"--conf-file={dnsmasq.conf_path(paths)}"]
    with spawn(stale_argv) as stale, spawn(["sleep", "600"]) as stranger:
        eventually(lambda: dnsmasq.is_ours(stale.pid, paths), "the stale dnsmasq")
        dnsmasq.pid_path(paths).write_text(f"{stranger.pid}\n")
        dnsmasq.end_stale(paths)
        assert stranger.poll() is None
        dnsmasq.pid_path(paths).write_text(f"{stale.pid}\n")
        reaper = threading.Thread(target=stale.wait)
        reaper.start()
        assert served(OFF).running
        reaper.join()
        assert stranger.poll() is None


def test_unprivileged_account_only_where_it_can_read(tmp_path: Path, head_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert dnsmasq.account_for(head_directory) in {"dnsmasq", "nobody"}
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert dnsmasq.account_for(closed) == "root"
