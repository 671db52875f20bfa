# SPDX-License-Identifier: Apache-2.0
"""What a machine gets when it asks over HTTP what to boot: iPXE scripts, made by pure functions.

`start` is the one fixed script that DHCP leads to. It asks for the script of exactly this machine (`answer`), and asks
again whenever that one comes back: because there is nothing to boot yet, or because something failed. So no script ever
ends at a prompt, and a machine boots by itself as soon as the head has something for it.
Source of the commands: https://ipxe.org/cmd and https://ipxe.org/scripting.
"""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.catalog.rows import Node
from rookery.wire import routes
from rookery.wire.facts import normalize_mac
from rookery.wire.manifest import require_sha256

MAX_VALUE = 256  # characters of one query parameter
MAX_CARDS = 16
MAX_COMMAND_LINE = 2047  # COMMAND_LINE_SIZE of x86 and arm64 kernels, less the final zero
KNOWN_PARAMETERS = ("mac", "uuid", "arch", "firmware")
# iPXE never renews its DHCP lease by itself, so the start script does after this many rounds of waiting.
ROUNDS_PER_LEASE = 20
RETRY_SECONDS = 10

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEAD = re.compile(r"http://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,256}")
# What an iPXE line passes on unchanged: no white space but single blanks, no quotes, backslashes, '$' (settings), '|',
# '&', ';' (command separators) and no '#'.
_ARGUMENT = re.compile(r"[A-Za-z0-9._,:=/@%+~*!?^()\[\]{}<>-]+")
_SHOWN = re.compile(r"[^A-Za-z0-9._,:=/@%+~*!?()\[\]<> '-]")


