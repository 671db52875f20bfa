# SPDX-License-Identifier: Apache-2.0
"""dnsmasq's configuration, and the child that runs it: DHCP or proxyDHCP, and TFTP for the first boot loader.

The configuration depends on the network and on the head's address, never on images, so nothing here changes when nodes
get other images. Options are explained in dnsmasq(8); architecture codes are those of RFC 4578 and IANA's registry
"Processor Architecture Types"; the boot answers beside a foreign server follow PXE 2.1 (UDP ports 67 and 4011).
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from rookery import files, run
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.boot import loaders
from rookery.head.catalog.rows import Node
from rookery.head.config import Config, DhcpMode, Paths
from rookery.log import logger
from rookery.wire import routes

log = logger(__name__)

# Client architecture -> boot loader: by TFTP, and by HTTP for firmware that fetches by HTTP itself.
TFTP_ARCHITECTURES = ((0, loaders.BIOS), (7, loaders.UEFI_X86_64), (9, loaders.UEFI_X86_64), (11, loaders.UEFI_ARM64))
HTTP_ARCHITECTURES = ((16, loaders.UEFI_X86_64), (19, loaders.UEFI_ARM64))
PACKAGE_HINT = "install the package dnsmasq-base (Debian, Ubuntu) or dnsmasq (Fedora, Rocky)"
READY_SECONDS = 10.0
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_INTERFACE = re.compile(r"[A-Za-z0-9_.@:-]{1,15}")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_.+@%/-]+")
# What is worth a warning of all that it says. UEFI aborts a transfer on purpose, once it knows the file's size.
_TROUBLE = r"not found|failed|cannot|error (?!8 User aborted)|no address available|duplicate"
_CAPABILITIES = "+net_admin,+net_raw,+net_bind_service"


def needed(config: Config) -> bool:
    """Whether this head runs dnsmasq: with an interface it gives out boot loaders by TFTP, whoever does the DHCP."""
    return bool(config.network.interface) or config.dhcp.mode is not DhcpMode.OFF


def head_url(config: Config, address: str) -> str:
    """The head's base URL for machines: `http://ADDRESS:PORT`."""
    return f"http://{ipaddress.IPv4Address(address)}:{config.network.port}"


def start_url(config: Config, address: str) -> str:
    """The one URL that DHCP leads to."""
    return f"{head_url(config, address)}{routes.START}"


def loader_url(config: Config, address: str, name: str) -> str:
    """Where UEFI HTTP boot gets a boot loader."""
    return f"{head_url(config, address)}{routes.LOADER}/{name}"


def render(config: Config, address: str, paths: Paths, account: str = "root") -> str:
    """dnsmasq's configuration for a head whose own IPv4 address is `address`, as a whole file; pure.

    account: the user that dnsmasq gives up root for. Raises RookeryError `invalid` when the interface is missing.
    """
    ipaddress.IPv4Address(address)
    if not _INTERFACE.fullmatch(config.network.interface):
        raise RookeryError(
            f"network.interface is {config.network.interface!r}: DHCP and TFTP need the name of an interface",
            kind=ErrorKind.INVALID,
            hint=f"set network.interface in {paths.config}",
        )
    lines = [
        "# Written by rookery at every start; changes are lost.",
        "port=0",  # no DNS
        f"interface={config.network.interface}",
        "except-interface=lo",
        "bind-interfaces",  # leaves other interfaces, and their servers, alone
        f"user={account}",
        "log-facility=-",
        "pid-file=",
        "enable-tftp",
        f"tftp-root={_path(loaders.tftp_root(paths))}",
        "tftp-no-fail",
        "tftp-max=500",
    ]
    if config.dhcp.mode is DhcpMode.FULL:
        lines += [*_full(config, paths), *boot_lines(config, address)]
    elif config.dhcp.mode is DhcpMode.PROXY:
        lines += [*_proxy(address, paths), *boot_lines(config, address)]
    return "\n".join([*lines, ""])


