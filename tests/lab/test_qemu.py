# SPDX-License-Identifier: Apache-2.0
import contextlib
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from lab import netns, qemu
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.boot.answer import BootFiles, BootRequest, answer, parse_request, refusal, start
from rookery.head.boot.dnsmasq import Dnsmasq
from rookery.head.boot.loaders import DIRECTORIES
from rookery.head.catalog.rows import Node
from rookery.head.config import Config, Dhcp, DhcpMode, Network, Paths
from rookery.run import run
from rookery.wire import routes

ADDRESS = "10.78.0.1"
HEAD = f"http://{ADDRESS}:8470"
MAC = "52:54:00:78:00:01"


@dataclass
class Head:
    """A head of nothing but the boot routes. broken: routes that answer 404. asked: requests for a script.
    fetched: paths of everything else."""

    kernel: bytes
    node: Node
    namespace: str
    files: BootFiles | None = None
    error: ErrorRecord | None = None
    broken: set[str] = field(default_factory=set)
    asked: list[BootRequest] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def respond(self, target: str, address: str) -> bytes | None:
        parts = urlsplit(target)
        if any(parts.path.startswith(route) for route in self.broken):
            return None
        if parts.path == routes.START:
            self.fetched.append(parts.path)
            return start(HEAD, rounds_per_lease=2).encode()
        if parts.path == routes.SCRIPT:
            request = parse_request(parse_qsl(parts.query, keep_blank_values=True), address)
            self.asked.append(request)
            if self.error:
                return refusal(self.error, request.macs[0]).encode()
            return answer(request, self.node, self.files).encode()
        self.fetched.append(parts.path)
        return self.kernel if parts.path.startswith(routes.KERNEL) else b"some bytes of an initrd".ljust(4096, b"\0")


