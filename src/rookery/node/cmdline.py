# SPDX-License-Identifier: Apache-2.0
"""The kernel command line: what the head tells the agent before any other word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.wire.facts import normalize_mac

KERNEL = Path("/proc/cmdline")


@dataclass(frozen=True)
class CommandLine:
    """What concerns the agent. head: base URL. token: one-time boot token. orders: a file in the first root that holds
    the orders, instead of a head that gives them. boot_mac: the card that the firmware booted from (`BOOTIF`, as
    PXELINUX and iPXE write it), or empty. shell: open a shell on the console when a step fails."""

    head: str = ""
    token: str = ""
    orders: str = ""
    boot_mac: str = ""
    shell: bool = False


def parse(text: str) -> CommandLine:
    """The command line as in /proc/cmdline; words that are not ours are passed over, the last of a kind counts.

    Raises RookeryError `invalid` for a word of ours that is unknown (a misspelt one must not be silent), and when
    neither a head nor orders are named.
    """
    found: dict[str, str] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name.startswith("rookery."):
            if name not in _OURS:
                raise RookeryError(
                    f"unknown kernel argument {word[:80]!r}",
                    kind=ErrorKind.INVALID,
                    hint=f"known are {', '.join(sorted(_OURS))}",
                )
            found[_OURS[name]] = value
        elif name == "BOOTIF":
            found["boot_mac"] = _boot_mac(value)
    line = CommandLine(
        head=found.get("head", "").rstrip("/"),
        token=found.get("token", ""),
        orders=found.get("orders", ""),
        boot_mac=found.get("boot_mac", ""),
        shell="shell" in found,
    )
    if not line.orders and not (line.head and line.token):
        raise RookeryError(
            "the kernel command line names no head to ask",
            kind=ErrorKind.INVALID,
            details=text.strip(),
            hint="boot with rookery.head=http://ADDRESS:PORT and rookery.token=TOKEN",
        )
    if line.head and not line.head.startswith("http://"):
        raise RookeryError(
            f"rookery.head={line.head} is not an http URL",
            kind=ErrorKind.INVALID,
            hint="boot with rookery.head=http://ADDRESS:PORT",
        )
    return line


_OURS = {"rookery.head": "head", "rookery.token": "token", "rookery.orders": "orders", "rookery.shell": "shell"}


def _boot_mac(value: str) -> str:
    # "01-" is ARP's hardware type of Ethernet. A wrong value only loses a preference.
    try:
        return normalize_mac(value[3:] if value.count("-") == 6 else value)
    except ValueError:
        return ""