def boot_lines(config: Config, address: str) -> list[str]:
    """The boot answer in dnsmasq's words, whoever gives the addresses.

    iPXE is known by its user class or its own option 175, and gets the URL of the start script.
    """
    lines = ["dhcp-match=set:ipxe,175", "dhcp-userclass=set:ipxe,iPXE"]
    # Some firmware overlooks a boot file that was moved from its field into an option.
    lines.append("dhcp-no-override")
    for code, loader in TFTP_ARCHITECTURES:
        lines.append(f"dhcp-match=set:arch{code},option:client-arch,{code}")
        lines.append(f"dhcp-boot=tag:arch{code},tag:!ipxe,{loader.name},,{address}")
    for code, loader in HTTP_ARCHITECTURES:
        lines.append(f"dhcp-match=set:arch{code},option:client-arch,{code}")
        lines.append(f"dhcp-boot=tag:arch{code},tag:!ipxe,{loader_url(config, address, loader.name)},,{address}")
        # UEFI takes an answer for HTTP boot only when it carries this vendor class (UEFI 2.10, 24.7).
        lines.append(f"dhcp-option-force=tag:arch{code},option:vendor-class,HTTPClient")
    lines.append(f"dhcp-boot=tag:ipxe,{start_url(config, address)},,{address}")
    return lines


def hosts_file(nodes: Iterable[Node]) -> str:
    """The nodes' fixed addresses and names as a dhcp-hostsfile. Of two nodes with one address the first has it."""
    lines, taken = [], set()
    for node in nodes:
        words = list(node.macs)
        if node.address and node.address not in taken:
            taken.add(node.address)
            words.append(node.address)
        label = node.name.split(".", 1)[0]
        if _LABEL.fullmatch(label):
            words.append(label)
        if node.macs and len(words) > len(node.macs):
            lines.append(",".join(words))
    return "\n".join([*lines, ""])


def _full(config: Config, paths: Paths) -> list[str]:
    first, _, last = (part.strip() for part in config.dhcp.range.partition("-"))
    return [
        f"dhcp-range={first},{last},{config.dhcp.lease}",
        f"dhcp-leasefile={_path(leases_path(paths))}",
        f"dhcp-hostsfile={_path(hosts_path(paths))}",
        "dhcp-lease-max=65536",
        "dhcp-authoritative",
        # Firmware, iPXE and Linux give different client identifiers: go by MAC, or one machine takes three addresses.
        "dhcp-ignore-clid",
        # Asking first whether an address is in use takes 3 s for each machine, one after the other.
        "no-ping",
        # Without a value: send none, where dnsmasq would name itself.
        f"dhcp-option=option:router{',' if config.dhcp.router else ''}{config.dhcp.router}",
        f"dhcp-option=option:dns-server{',' if config.dhcp.dns else ''}{config.dhcp.dns}",
    ]


def _proxy(address: str, paths: Paths) -> list[str]:
    lines = [
        f"dhcp-range={address},proxy",
        # It gives no leases and opens a file for them all the same: not the one of the system's own dnsmasq.
        f"dhcp-leasefile={_path(leases_path(paths))}",
        # Answer firmware that boots by HTTP as well, in its own vendor class.
        "dhcp-pxe-vendor=PXEClient,HTTPClient",
    ]
    for code, loader in TFTP_ARCHITECTURES:
        lines.append(f'pxe-service=tag:!ipxe,{code},"Rookery",{loader.name},{address}')
    return lines


def hosts_path(paths: Paths) -> Path:
    """Fixed addresses, read again by dnsmasq on SIGHUP."""
    return paths.dnsmasq / "hosts"


def leases_path(paths: Paths) -> Path:
    """dnsmasq's leases: a line each of expiry (seconds since 1970), MAC, address, name, client identifier."""
    return paths.dnsmasq / "leases"


def conf_path(paths: Paths) -> Path:
    """The generated configuration; its presence in a command line tells our dnsmasq from others."""
    return paths.dnsmasq / "dnsmasq.conf"


def pid_path(paths: Paths) -> Path:
    """The process id of our dnsmasq."""
    return paths.dnsmasq / "pid"


def _path(path: Path) -> str:
    if not _PLAIN_PATH.fullmatch(str(path)):
        raise RookeryError(
            f"{path} cannot stand in dnsmasq's configuration",
            kind=ErrorKind.INVALID,
            hint="use a directory whose path is absolute and has letters, digits and . _ + @ % / - only",
        )
    return str(path)


