# SPDX-License-Identifier: Apache-2.0
"""What is missing or wrong on this host, each with a remedy: the examination behind `rookery doctor`.

Every check is a small function that gives findings and changes nothing. What is read from the host is parsed by pure
functions, so that the rules can be tested with any host's data.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rookery.errors import RookeryError
from rookery.head import listeners
from rookery.head.boot import dnsmasq, loaders, probe
from rookery.head.build.installed import release_values
from rookery.head.config import Config, DhcpMode, Paths
from rookery.run import RunError, run, which

PROBE_SECONDS = 3.0
LITTLE_SPACE, TOO_LITTLE_SPACE = 10_000_000_000, 1_000_000_000
MANY_NEIGHBOURS = 4096
MANY_FILES = 4096


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # something will not work, or not well
    FAULT = "fault"  # the head cannot do its work


@dataclass(frozen=True)
class Finding:
    """One thing looked at. name: what, as `program dnsmasq`. message: one sentence. remedy: what to do, empty if ok."""

    name: str
    level: Level
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Program:
    """A program the head calls. debian, fedora: the package. use: what it is for. needed: for any head at all."""

    name: str
    debian: str
    fedora: str
    use: str
    needed: bool = False


PROGRAMS = (
    Program("dnsmasq", "dnsmasq-base", "dnsmasq", "DHCP and TFTP"),
    Program("ip", "iproute2", "iproute", "looking at interfaces, and the lab"),
    Program("setpriv", "util-linux", "util-linux", "running dnsmasq without root's rights"),
    Program("busybox", "busybox-static", "busybox", "packing the agent", needed=True),
    Program("ldd", "libc-bin", "glibc-common", "packing the agent", needed=True),
    Program("cpio", "cpio", "cpio", "packing the agent", needed=True),
    Program("zstd", "zstd", "zstd", "packing the agent", needed=True),
    Program("modprobe", "kmod", "kmod", "packing the agent and drivers", needed=True),
    Program("depmod", "kmod", "kmod", "packing drivers"),
    Program("mmdebstrap", "mmdebstrap", "mmdebstrap", "building Debian images"),
    Program("mksquashfs", "squashfs-tools", "squashfs-tools", "building images"),
    Program("rsync", "rsync", "rsync", "capturing machines"),
    Program("ssh", "openssh-client", "openssh-clients", "capturing machines"),
)
MODULES = {
    "libtorrent": "the swarm",
    "nacl.signing": "signatures",
    "sqlalchemy": "the catalog",
    "alembic": "the catalog's migrations",
    "ClusterShell.NodeSet": "noderanges",
    "fastapi": "HTTP",
    "uvicorn": "HTTP",
}


def examine(config: Config | None, paths: Paths, *, rivals: bool = False) -> tuple[Finding, ...]:
    """Everything worth knowing about this host as a head.

    config: None when the directory is not a head's yet: then only the host is examined. rivals: ask on the interface
    who else answers DHCP, although dhcp.mode `off` does not need to know (takes PROBE_SECONDS).
    """
    dhcp = config is not None and config.dhcp.mode is not DhcpMode.OFF
    tftp = config is not None and dnsmasq.needed(config)
    found = [*python_findings(), *program_findings(family(), tftp), loader_finding(tftp), clock_finding(time.time())]
    found += kernel_findings()
    if config is None:
        return tuple(found)
    found += [*directory_findings(paths), space_finding(paths.directory), *port_findings(config, paths)]
    if tftp and os.geteuid() != 0:
        found.append(Finding("rights", Level.WARNING, "DHCP and TFTP need root", "run 'rookery serve' as root"))
    if config.network.interface:
        here = probe.interface(config.network.interface)
        found += interface_findings(config, here)
        if here is not None and here.up and (rivals or dhcp):
            found.append(rival_finding(config, here))
    elif dhcp:
        found.append(_no_interface(paths))
    return tuple(found)


def family(os_release: str | None = None) -> str:
    """The distribution's family by /etc/os-release (or the given text of one): `debian`, `fedora`, or empty."""
    if os_release is None:
        try:
            os_release = Path("/etc/os-release").read_text()
        except OSError:
            return ""
    values = release_values(os_release)
    names = f"{values.get('ID', '')} {values.get('ID_LIKE', '')}".split()
    if {"debian", "ubuntu"} & set(names):
        return "debian"
    return "fedora" if {"fedora", "rhel", "centos"} & set(names) else ""


