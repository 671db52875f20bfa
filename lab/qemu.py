# SPDX-License-Identifier: Apache-2.0
"""Machines in QEMU: real firmware, a network card on a bridge, a serial console in a file."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rookery import run
from rookery.errors import ErrorKind, RookeryError

Accelerator = Literal["kvm", "tcg"]
QEMU = "qemu-system-x86_64"
PROBE_SECONDS = 10.0
# A boot sector: waits for three timer interrupts, writes K to the serial port and leaves by the debug exit device:
#   sti; hlt; hlt; hlt; mov dx,0x3f8; mov al,'K'; out dx,al; mov dx,0xf4; mov al,0x15; out dx,al; cli; hlt; jmp -3
_PROBE_SECTOR = bytes.fromhex("fbf4f4f4baf803b04beebaf400b015eefaf4ebfd").ljust(510, b"\0") + b"\x55\xaa"
_PROBE_EXIT = 0x15 << 1 | 1
# Debian and Ubuntu (package ovmf); Fedora and Rocky (package edk2-ovmf).
_UEFI_FILES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00\x07\x08]")
_SHOWN_LINES = 15


@dataclass(frozen=True)
class Machine:
    """A machine to be started.

    directory: where its console (`NAME.console`) and other files go. memory: MiB. namespace: network namespace that
    QEMU runs in, empty for the present one. bridge: bridge there for its card, on a tap of its own; or tap: a
    device that is there already (`Room.tap`); without either it has no card.
    kernel, initrds, command_line: started directly, without firmware looking for something to boot.
    qmp: whether QEMU listens for commands.
    """

    name: str
    mac: str
    directory: Path
    memory: int = 1024
    processors: int = 1
    firmware: Literal["bios", "uefi"] = "bios"
    namespace: str = ""
    bridge: str = ""
    tap: str = ""
    kernel: Path | None = None
    initrds: tuple[Path, ...] = ()
    command_line: str = ""
    qmp: bool = False

    @property
    def console(self) -> Path:
        """What its serial console printed."""
        return self.directory / f"{self.name}.console"

    @property
    def device(self) -> str:
        """Its tap device: the given one, or `rk` and the last four bytes of its MAC, or empty."""
        own = f"rk{self.mac.replace(':', '')[4:].lower()}" if self.bridge else ""
        return self.tap or own

    @property
    def variables(self) -> Path:
        """Its own copy of the UEFI variables."""
        return self.directory / f"{self.name}.vars"

    @property
    def initrd(self) -> Path:
        """Its initial file systems, one after the other in one file, as QEMU wants them."""
        return self.directory / f"{self.name}.initrd"

    @property
    def qmp_socket(self) -> Path:
        """Where QEMU listens for commands."""
        return self.directory / f"{self.name}.qmp"


def uefi_files() -> tuple[Path, Path]:
    """The UEFI firmware's code and its variables to copy. Raises RookeryError `missing`."""
    for code, variables in _UEFI_FILES:
        if Path(code).is_file() and Path(variables).is_file():
            return Path(code), Path(variables)
    raise RookeryError(
        "no UEFI firmware for QEMU on this host",
        kind=ErrorKind.MISSING,
        hint="install the package ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, Rocky)",
    )


def command(machine: Machine, accelerate: Accelerator) -> list[str]:
    """The command line that runs `machine`."""
    words = ["ip", "netns", "exec", machine.namespace] if machine.namespace else []
    words += [QEMU, "-name", machine.name, "-nodefaults", "-no-user-config", "-display", "none"]
    # graphics=off makes SeaBIOS, and iPXE through it, write to the serial port.
    words += ["-machine", "q35,graphics=off", *_processor(accelerate)]
    words += ["-m", str(machine.memory), "-smp", str(machine.processors)]
    words += ["-serial", f"file:{machine.console}", "-device", "virtio-rng-pci"]
    # Names a machine as SMBIOS would: the same one at every start.
    words += ["-uuid", f"00000000-0000-4000-8000-{machine.mac.replace(':', '').lower()}"]
    if machine.firmware == "uefi":
        code, _ = uefi_files()
        words += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
        words += ["-drive", f"if=pflash,format=raw,unit=1,file={machine.variables}"]
    if machine.device:
        words += ["-netdev", f"tap,id=net0,ifname={machine.device},script=no,downscript=no"]
        # A UEFI machine boots with its firmware's own network stack: without the card's ROM, which is iPXE already.
        rom = ",romfile=" if machine.firmware == "uefi" else ""
        words += ["-device", f"virtio-net-pci,netdev=net0,mac={machine.mac},bootindex=1{rom}"]
    if machine.kernel is not None:
        words += ["-kernel", str(machine.kernel), "-append", machine.command_line]
        if machine.initrds:
            words += ["-initrd", str(machine.initrd)]
    if machine.qmp:
        words += ["-qmp", f"unix:{machine.qmp_socket},server=on,wait=off"]
    return words


def _processor(accelerate: Accelerator) -> list[str]:
    # Emulated, a plain processor is the fast one: with AVX2 ("max") systemd took 40 s instead of 18 to come up, and a
    # SHA-256 twice as long, because programs choose instructions that are slow to emulate.
    return ["-accel", accelerate, "-cpu", "host" if accelerate == "kvm" else "qemu64,+rdrand"]


