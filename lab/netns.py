# SPDX-License-Identifier: Apache-2.0
"""A machine room of network namespaces: one hub with a bridge, and hosts on it whose links are shaped both ways.

    with room() as lab:
        head = lab.host("10.77.0.1/24")
        node = lab.host("10.77.0.2/24", rate=100_000_000)
        with lab.process(head, ["python3", "-m", "http.server"]):
            run([*node.inside, "curl", "http://10.77.0.1:8000/"])

A rack is a switch of its own, joined to the hub by a shaped uplink: `lab.host(address, rack=lab.rack(rate))`.

Nothing of it is in the host's own network: the bridge and its ports are in the hub's namespace. Needs root
(CAP_NET_ADMIN, CAP_SYS_ADMIN) and iproute2. Everything is gone when the block is left, processes included; `sweep`
removes what a killed run left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rookery.errors import ErrorKind, RookeryError
from rookery.run import Child, run, spawn, which

BRIDGE = "br0"
DEVICE = "eth0"  # the one interface inside every host
UPLINK = "up0"  # the interface of a rack's switch that leads to the hub
TAP = "tap0"  # the tap device inside every place for a virtual machine
BUNDLE = 15_000  # bytes
_PREFIX = "rkroom"
_NAME = re.compile(_PREFIX + r"-(\d+)-\d+-[a-z0-9]+")
_NAMESPACES = Path("/run/netns")
_rooms = itertools.count(1)
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Host:
    """A host of the room. namespace: its network namespace. addresses: as given, `10.77.0.2/24`. port: the name of
    the bridge's end of its link. switch: the namespace where that bridge is: the hub's, or its rack's."""

    namespace: str
    addresses: tuple[str, ...]
    port: str
    switch: str

    @property
    def address(self) -> str:
        """Its first address without the prefix length, or empty."""
        return self.addresses[0].partition("/")[0] if self.addresses else ""

    @property
    def inside(self) -> tuple[str, ...]:
        """The words that run a command inside this host when put before it."""
        return ("ip", "netns", "exec", self.namespace)


@dataclass(frozen=True)
class Rack:
    """A switch with hosts on it and one link, its uplink, to the hub. namespace: where its bridge and `up0`, its end of
    the uplink, are. port: the hub's end."""

    namespace: str
    port: str