def install_words(program: Program, of_family: str) -> str:
    """The command that installs a program's package."""
    commands = {"debian": f"apt install {program.debian}", "fedora": f"dnf install {program.fedora}"}
    return commands.get(of_family, f"install the program {program.name} (package {program.debian} in Debian)")


def program_findings(of_family: str, tftp: bool, find: Callable[[str], Path | None] = which) -> list[Finding]:
    """Which programs are there. tftp: whether this head runs dnsmasq."""
    found = []
    for program in PROGRAMS:
        name, path = f"program {program.name}", find(program.name)
        if path is not None:
            found.append(Finding(name, Level.OK, str(path)))
            continue
        needed = program.needed or (program.name == "dnsmasq" and tftp)
        level = Level.FAULT if needed else Level.WARNING
        message = f"not installed; needed for {program.use}"
        found.append(Finding(name, level, message, install_words(program, of_family)))
    return found


def loader_finding(tftp: bool, directories: tuple[Path, ...] = loaders.DIRECTORIES) -> Finding:
    """Whether the distribution's iPXE is there."""
    absent = [item.name for item in loaders.LOADERS if item.needed and loaders.find(item, directories) is None]
    if absent:
        level = Level.FAULT if tftp else Level.WARNING
        return Finding("boot loaders", level, f"no iPXE: {', '.join(absent)} not found", loaders.HINT)
    return Finding("boot loaders", Level.OK, "iPXE for BIOS and UEFI")


def python_findings(modules: Iterable[str] = tuple(MODULES)) -> list[Finding]:
    """Whether Python's modules load. In a child, because a broken binary module ends the process that loads it."""
    found = []
    # It looks where this process does, whatever brought it there.
    same = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for module in modules:
        try:
            run([sys.executable, "-c", f"import {module}"], timeout=60, env=same)
        except RunError as error:
            last = (error.completed.stderr.strip().splitlines() or [error.record.message])[-1]
            message = f"{last}; needed for {MODULES.get(module, 'the head')}"
            found.append(
                Finding(f"python {module}", Level.FAULT, message, "pip install '.[head]' in a clone of rookery")
            )
    return found or [Finding("python", Level.OK, f"{sys.version.split()[0]}, all modules load")]


def clock_finding(now: float) -> Finding:
    """Whether the clock can be right: nodes set theirs by it. now: seconds since 1970."""
    made = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    today = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < made - 86_400:
        return Finding("clock", Level.FAULT, f"it says {today}, before this program was made", "set the clock (NTP)")
    return Finding("clock", Level.OK, today)


def kernel_findings(
    neighbours: Path = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3"), open_files: int | None = None
) -> list[Finding]:
    """Limits of the kernel that a head of many nodes meets."""
    found = []
    with contextlib.suppress(OSError, ValueError):  # not there in some containers
        limit = int(neighbours.read_text())
        if limit < MANY_NEIGHBOURS:
            message = f"the kernel keeps at most {limit} neighbours: trouble from about {limit} nodes on"
            remedy = "sysctl -w net.ipv4.neigh.default.gc_thresh3=16384 net.ipv4.neigh.default.gc_thresh2=8192"
            found.append(Finding("neighbour table", Level.WARNING, message, remedy))
    most = open_files if open_files is not None else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= most < MANY_FILES:
        message = f"a process may open at most {most} files, one for each connection"
        found.append(
            Finding("open files", Level.WARNING, message, f"ulimit -Hn {MANY_FILES}, or LimitNOFILE= in the unit")
        )
    return found or [Finding("kernel limits", Level.OK, "enough for thousands of nodes")]