def account_for(*directories: Path) -> str:
    """The user dnsmasq should run as: an unprivileged one that can enter `directories`, else the present one."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    for name in ("dnsmasq", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if all(_may_enter(place, user) for directory in directories for place in (directory, *directory.parents)):
            return name
    log.warning("dnsmasq keeps running as root: no other user may enter %s", directories[0].parent)
    return "root"


def _may_enter(directory: Path, user: pwd.struct_passwd) -> bool:
    state = directory.stat()
    shift = 6 if state.st_uid == user.pw_uid else 3 if state.st_gid == user.pw_gid else 0
    return bool(state.st_mode >> shift & 1)


def explain(lines: Iterable[str], interface: str) -> RookeryError:
    """The error that dnsmasq's last lines tell of."""
    details = "\n".join(lines)
    if found := re.search(r"failed to (?:bind|create|set)[^\n]*Address already in use", details):
        # DNS is off, so any other socket is TFTP's.
        port = "67 (DHCP)" if "DHCP" in found[0] else "4011 (PXE)" if "PXE" in found[0] else "69 (TFTP)"
        return RookeryError(
            f"UDP port {port} on {interface} is in use by another program",
            kind=ErrorKind.CONFLICT,
            details=details,
            hint="run 'rookery doctor' to see by which; stop that one, or choose dhcp.mode 'proxy' or 'off'",
        )
    if "unknown interface" in details:
        return RookeryError(
            f"there is no network interface {interface}",
            kind=ErrorKind.NOT_FOUND,
            details=details,
            hint="'ip -brief address' lists them; set network.interface in rookery.toml",
        )
    if re.search(r"missing required capability|Permission denied|Operation not permitted|setres[ug]id failed", details):
        return RookeryError(
            "not allowed to answer DHCP and TFTP",
            kind=ErrorKind.FORBIDDEN,
            details=details,
            hint="run 'rookery serve' as root, or with the capabilities of its systemd unit",
        )
    return RookeryError(
        "dnsmasq ended", kind=ErrorKind.FAILED, details=details, hint="run 'rookery doctor' to see what is wrong"
    )