class Room:
    """A hub and the hosts on it. Make it with `room()`; all methods raise RookeryError when a command fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hub = f"{name}-hub"
        self._numbers = itertools.count(1)
        self._namespaces: list[str] = []

    def host(self, *addresses: str, rate: int = 0, mac: str = "", rack: Rack | None = None) -> Host:
        """A new host on the bridge, or on a rack's. addresses: with prefix length; none for a host that will ask DHCP.
        rate: bits per second, each way; 0 is not shaped."""
        number = next(self._numbers)
        namespace, port = f"{self.name}-h{number}", f"p{number}"
        switch = rack.namespace if rack else self.hub
        self._add_namespace(namespace)
        self._add_link(switch, port, DEVICE, namespace)
        words = ["address", mac] if mac else []
        run(["ip", "-n", namespace, "link", "set", DEVICE, *words, "up"])
        for address in addresses:
            extra = ["nodad"] if ":" in address else []
            run(["ip", "-n", namespace, "address", "add", address, "dev", DEVICE, *extra])
        host = Host(namespace, addresses, port, switch)
        if rate:
            self.shape(host, rate)
        return host

    def rack(self, rate: int = 0) -> Rack:
        """A new rack without hosts. rate: of its uplink, bits per second, each way; 0 is not shaped."""
        number = next(self._numbers)
        rack = Rack(f"{self.name}-r{number}", f"p{number}")
        self._add_namespace(rack.namespace)
        self._add_link(self.hub, rack.port, UPLINK, rack.namespace)
        self._add_bridge(rack.namespace, UPLINK)
        if rate:
            for namespace, device in ((rack.namespace, UPLINK), (self.hub, rack.port)):
                self._shape_device(namespace, device, rate)
        return rack

    def shape(self, host: Host, up: int, down: int | None = None) -> None:
        """Limit a host's link: `up` bits per second from it, `down` to it (the same when not given); 0 lifts it."""
        down = up if down is None else down
        for namespace, device, rate in ((host.namespace, DEVICE, up), (host.switch, host.port, down)):
            self._shape_device(namespace, device, rate)

    def machine(self, rate: int = 0) -> Host:
        """A place for one virtual machine, which runs `inside` it with the tap device `tap0` as its network card.

        The tap is bridged to the place's link, so that what the machine sends and gets is shaped as a host's is.
        """
        host = self.host(rate=rate)
        run(["ip", "-n", host.namespace, "tuntap", "add", "dev", TAP, "mode", "tap"])
        self._add_bridge(host.namespace, DEVICE, TAP)
        return host

    @property
    def in_hub(self) -> tuple[str, ...]:
        """The words that run a command in the hub's namespace, where the bridge `br0` is."""
        return ("ip", "netns", "exec", self.hub)

    def hub_address(self, address: str) -> None:
        """Give the bridge itself an address (with prefix length), so that the hub can be a host too."""
        run(["ip", "-n", self.hub, "address", "add", address, "dev", BRIDGE])

    def cut(self, host: Host, connected: bool = False) -> None:
        """Pull a host's cable, or put it back with `connected`."""
        run(["ip", "-n", host.switch, "link", "set", host.port, "up" if connected else "down"])

    @contextlib.contextmanager
    def process(
        self,
        where: Host | None,
        argv: Sequence[str | Path],
        *,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Iterator[Child]:
        """Run a command inside a host (None: the hub) until the block is left. Its process group is ended then."""
        words = where.inside if where else self.in_hub
        with spawn([*words, *argv], stdout=stdout, stderr=stderr, env=env, cwd=cwd) as child:
            yield child

    def close(self) -> None:
        """End every process inside the room's namespaces and remove them."""
        for namespace in reversed(self._namespaces):
            remove(namespace)
        self._namespaces.clear()

    def open(self) -> None:
        """Make the hub. Called by `room()`."""
        self._add_namespace(self.hub)
        self._add_bridge(self.hub)

    def _add_link(self, switch: str, port: str, device: str, namespace: str) -> None:
        run(["ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", device, "netns", namespace])
        run(["ip", "-n", switch, "link", "set", port, "master", BRIDGE, "up"])

    def _add_bridge(self, namespace: str, *devices: str) -> None:
        # No spanning tree and no multicast snooping: ports forward at once, as an access switch is set up to do.
        options = ["stp_state", "0", "mcast_snooping", "0", "forward_delay", "0"]
        run(["ip", "-n", namespace, "link", "add", BRIDGE, "type", "bridge", *options])
        run(["ip", "-n", namespace, "link", "set", BRIDGE, "up"])
        for device in devices:
            run(["ip", "-n", namespace, "link", "set", device, "master", BRIDGE, "up"])

    def _add_namespace(self, name: str) -> None:
        run(["ip", "netns", "add", name])
        self._namespaces.append(name)
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        # What Debian's kernels do unless told otherwise, or what is nearest to it: the kernel at hand may have another
        # default (bbr paces each segment by a timer, and 64 hosts of it take two cores).
        for algorithm in ("cubic", "reno"):
            words = ["sysctl", "-q", "-w", f"net.ipv4.tcp_congestion_control={algorithm}"]
            if run(["ip", "netns", "exec", name, *words], check=False).code == 0:
                break

    def _shape_device(self, namespace: str, device: str, rate: int) -> None:
        tc = ["tc", "-n", namespace, "qdisc"]
        if not rate:
            run([*tc, "del", "dev", device, "root"], check=False)
            return
        # A burst of 4 ms, as a switch's buffer gives; never below a few segments, or the kernel cannot reach the rate.
        # Segments travel in bundles that fit into it, as network cards make them: one by one, each costs two timers.
        burst = max(rate // 8 // 250, 16_000)
        run(["ip", "-n", namespace, "link", "set", device, "gso_max_size", str(BUNDLE)])
        run(
            [*tc, "replace", "dev", device, "root", "tbf", "rate", f"{rate}bit", "burst", str(burst), "latency", "50ms"]
        )


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """A room with an empty hub; removed with everything in it when the block is left, also by an exception.

    Raises RookeryError: `forbidden` when not root, `missing` without iproute2.
    """
    require()
    sweep()  # a run that was killed could not clean up; the next one does
    lab = Room(f"{_PREFIX}-{os.getpid()}-{next(_rooms)}")
    try:
        lab.open()
        yield lab
    finally:
        lab.close()


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Move this thread into a network namespace: sockets, threads and processes made meanwhile stay there.

    Raises OSError when it cannot be entered (setns(2)).
    """
    with open("/proc/thread-self/ns/net") as before, open(_NAMESPACES / namespace) as wanted:
        _set_namespace(wanted.fileno())
        try:
            yield
        finally:
            _set_namespace(before.fileno())


def _set_namespace(handle: int) -> None:
    if _LIBC.setns(handle, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def require() -> None:
    """Raise RookeryError unless rooms can be made here."""
    for program in ("ip", "tc"):
        if which(program) is None:
            raise RookeryError(
                f"the program {program} is not installed", kind=ErrorKind.MISSING, hint="apt install iproute2"
            )
    if os.geteuid() != 0:
        raise RookeryError("network namespaces need root", kind=ErrorKind.FORBIDDEN, hint="run it with sudo")


def remove(namespace: str) -> None:
    """Remove a namespace and end the processes inside it: SIGTERM, then SIGKILL after 2 s."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _pids(namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 2
        while _pids(namespace) and time.monotonic() < deadline:
            time.sleep(0.02)
    run(["ip", "netns", "del", namespace], check=False)


def sweep() -> tuple[str, ...]:
    """Remove the namespaces of rooms whose maker is no longer alive; their names."""
    found = []
    for path in sorted(_NAMESPACES.glob(f"{_PREFIX}-*")):
        matched = _NAME.fullmatch(path.name)
        if matched and not Path(f"/proc/{matched[1]}").exists():
            remove(path.name)
            found.append(path.name)
    return tuple(found)


def _pids(namespace: str) -> tuple[int, ...]:
    done = run(["ip", "netns", "pids", namespace], check=False)
    return tuple(int(word) for word in done.stdout.split())