def directory_findings(paths: Paths) -> list[Finding]:
    """The head's directory and the rights of the secrets in it."""
    if not paths.directory.is_dir():
        remedy = f"run 'rookery init --dir {paths.directory}'"
        return [Finding("directory", Level.FAULT, f"{paths.directory} does not exist", remedy)]
    found = []
    if paths.directory.stat().st_mode & stat.S_IWOTH:
        message = f"everybody may write in {paths.directory}"
        found.append(Finding("directory", Level.FAULT, message, f"chmod o-w {paths.directory}"))
    if not os.access(paths.directory, os.W_OK | os.X_OK):
        message = f"no right to write in {paths.directory}"
        found.append(Finding("directory", Level.FAULT, message, "run this as the user that owns it"))
    for name, path in (("site key", paths.site_key), ("operator token", paths.operator_token)):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            remedy = f"restore it from a backup, or start afresh: 'rookery init --dir {paths.directory}'"
            found.append(Finding(name, Level.FAULT, f"{path} is missing", remedy))
            continue
        except PermissionError:
            found.append(Finding(name, Level.WARNING, f"no right to look at {path}", "run this as root"))
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            message = f"others may read {path} (mode {stat.S_IMODE(mode):04o})"
            found.append(Finding(name, Level.FAULT, message, f"chmod 600 {path}; if they did read it, make a new one"))
    with contextlib.suppress(OSError):  # that it cannot be read was said when it was loaded
        mode = paths.config.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            message = f"others may read {paths.config} (mode {stat.S_IMODE(mode):04o})"
            remedy = f"chmod 600 {paths.config}: a database's URL holds its password"
            found.append(Finding("configuration", Level.WARNING, message, remedy))
    return found or [Finding("directory", Level.OK, f"{paths.directory}, secrets readable by their owner only")]


def space_finding(directory: Path, free: int | None = None) -> Finding:
    """Room for images. free: bytes, None to ask the file system."""
    if free is None:
        place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
    message = f"{free / 1e9:.1f} GB free for {directory}"
    if free >= LITTLE_SPACE:
        return Finding("disk space", Level.OK, message)
    level = Level.FAULT if free < TOO_LITTLE_SPACE else Level.WARNING
    return Finding("disk space", level, message, "free some, or move the directory; an image build takes a few GB")


def port_findings(config: Config, paths: Paths) -> list[Finding]:
    """Whether the ports that the head listens on are free, or its own already."""
    network = config.network
    wanted = [("tcp", network.port, "HTTP"), ("tcp", network.swarm_port, "the swarm")]
    wanted.append(("tcp", network.relay_port, "the chains"))
    if config.dhcp.mode is not DhcpMode.OFF:
        wanted.append(("udp", 67, "DHCP"))
    if config.dhcp.mode is DhcpMode.PROXY:
        wanted.append(("udp", 4011, "PXE"))
    if dnsmasq.needed(config):
        wanted.append(("udp", 69, "TFTP"))
    return [_port_finding(protocol, number, use, paths) for protocol, number, use in wanted]


def _port_finding(protocol: str, number: int, use: str, paths: Paths) -> Finding:
    name = f"port {number}/{protocol}"
    users = listeners.users(protocol, number)
    strangers = [user for user in users if not _is_ours(user, paths)]
    if not users:
        return Finding(name, Level.OK, f"free for {use}")
    if not strangers:
        return Finding(name, Level.OK, f"in use by this head ({', '.join(map(str, users))})")
    message = f"needed for {use}, in use by {', '.join(map(str, strangers))}"
    if number == 67 and all(user.program == "dnsmasq" for user in strangers):
        # As those of libvirt and LXC do: each bound to a bridge of its own.
        remedy = "no harm if that one is bound to another interface; else stop it"
        return Finding(name, Level.WARNING, message, remedy)
    remedy = "stop that program" + (", or set another port in rookery.toml" if protocol == "tcp" else "")
    return Finding(name, Level.FAULT, message, remedy)


def _is_ours(user: listeners.User, paths: Paths) -> bool:
    serve = "rookery" in user.command and "serve" in user.command
    return user.pid is not None and (serve or dnsmasq.is_ours(user.pid, paths))