class Dnsmasq:
    """dnsmasq as a child that is started again, with growing pauses, whenever it ends by itself.

    It cannot outlive the head: the kernel ends it with us, and what an older head may have left is ended at start.
    on_event gets a sentence when it ends and when it is back (called from the watching thread).
    """

    def __init__(
        self, config: Config, paths: Paths, address: str, on_event: Callable[[str], None] = lambda _sentence: None
    ) -> None:
        self._config, self._paths, self._address, self._on_event = config, paths, address, on_event
        self._stopping = threading.Event()
        self._settled = threading.Event()  # the first start has succeeded or failed
        self._lock = threading.Lock()
        self._child: run.Child | None = None
        self._thread: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=run.KEPT_LINES)
        self._error: RookeryError | None = None
        self._ready = False

    @property
    def running(self) -> bool:
        """Whether it answers now."""
        return self._ready

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        with self._lock:
            return self._child.pid if self._child is not None and self._ready else None

    @property
    def error(self) -> ErrorRecord | None:
        """Why it is not running, or None while it runs."""
        return self._error.record if self._error is not None and not self._ready else None

    def start(self, nodes: Iterable[Node] = ()) -> None:
        """Write the configuration, install the boot loaders, start dnsmasq and wait until it listens.

        Does nothing when the configuration needs no dnsmasq. Raises RookeryError: `missing` (program or boot loaders),
        `conflict` (port in use), `not-found` (interface), `forbidden`, `failed`.
        """
        if not needed(self._config):
            return
        program = run.which("dnsmasq")
        if program is None:
            raise RookeryError("the program dnsmasq is not installed", kind=ErrorKind.MISSING, hint=PACKAGE_HINT)
        loaders.install(self._paths)
        self._paths.dnsmasq.mkdir(parents=True, exist_ok=True)
        self._paths.dnsmasq.chmod(0o755)
        end_stale(self._paths)
        account = account_for(self._paths.dnsmasq, loaders.tftp_root(self._paths))
        text = render(self._config, self._address, self._paths, account)
        files.write_atomic(conf_path(self._paths), text.encode())
        self._write_hosts(nodes)
        leases_path(self._paths).touch(mode=0o644)
        if os.geteuid() == 0:
            shutil.chown(leases_path(self._paths), account)
        self._stopping.clear()
        self._settled.clear()
        argv = _command(program, account, conf_path(self._paths))
        self._thread = threading.Thread(target=self._watch, args=(argv,), name="dnsmasq", daemon=True)
        self._thread.start()
        settled = self._settled.wait(READY_SECONDS)
        if not self._ready:
            error = self._error if settled else None
            self.stop()
            raise error or explain([*self._lines, "no sign of life"], self._config.network.interface)

    def reload(self, nodes: Iterable[Node]) -> None:
        """Give dnsmasq the nodes' names and fixed addresses as they are now. Leases and transfers go on."""
        if not needed(self._config):
            return
        self._write_hosts(nodes)
        with self._lock:
            if self._child is not None and self._child.poll() is None and self._ready:
                self._child.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End dnsmasq for good; harmless when it does not run."""
        self._stopping.set()
        with self._lock:
            if self._child is not None:
                run.end(self._child)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write_hosts(self, nodes: Iterable[Node]) -> None:
        files.write_atomic(hosts_path(self._paths), hosts_file(nodes).encode())

    def _watch(self, argv: list[str]) -> None:
        """Start, listen to what it says, and start again; one thread for as long as we want it to run, because the
        kernel's word that the parent died goes by the thread that started the child."""
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._run_once(argv)
            except RookeryError as error:
                self._error = error
            else:
                self._error = explain(self._lines, self._config.network.interface)
            first_start_failed = not self._settled.is_set()
            was_ready, self._ready = self._ready, False
            self._settled.set()
            if first_start_failed or self._stopping.is_set():
                break
            if was_ready:
                log.error("%s\n%s", self._error.record.message, self._error.record.details)
                self._on_event(f"{self._error.record.message}; starting dnsmasq again")
            if time.monotonic() - began > LONGEST_DELAY:
                delay = FIRST_DELAY
            self._stopping.wait(delay)
            delay = min(delay * 2, LONGEST_DELAY)
        pid_path(self._paths).unlink(missing_ok=True)

    def _run_once(self, argv: list[str]) -> None:
        self._lines.clear()
        with self._lock:
            if self._stopping.is_set():
                return
            child = self._child = run.start(argv, stderr=run.PIPE)
            files.write_atomic(pid_path(self._paths), f"{child.pid}\n".encode())
        assert child.stderr is not None
        with child.stderr:
            for raw in child.stderr:
                line = raw.decode(errors="replace").strip()
                self._lines.append(line)
                trouble = re.search(_TROUBLE, line)
                log.log(30 if trouble else 10, "%s", line)
                if not self._ready and "started, version" in line:
                    self._ready = True
                    if self._settled.is_set():
                        self._on_event("dnsmasq runs again")
                    self._settled.set()
        child.wait()


def _command(program: Path, account: str, conf: Path) -> list[str]:
    own = [str(program), "--keep-in-foreground", f"--conf-file={conf}"]
    setpriv = run.which("setpriv")
    if setpriv is None:
        return own
    words = [str(setpriv), "--pdeathsig=TERM"]
    if os.geteuid() == 0 and account != "root":
        # dnsmasq could give up root by itself, but a change of user cancels the parent-death signal.
        user = pwd.getpwnam(account)
        words += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
        words += [f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}"]
    return [*words, *own]


def end_stale(paths: Paths) -> None:
    """End the dnsmasq that an earlier head of this directory left, if it is still there and is really that one."""
    try:
        pid = int(pid_path(paths).read_text())
    except (FileNotFoundError, ValueError):
        return
    for number, wait in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0)):
        if not is_ours(pid, paths):
            break
        log.warning("ending dnsmasq (pid %d) that an earlier head left", pid)
        os.kill(pid, number)
        until = time.monotonic() + wait
        while is_ours(pid, paths) and time.monotonic() < until:
            time.sleep(0.05)
    pid_path(paths).unlink(missing_ok=True)


def is_ours(pid: int, paths: Paths) -> bool:
    """Whether process `pid` runs with this head's dnsmasq configuration."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"--conf-file={conf_path(paths)}".encode() in words