class Guest:
    """A machine that was started."""

    def __init__(self, machine: Machine, process: run.Child, errors: Path) -> None:
        self.machine = machine
        self._process = process
        self._errors = errors

    @property
    def running(self) -> bool:
        """Whether QEMU still runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    def text(self) -> str:
        """What the console printed so far, without terminal escapes."""
        try:
            raw = self.machine.console.read_bytes()
        except FileNotFoundError:
            return ""
        return _ESCAPES.sub("", raw.decode(errors="replace")).replace("\r\n", "\n").replace("\r", "\n")

    def wait_for(self, pattern: str, seconds: float) -> str:
        """The first console line in which the regular expression `pattern` is found.

        Raises RookeryError with the console's last lines when it does not come within `seconds`, or QEMU ends first.
        """
        wanted, until = re.compile(pattern), time.monotonic() + seconds
        while True:
            ended = not self.running  # before reading: what it printed last counts
            for line in self.text().splitlines():
                if wanted.search(line):
                    return line
            if ended or time.monotonic() > until:
                why = "ended" if ended else f"did not print it within {seconds:g} s"
                raise RookeryError(
                    f"{self.machine.name}: waited for {pattern!r} on the console, and it {why}",
                    details="\n".join([*self.text().splitlines()[-_SHOWN_LINES:], *self.complaints()]),
                    hint=f"read {self.machine.console}",
                )
            time.sleep(0.2)

    def wait_ended(self, seconds: float) -> int:
        """QEMU's exit code once it has ended by itself. Raises RookeryError when it has not within `seconds`."""
        until = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > until:
                raise RookeryError(f"{self.machine.name} still runs after {seconds:g} s")
            time.sleep(0.1)
        return self._process.wait()

    def complaints(self) -> list[str]:
        """What QEMU itself printed."""
        return self._errors.read_text(errors="replace").splitlines()[-_SHOWN_LINES:] if self._errors.exists() else []

    def qmp(self, execute: str, **arguments: object) -> Any:
        """Send one command of the QEMU Machine Protocol and return what it gives back."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(self.machine.qmp_socket))
            with link.makefile("rw") as lines:
                lines.readline()  # the greeting
                _qmp_call(lines, "qmp_capabilities", {})
                return _qmp_call(lines, execute, arguments)

    def stop(self) -> None:
        """Switch it off at once."""
        run.end(self._process, grace=2.0)


def _qmp_call(lines: Any, execute: str, arguments: dict[str, object]) -> Any:
    lines.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
    lines.flush()
    while line := lines.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise RookeryError(f"QEMU refused {execute}: {answer['error']['desc']}")
        if "return" in answer:
            return answer["return"]
    raise RookeryError(f"QEMU closed the connection on {execute}", kind=ErrorKind.UNAVAILABLE)


@contextlib.contextmanager
def boot(machine: Machine, accelerate: Accelerator | None = None) -> Iterator[Guest]:
    """Start `machine`; on leaving the block, however that happens, it and its tap device are gone.

    accelerate: None for the best that this host really has. The console's file stays.
    """
    chosen = accelerate or accelerator()
    machine.directory.mkdir(parents=True, exist_ok=True)
    for path in (machine.console, machine.qmp_socket):
        path.unlink(missing_ok=True)
    if machine.firmware == "uefi":
        shutil.copyfile(uefi_files()[1], machine.variables)
    if machine.initrds:
        _concatenate(machine.initrds, machine.initrd)
    errors = machine.directory / f"{machine.name}.qemu"
    with _tap(machine), errors.open("wb") as sink:
        process = run.start(command(machine, chosen), stdout=sink, stderr=sink)
        try:
            yield Guest(machine, process, errors)
        finally:
            run.end(process, grace=2.0)


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for part in parts:
            out.write(part.read_bytes())
            out.write(b"\0" * (-out.tell() % 4))  # the kernel looks for each archive on a multiple of 4 bytes


@contextlib.contextmanager
def _tap(machine: Machine) -> Iterator[None]:
    if machine.tap or not machine.bridge:
        yield
        return
    ip = ["ip", "-n", machine.namespace] if machine.namespace else ["ip"]
    run.run([*ip, "tuntap", "add", "dev", machine.device, "mode", "tap"])
    try:
        run.run([*ip, "link", "set", machine.device, "master", machine.bridge, "up"])
        yield
    finally:
        run.run([*ip, "link", "delete", machine.device], check=False)


@functools.cache
def accelerator() -> Accelerator:
    """`kvm` when a guest really runs with it, else `tcg` (software emulation); asked once.

    A /dev/kvm that is there proves nothing: in some nested set-ups guests die or hang.
    """
    return "kvm" if Path("/dev/kvm").exists() and guest_runs("kvm") else "tcg"


def guest_runs(kind: Accelerator, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a tiny guest boots, gets interrupts and ends by itself within `seconds`."""
    if run.which(QEMU) is None:
        raise RookeryError(
            f"the program {QEMU} is not installed",
            kind=ErrorKind.MISSING,
            hint="install the package qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Fedora, Rocky)",
        )
    with tempfile.TemporaryDirectory(prefix="rookery-probe.") as name:
        sector, console = Path(name) / "sector", Path(name) / "console"
        sector.write_bytes(_PROBE_SECTOR)
        words = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", *_processor(kind)]
        words += ["-m", "64", "-serial", f"file:{console}", "-drive", f"file={sector},format=raw,if=ide", "-no-reboot"]
        words += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        try:
            done = run.run(words, check=False, timeout=seconds)
        except run.RunError:
            return False
        return done.code == _PROBE_EXIT and console.read_bytes() == b"K"