def interface_findings(config: Config, here: probe.Interface | None) -> list[Finding]:
    """Whether the provisioning interface fits the configuration; `here`: the interface as it is."""
    name = f"interface {config.network.interface}"
    if here is None:
        return [Finding(name, Level.FAULT, "does not exist", "set network.interface; 'ip -brief address' lists them")]
    if here.address is None:
        remedy = f"ip address add ADDRESS/PREFIX dev {here.name}, and make it permanent"
        return [Finding(name, Level.FAULT, "has no IPv4 address", remedy)]
    found = []
    if not here.up:
        found.append(Finding(name, Level.FAULT, "is down", f"ip link set {here.name} up"))
    elif not here.carrier:
        found.append(Finding(name, Level.WARNING, "has no link", "check the cable and the switch"))
    wanted = config.network.address
    # An interface may have several addresses, of which only the first is known here.
    if wanted and ipaddress.IPv4Address(wanted) not in here.address.network:
        message = f"has {here.address}, and network.address is {wanted}"
        found.append(Finding(name, Level.FAULT, message, "correct network.address in rookery.toml"))
    if config.dhcp.mode is DhcpMode.FULL:
        first, last = (ipaddress.IPv4Address(part.strip()) for part in config.dhcp.range.split("-"))
        if first not in here.address.network or last not in here.address.network:
            message = f"dhcp.range {config.dhcp.range} is not within {here.address.network}"
            found.append(Finding("dhcp.range", Level.FAULT, message, "correct dhcp.range in rookery.toml"))
        elif first <= here.address.ip <= last:
            message = f"dhcp.range {config.dhcp.range} contains the head's own address {here.address.ip}"
            found.append(Finding("dhcp.range", Level.FAULT, message, "leave it out of dhcp.range"))
    return found or [Finding(name, Level.OK, f"up, {here.address}")]


def _no_interface(paths: Paths) -> Finding:
    message = "dhcp.mode needs an interface, and network.interface is empty"
    return Finding("interface", Level.FAULT, message, f"set network.interface in {paths.config}")


def rival_finding(config: Config, here: probe.Interface, seconds: float = PROBE_SECONDS) -> Finding:
    """Who else answers DHCP on the interface: asked with a real DHCPDISCOVER, as a machine's firmware sends it."""
    try:
        replies = probe.offers(here.name, seconds, {probe.VENDOR_CLASS: b"PXEClient", probe.ARCHITECTURE: b"\0\7"})
    except RookeryError as error:
        return Finding("other DHCP servers", Level.WARNING, error.record.message, error.record.hint)
    own = {config.network.address, str(here.address.ip) if here.address else ""}
    return judge_rivals(config.dhcp.mode, tuple(reply for reply in replies if reply.server not in own))


def judge_rivals(mode: DhcpMode, replies: tuple[probe.Reply, ...]) -> Finding:
    """What the answers of other servers mean for a head in `mode`."""
    name = "other DHCP servers"
    giving = sorted({reply.server for reply in replies if reply.address})
    booting = sorted({reply.server for reply in replies if reply.file})
    if mode is DhcpMode.FULL:
        if giving:
            message = f"{', '.join(giving)} gives addresses on this network as well"
            return Finding(name, Level.FAULT, message, "stop it, or set dhcp.mode to 'proxy' or 'off'")
        return Finding(name, Level.OK, "none answers: this head is the only one")
    if not giving:
        message = f"none gives addresses, and dhcp.mode '{mode}' relies on one"
        return Finding(name, Level.WARNING, message, "start one, or set dhcp.mode to 'full' with a dhcp.range")
    if mode is DhcpMode.PROXY and booting:
        message = f"{', '.join(booting)} tells machines what to boot as well"
        return Finding(name, Level.WARNING, message, "take boot file and next server out of its configuration")
    if mode is DhcpMode.OFF and not booting:
        message = f"{', '.join(giving)} gives addresses and nothing to boot"
        return Finding(name, Level.WARNING, message, "give it what 'rookery dhcp snippet' prints")
    return Finding(name, Level.OK, f"{', '.join(giving)} gives addresses")
