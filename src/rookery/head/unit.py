# SPDX-License-Identifier: Apache-2.0
"""The head as a systemd service: its unit, and telling systemd that it is ready (sd_notify(3))."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.run import run, which

NAME = "rookery"
DIRECTORY = Path("/etc/systemd/system")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_.+@/-]*")

_UNIT = """\
# Written by 'rookery serve --install-unit'; change it with 'systemctl edit {name}'.
[Unit]
Description=Rookery head ({directory})
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart={python} -m rookery.cli serve --dir {directory}
Restart=on-failure
RestartSec=2
TimeoutStopSec=30
LimitNOFILE=65536

# Building images needs root, mounts and other namespaces, so those stay; the rest of the host is read-only or hidden.
ProtectSystem=full
ReadWritePaths={directory}
PrivateTmp=yes
ProtectClock=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
SystemCallArchitectures=native
UMask=0027

[Install]
WantedBy=multi-user.target
"""


def text(directory: Path, python: Path | None = None) -> str:
    """The unit of the head in `directory` (absolute). Raises RookeryError `invalid` for a path that a unit would not
    take as it is."""
    interpreter = python or Path(sys.executable)
    for path in (directory, interpreter):
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise RookeryError(
                f"{path} cannot stand in a systemd unit",
                kind=ErrorKind.INVALID,
                hint="use an absolute path of letters, digits and . _ + @ / -",
            )
    return _UNIT.format(name=NAME, directory=directory, python=interpreter)


def install(directory: Path, units: Path = DIRECTORY) -> Path:
    """Write the unit, let systemd read it where systemd runs, and return its path."""
    whole = text(directory)
    if not units.is_dir():
        raise RookeryError(
            f"there is no {units}: is this a host with systemd?",
            kind=ErrorKind.MISSING,
            hint="print the unit with 'rookery serve --print-unit'",
        )
    path = units / f"{NAME}.service"
    try:
        files.write_atomic(path, whole.encode())
    except PermissionError:
        raise RookeryError(f"not allowed to write {path}", kind=ErrorKind.FORBIDDEN, hint="run this as root") from None
    if Path("/run/systemd/system").is_dir() and which("systemctl"):
        run(["systemctl", "daemon-reload"])
    return path


def notify(state: str) -> None:
    """Tell systemd `state` (`READY=1`, `STOPPING=1`); does nothing where nobody asked to be told."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.connect(f"\0{where[1:]}" if where.startswith("@") else where)
        wire.sendall(state.encode())