@contextlib.contextmanager
def serving(head: Head) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = head.respond(self.path, self.client_address[0])
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with netns.entered(head.namespace):
        server = http.server.ThreadingHTTPServer((ADDRESS, 8470), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FULL = Dhcp(DhcpMode.FULL, "10.78.0.100-10.78.0.120")
PROXY = Dhcp(DhcpMode.PROXY)


@pytest.fixture
def head(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Head]:
    """A head on a bridge: real dnsmasq in full mode (or as the test's parameter says), and HTTP. In mode proxy there is
    a foreign DHCP server beside it."""
    if os.geteuid() != 0:
        pytest.skip("QEMU machines on a bridge need root")
    kernel = next(directory / "ipxe.lkrn" for directory in DIRECTORIES if (directory / "ipxe.lkrn").is_file())
    with netns.room() as room:
        room.hub_address(f"{ADDRESS}/24")
        dhcp = getattr(request, "param", FULL)
        config = Config(Network(netns.BRIDGE, ADDRESS), dhcp)
        server = Dnsmasq(config, Paths(tmp_path / "head"), ADDRESS)
        made = Head(kernel.read_bytes(), Node("n01", (MAC,)), room.hub)
        (tmp_path / "head").mkdir()
        try:
            with serving(made), contextlib.ExitStack() as foreign:
                if dhcp is PROXY:
                    host = room.host("10.78.0.254/24")
                    words = ["dnsmasq", "-k", "-C", "/dev/null", "-p", "0", "-i", netns.DEVICE, "--leasefile-ro"]
                    words += ["-F", "10.78.0.150,10.78.0.160", "--user=root", "--pid-file="]
                    foreign.enter_context(room.process(host, words))
                with netns.entered(room.hub):
                    server.start()
                yield made
        finally:
            server.stop()


def eventually(true: Callable[[], object], guest: qemu.Guest, what: str, seconds: float = 80.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert guest.running, guest.complaints()
        assert time.monotonic() < until, f"not in {seconds:g} s: {what}\n{guest.text()[-2000:]}"
        time.sleep(0.1)


def files(**changes: Any) -> BootFiles:
    values = {"kernel": "1" * 64, "drivers": "2" * 64, "agent": "3" * 64, "token": "token-0123456789"}
    return BootFiles(head=HEAD, **(values | changes))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rookery.head.boot.answer.RETRY_SECONDS", 5)


@pytest.mark.qemu
def test_a_bios_machine_waits_until_it_is_assigned_and_then_boots_by_itself(
    head: Head, impatient: None, tmp_path: Path
) -> None:
    head.error = ErrorRecord(ErrorKind.UNAVAILABLE, 'the head\'s "database" is away', hint="run 'rookery doctor'")
    machine = qemu.Machine("n01", MAC, tmp_path, memory=256, namespace=head.namespace, bridge=netns.BRIDGE)
    with qemu.boot(machine) as guest:
        guest.wait_for(r"Rookery: the head's \?database\? is away", 80)
        guest.wait_for("Rookery: run 'rookery doctor'", 5)
        head.error = None
        guest.wait_for(r"Rookery: this machine is n01 \(52:54:00:78:00:01\) and waits for an image", 30)
        guest.wait_for("assign one on the head with: rookery deploy n01 --image IMAGE", 5)
        eventually(lambda: len(head.asked) >= 3, guest, "a third question")
        assert head.asked[0].macs == (MAC,)
        assert head.asked[0].firmware == "bios"
        assert head.asked[0].architecture == "x86_64"
        assert head.asked[0].uuid == "00000000-0000-4000-8000-525400780001"
        assert head.asked[0].address.startswith("10.78.0.1")
        head.node = Node("n01", (MAC,), image="base:latest")
        head.files = files(kernel_arguments="console=ttyS0")
        guest.wait_for("Rookery: n01 boots base:latest", 40)
        # The kernel here is iPXE in the form of a Linux kernel: it takes the command line for commands and says so.
        guest.wait_for(r"rookery\.head=http://10\.78\.0\.1:8470: command not found", 40)
    wanted = [f"{routes.KERNEL}/{'1' * 64}", f"{routes.DRIVERS}/{'2' * 64}", f"{routes.AGENT}/{'3' * 64}"]
    assert [path for path in head.fetched if path != routes.START][:3] == wanted


@pytest.mark.qemu
def test_a_bios_machine_gets_over_a_head_that_fails(head: Head, impatient: None, tmp_path: Path) -> None:
    head.node, head.files = Node("n01", (MAC,), image="base:latest"), files()
    head.broken = {routes.SCRIPT}
    machine = qemu.Machine("n01", MAC, tmp_path, memory=256, namespace=head.namespace, bridge=netns.BRIDGE)
    with qemu.boot(machine) as guest:
        guest.wait_for(f"Rookery: no good answer from {HEAD}; asking again", 80)
        head.broken = {routes.DRIVERS}
        guest.wait_for("Rookery: fetching the drivers failed; asking again", 40)
        guest.wait_for("Rookery: renewing the address", 40)
        head.broken = set()
        guest.wait_for("command not found", 60)
    assert len(head.asked) >= 2


@pytest.mark.qemu
@pytest.mark.parametrize("head", [PROXY], indirect=True, ids=["proxy"])
def test_a_uefi_machine_boots_beside_a_foreign_dhcp_server(head: Head, tmp_path: Path) -> None:
    machine = qemu.Machine(
        "n01", MAC, tmp_path, memory=256, firmware="uefi", namespace=head.namespace, bridge=netns.BRIDGE
    )
    with qemu.boot(machine) as guest:
        guest.wait_for(r"Rookery: this machine is n01 .* waits for an image", 85)
    assert head.asked[0].address.startswith("10.78.0.15")  # the foreign server's address, our boot answer


@pytest.mark.qemu
def test_a_uefi_machine_gets_through_tftp_to_its_kernel(head: Head, tmp_path: Path) -> None:
    head.node, head.files = Node("n01", (MAC,), image="base:latest"), files()
    head.kernel = next(path for directory in DIRECTORIES if (path := directory / "ipxe.efi").is_file()).read_bytes()
    machine = qemu.Machine(
        "n01", MAC, tmp_path, memory=256, firmware="uefi", namespace=head.namespace, bridge=netns.BRIDGE
    )
    with qemu.boot(machine) as guest:
        guest.wait_for("Rookery: n01 boots base:latest", 85)
        wanted = [f"{routes.KERNEL}/{'1' * 64}", f"{routes.DRIVERS}/{'2' * 64}", f"{routes.AGENT}/{'3' * 64}"]
        assert head.asked[0].firmware == "uefi"
        assert head.asked[0].architecture == "x86_64"
        eventually(lambda: head.fetched.count(routes.START) >= 2, guest, "the kernel (iPXE once more) to come up")
    assert head.fetched[:4] == [routes.START, *wanted]


def test_the_command_line_of_a_machine(tmp_path: Path) -> None:
    kernel, first = tmp_path / "kernel", tmp_path / "first"
    machine = qemu.Machine("n01", MAC, tmp_path, namespace="lab", tap="t3", kernel=kernel, initrds=(first,))
    words = qemu.command(machine, "tcg")
    assert words[:5] == ["ip", "netns", "exec", "lab", "qemu-system-x86_64"]
    assert "tap,id=net0,ifname=t3,script=no,downscript=no" in words
    assert words[words.index("-initrd") + 1] == str(tmp_path / "n01.initrd")
    assert words[words.index("-cpu") + 1].startswith("qemu64")
    assert "-netdev" not in qemu.command(qemu.Machine("n02", MAC, tmp_path), "kvm")


def test_own_tap_devices_have_short_and_different_names(tmp_path: Path) -> None:
    names = {qemu.Machine("n", f"52:54:00:78:01:{number:02x}", tmp_path, bridge="br0").device for number in range(20)}
    assert len(names) == 20
    assert max(len(name) for name in names) <= 15


@pytest.mark.qemu
def test_the_probe_runs_a_guest_under_emulation_and_gives_up_on_one_that_never_ends() -> None:
    assert qemu.guest_runs("tcg", 60)
    assert not qemu.guest_runs("tcg", 0)
    assert qemu.accelerator() in {"kvm", "tcg"}


@pytest.mark.qemu
def test_a_machine_is_gone_afterwards_whatever_happened(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with netns.room() as room:
        machine = qemu.Machine("n01", MAC, tmp_path, memory=64, namespace=room.hub, bridge=netns.BRIDGE, qmp=True)
        guests = []
        with pytest.raises(KeyboardInterrupt), qemu.boot(machine) as guest:  # noqa: PT012
            guests.append(guest)
            guest.wait_for("SeaBIOS", 60)
            assert guest.qmp("query-status")["status"] == "running"
            assert machine.device in run(["ip", "-n", room.hub, "link"]).stdout
            raise KeyboardInterrupt
        assert not guests[0].running
        assert not Path(f"/proc/{guests[0].pid}").exists()
        assert machine.device not in run(["ip", "-n", room.hub, "link"]).stdout


@pytest.mark.qemu
def test_waiting_for_a_machine_that_ended_says_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "nothing").write_bytes(b"no kernel")
    machine = qemu.Machine("n01", MAC, tmp_path, memory=64, kernel=tmp_path / "nothing")
    with qemu.boot(machine, "tcg") as guest:
        with pytest.raises(RookeryError, match="and it ended") as caught:
            guest.wait_for("login:", 60)
        assert guest.wait_ended(10) != 0
    assert "kernel" in caught.value.record.details  # QEMU's own words