class Firmware(StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"


_PLATFORMS = {"pcbios": Firmware.BIOS, "bios": Firmware.BIOS, "efi": Firmware.UEFI, "uefi": Firmware.UEFI}
# ${buildarch} of iPXE is what iPXE was compiled for. undionly.kpxe is i386 on every BIOS machine, so it says nothing
# there: such a machine counts as x86_64, as every server of the last twenty years is.
_ARCHITECTURES = {
    ("i386", Firmware.BIOS): "x86_64",
    ("x86_64", Firmware.BIOS): "x86_64",
    ("x86_64", Firmware.UEFI): "x86_64",
    ("arm64", Firmware.UEFI): "aarch64",
    ("aarch64", Firmware.UEFI): "aarch64",
}


@dataclass(frozen=True)
class BootRequest:
    """A machine that asks what to boot.

    macs: `aa:bb:cc:dd:ee:ff`, the card it boots from first, none twice. uuid: SMBIOS system UUID in lower case, or None
    when the firmware has none worth the name. architecture: as in `uname -m`. address: IPv4 address that it asks from,
    or empty.
    """

    macs: tuple[str, ...]
    uuid: str | None
    architecture: str
    firmware: Firmware
    address: str = ""


@dataclass(frozen=True)
class BootFiles:
    """What an assigned machine boots.

    head: base URL of the head (`http://10.0.0.1:8470`). kernel, drivers, agent: SHA-256 of the files (64 hex digits).
    token: the node's one-time boot token. kernel_arguments: of the configuration and of the node, blanks between.
    image: `name:tag` and version: its id, both only shown. architecture: of the image, or empty where nobody knows.
    """

    head: str
    kernel: str
    drivers: str
    agent: str
    token: str
    kernel_arguments: str = ""
    image: str = ""
    version: str = ""
    architecture: str = ""


def parse_request(parameters: Iterable[tuple[str, str]], address: str = "") -> BootRequest:
    """The request in the query parameters of routes.SCRIPT; `mac` may come several times, empty ones do not count.

    Raises RookeryError `invalid` that names the parameter.
    """
    found: dict[str, list[str]] = {name: [] for name in KNOWN_PARAMETERS}
    for name, value in parameters:
        if name not in found:
            known = ", ".join(KNOWN_PARAMETERS)
            raise _invalid(f"unknown boot parameter {name[:40]!r}; known are {known}")
        if len(value) > MAX_VALUE:
            raise _invalid(f"boot parameter {name} is longer than {MAX_VALUE} characters")
        if value.strip():
            found[name].append(value.strip())
    firmware = _firmware(_one(found, "firmware"))
    return BootRequest(
        macs=_macs(found["mac"]),
        uuid=_uuid(found["uuid"]),
        architecture=_architecture(_one(found, "arch"), firmware),
        firmware=firmware,
        address=_address(address),
    )


def require_kernel_arguments(text: str) -> str:
    """`text` with single blanks between the arguments; RookeryError `invalid` when a boot script cannot carry it."""
    for argument in text.split():
        if not _ARGUMENT.fullmatch(argument):
            wrong = next(character for character in argument if not _ARGUMENT.fullmatch(character))
            raise RookeryError(
                f"kernel argument {argument[:80]!r}: the character {wrong!r} cannot go through a boot script",
                kind=ErrorKind.INVALID,
                hint="leave out quotes, backslashes and the characters $ | & ; #",
            )
    arguments = " ".join(text.split())
    if len(arguments) > MAX_COMMAND_LINE:
        raise _invalid(f"kernel arguments are longer than {MAX_COMMAND_LINE} characters")
    return arguments


def start(head: str, rounds_per_lease: int = ROUNDS_PER_LEASE) -> str:
    """The fixed script at routes.START: asks `head` (base URL) for this machine's own script, for ever."""
    macs = "&".join(f"mac=${{{card}/mac:hexhyp}}" for card in ("netX", "net0", "net1", "net2", "net3"))
    query = f"{macs}&uuid=${{uuid}}&arch=${{buildarch}}&firmware=${{platform}}"
    return _script(
        "set waits:int32 0",
        ":ask",
        f"chain --autofree {_head(head)}{routes.SCRIPT}?{query} || goto unanswered",
        "goto answered",
        ":unanswered",
        f"echo Rookery: no good answer from {head}; asking again in {RETRY_SECONDS} s",
        f"sleep {RETRY_SECONDS}",
        ":answered",
        "inc waits",
        f"iseq ${{waits}} {rounds_per_lease} || goto ask",
        "set waits:int32 0",
        "echo Rookery: renewing the address",
        "dhcp ||",
        "goto ask",
    )


def answer(request: BootRequest, node: Node | None, what: BootFiles | None) -> str:
    """The script for one machine.

    node: whose machine it is, None when nobody knows it. what: the files to boot, None when there are none.
    Raises RookeryError `invalid` when the node's arguments cannot go into a script; `refusal` makes one that says so.
    """
    mac = request.macs[0]
    if node is None:
        return _wait(
            mac,
            f"this machine ({mac}) is not known",
            f"name it on the head with: rookery node add NAME --mac {mac}",
        )
    if node.image is None:
        return _wait(
            mac,
            f"this machine is {node.name} ({mac}) and waits for an image",
            f"assign one on the head with: rookery deploy {node.name} --image IMAGE",
        )
    if what is None:
        return _wait(
            mac,
            f"this machine is {node.name} ({mac}) and waits for its image {node.image}",
            "see on the head: rookery image list",
        )
    if what.architecture and what.architecture != request.architecture:
        return _wait(
            mac,
            f"{node.name} ({mac}) is {request.architecture}, but its image {node.image} is for {what.architecture}",
            f"assign another on the head with: rookery deploy {node.name} --image IMAGE",
        )
    return _boot(request, node, what)


def refusal(error: ErrorRecord, mac: str = "") -> str:
    """The script that shows an error on the machine's screen and lets it ask again."""
    return _wait(mac, error.message, error.hint or "see the head's log")


def command_line(request: BootRequest, what: BootFiles) -> str:
    """The kernel command line. BOOTIF names the card that the machine booted from, as PXELINUX writes it."""
    # A kernel started through its EFI stub finds its initial file systems by name, one `initrd=` each, concatenated in
    # this order (older iPXE has no other way; newer iPXE hands them over as one, and a newer kernel prefers that).
    names = "initrd=drivers initrd=agent " if request.firmware is Firmware.UEFI else ""
    own = f"{names}rookery.head={_head(what.head)} rookery.token={_token(what.token)}"
    own = f"{own} BOOTIF=01-{request.macs[0].replace(':', '-')}"
    whole = f"{own} {require_kernel_arguments(what.kernel_arguments)}".rstrip()
    if len(whole) > MAX_COMMAND_LINE:
        raise _invalid(f"the kernel command line would be {len(whole)} characters, of {MAX_COMMAND_LINE} possible")
    return whole


def _boot(request: BootRequest, node: Node, what: BootFiles) -> str:
    line = command_line(request, what)
    fetches = []
    for verb, name, route, digest in (
        ("kernel", "kernel", routes.KERNEL, what.kernel),
        ("initrd", "drivers", routes.DRIVERS, what.drivers),
        ("initrd", "agent", routes.AGENT, what.agent),
    ):
        url = f"{_head(what.head)}{route}/{require_sha256(digest, name)}"
        fetches += [f"set doing fetching the {name}", f"{verb} --name {name} {url} || goto failed"]
    image = what.image or node.image or ""
    version = f" (version {what.version[:12]})" if what.version else ""
    return _script(
        f"echo {_shown(f'Rookery: {node.name} boots {image}{version}')}",
        # Anything left from an earlier attempt would be handed to the kernel as a further initrd.
        "imgfree",
        *fetches,
        "set doing starting the kernel",
        f"imgargs kernel {line} || goto failed",
        "boot kernel ||",
        ":failed",
        f"echo Rookery: ${{doing}} failed; asking again in {_spread(request.macs[0])} s",
        "imgfree",
        f"sleep {_spread(request.macs[0])}",
        # It has waited already: START asks again at once.
        "exit 0",
    )


def _wait(mac: str, *lines: str) -> str:
    seconds = _spread(mac)
    return _script(
        *(f"echo {_shown(f'Rookery: {line}')}" for line in lines),
        f"echo Rookery: asking again in {seconds} s",
        f"sleep {seconds}",
        "exit 0",
    )


def _script(*lines: str) -> str:
    return "\n".join(["#!ipxe", *lines, ""])


def _spread(mac: str) -> int:
    """Seconds to wait, RETRY_SECONDS give or take 3: the same for a machine, spread over machines, so that a room that
    was switched on at once does not go on asking at once."""
    return RETRY_SECONDS - 3 + zlib.crc32(mac.encode()) % 7


def _shown(text: str) -> str:
    """`text` as one line that iPXE prints and does not interpret."""
    return _SHOWN.sub("?", " ".join(text.split()))[:200]


def _head(url: str) -> str:
    if not _HEAD.fullmatch(url):
        raise ValueError(f"head URL {url[:80]!r}: expected http://HOST:PORT")
    return url


def _token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ValueError("a boot token is 8 to 256 letters, digits and . _ ~ -")
    return token


def _invalid(message: str) -> RookeryError:
    return RookeryError(message, kind=ErrorKind.INVALID)


def _one(found: dict[str, list[str]], name: str) -> str:
    values = found[name]
    if len(values) != 1:
        raise _invalid(f"boot parameter {name}: expected exactly one, got {len(values)}")
    return values[0]


def _firmware(value: str) -> Firmware:
    if value not in _PLATFORMS:
        raise _invalid(f"boot parameter firmware: expected one of {', '.join(_PLATFORMS)}, got {value[:40]!r}")
    return _PLATFORMS[value]


def _architecture(value: str, firmware: Firmware) -> str:
    if (value, firmware) not in _ARCHITECTURES:
        raise _invalid(
            f"no image can boot on {value[:40]!r} with {firmware}: supported are x86_64 (both) and arm64 (uefi)"
        )
    return _ARCHITECTURES[value, firmware]


def _macs(values: list[str]) -> tuple[str, ...]:
    if not values:
        raise _invalid("boot parameter mac is missing")
    if len(values) > MAX_CARDS:
        raise _invalid(f"boot parameter mac: at most {MAX_CARDS}, got {len(values)}")
    try:
        return tuple(dict.fromkeys(normalize_mac(value) for value in values))
    except ValueError as error:
        raise _invalid(f"boot parameter mac: {error}") from error


def _uuid(values: list[str]) -> str | None:
    if len(values) > 1:
        raise _invalid(f"boot parameter uuid: expected one at most, got {len(values)}")
    if not values:
        return None
    value = values[0].lower()
    if not _UUID.fullmatch(value):
        raise _invalid(f"boot parameter uuid: {value[:40]!r} is not a UUID")
    # Boards whose maker never wrote one have all zeros or all ones there.
    return None if set(value) <= {"0", "-"} or set(value) <= {"f", "-"} else value


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value)) if value else ""
    except ValueError as error:
        raise _invalid(f"{value[:40]!r} is not an IP address") from error
