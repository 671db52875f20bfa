# SPDX-License-Identifier: Apache-2.0
"""The scripts are compared with files in scripts/; write them anew with ROOKERY_WRITE_SNAPSHOTS=1 and read the diff."""

import dataclasses
import os
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.boot.answer import (
    MAX_CARDS,
    RETRY_SECONDS,
    BootFiles,
    BootRequest,
    Firmware,
    answer,
    command_line,
    parse_request,
    refusal,
    require_kernel_arguments,
    start,
)
from rookery.head.catalog.rows import Node

SCRIPTS = Path(__file__).parent / "scripts"
HEAD = "http://10.0.0.1:8470"
MAC = "52:54:00:12:34:56"
UUID = "0f6a1c2e-1111-2222-3333-444455556666"
BIOS = BootRequest((MAC,), UUID, "x86_64", Firmware.BIOS, "10.0.0.100")
UEFI = BootRequest((MAC, "52:54:00:12:34:57"), None, "x86_64", Firmware.UEFI, "10.0.0.100")
NODE = Node("n01", (MAC,), image="base:latest")
FILES = BootFiles(
    head=HEAD,
    kernel="1" * 64,
    drivers="2" * 64,
    agent="3" * 64,
    token="token-0123456789",
    kernel_arguments="console=tty0  console=ttyS0,115200",
    image="base:latest",
    version="abcdef" + "0" * 58,
    architecture="x86_64",
)


def parameters(**changes: str) -> list[tuple[str, str]]:
    values = {"mac": "52-54-00-12-34-56", "uuid": UUID, "arch": "i386", "firmware": "pcbios"}
    return list((values | changes).items())


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("start", start(HEAD)),
        ("unknown", answer(BIOS, None, None)),
        ("unassigned", answer(BIOS, Node("n01", (MAC,)), None)),
        ("nothing-published", answer(BIOS, NODE, None)),
        ("other-architecture", answer(BIOS, NODE, dataclasses.replace(FILES, architecture="aarch64"))),
        ("boot-bios", answer(BIOS, NODE, FILES)),
        ("boot-uefi", answer(UEFI, NODE, FILES)),
        (
            "refusal",
            refusal(ErrorRecord(ErrorKind.INVALID, "two `nodes` have\n${this} MAC && more", hint="rename one")),
        ),
    ],
)
def test_scripts_are_those_in_the_snapshots(name: str, script: str) -> None:
    path = SCRIPTS / f"{name}.ipxe"
    if os.environ.get("ROOKERY_WRITE_SNAPSHOTS"):
        path.write_text(script)
    assert script == path.read_text()


def test_every_script_ends_by_leaving_or_asking_again_and_never_at_a_prompt() -> None:
    for path in SCRIPTS.glob("*.ipxe"):
        lines = path.read_text().splitlines()
        assert lines[0] == "#!ipxe"
        assert lines[-1] in {"goto ask", "exit 0"}, path.name
        assert not any(line.split()[0] in {"shell", "prompt", "reboot", "poweroff", "menu"} for line in lines[1:])


def test_parse_takes_what_ipxe_sends() -> None:
    sent = [
        ("mac", "52-54-00-12-34-56"),
        ("mac", "52-54-00-12-34-56"),
        ("mac", "52-54-00-12-34-57"),
        ("mac", ""),
        ("uuid", UUID.upper()),
        ("arch", "i386"),
        ("firmware", "pcbios"),
    ]
    assert parse_request(sent, "10.0.0.100") == BootRequest(
        (MAC, "52:54:00:12:34:57"), UUID, "x86_64", Firmware.BIOS, "10.0.0.100"
    )


@pytest.mark.parametrize(
    ("arch", "firmware", "architecture"),
    [("i386", "pcbios", "x86_64"), ("x86_64", "efi", "x86_64"), ("arm64", "efi", "aarch64")],
)
def test_parse_knows_the_architectures(arch: str, firmware: str, architecture: str) -> None:
    assert parse_request(parameters(arch=arch, firmware=firmware)).architecture == architecture


@pytest.mark.parametrize("uuid", ["", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
def test_a_uuid_that_nobody_wrote_counts_as_none(uuid: str) -> None:
    assert parse_request(parameters(uuid=uuid)).uuid is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mac": "52-54-00-12-34"}, "boot parameter mac: '52-54-00-12-34' is not a MAC address"),
        ({"mac": "01-54-00-12-34-56"}, "multicast"),
        ({"mac": ""}, "boot parameter mac is missing"),
        ({"uuid": "42"}, "boot parameter uuid: '42' is not a UUID"),
        ({"arch": "arm32"}, "no image can boot on 'arm32'"),
        ({"arch": "i386", "firmware": "efi"}, "no image can boot on 'i386' with uefi"),
        ({"arch": ""}, "boot parameter arch: expected exactly one, got 0"),
        ({"firmware": "coreboot"}, "boot parameter firmware: expected one of pcbios"),
        ({"uuid": "x" * 300}, "boot parameter uuid is longer than 256 characters"),
        ({"colour": "red"}, "unknown boot parameter 'colour'; known are mac, uuid, arch, firmware"),
    ],
)
def test_parse_names_the_parameter_that_is_wrong(changes: dict[str, str], message: str) -> None:
    with pytest.raises(RookeryError, match=None) as caught:
        parse_request(parameters(**changes))
    assert caught.value.kind is ErrorKind.INVALID
    assert message in caught.value.record.message


def test_parse_refuses_repeated_values_and_too_many_cards() -> None:
    with pytest.raises(RookeryError, match="exactly one, got 2"):
        parse_request([*parameters(), ("arch", "x86_64")])
    cards = [("mac", f"52-54-00-00-00-{number:02x}") for number in range(MAX_CARDS)]
    with pytest.raises(RookeryError, match="at most 16, got 17"):
        parse_request([*parameters(), *cards])
    with pytest.raises(RookeryError, match="not an IP address"):
        parse_request(parameters(), "10.0.0.256")


@pytest.mark.parametrize(
    "text",
    ["a\nb;x", "quiet || shell", "a && b", "a=${net0/mac}", 'x="y"', "x='y'", "back\\slash", "# comment", "a;b", "ü"],
)
def test_arguments_that_a_script_would_interpret_are_refused(text: str) -> None:
    with pytest.raises(RookeryError, match="cannot go through a boot script"):
        require_kernel_arguments(text)
    with pytest.raises(RookeryError, match="cannot go through a boot script"):
        answer(BIOS, NODE, dataclasses.replace(FILES, kernel_arguments=text))


def test_arguments_come_out_on_one_line() -> None:
    assert require_kernel_arguments(" quiet\n console=ttyS0,115200 ") == "quiet console=ttyS0,115200"


def test_a_command_line_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(RookeryError, match="of 2047 possible"):
        command_line(BIOS, dataclasses.replace(FILES, kernel_arguments="x" * 2000))


def test_a_name_or_image_cannot_add_commands() -> None:
    node = Node("n01 && shell\nshell", (MAC,), image="${evil} || reboot")
    for script in (answer(BIOS, node, FILES), answer(BIOS, node, None)):
        assert "$" not in script.replace("${doing}", "")
        assert "shell" not in [line.split()[0] for line in script.splitlines() if line]
        assert "&&" not in script
        assert not any("||" in line for line in script.splitlines() if line.startswith("echo"))


@pytest.mark.parametrize("change", [{"token": "a b"}, {"head": "http://x/$(y)"}, {"kernel": "zz"}])
def test_values_of_our_own_making_are_checked_too(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        answer(BIOS, NODE, dataclasses.replace(FILES, **change))


def test_waits_are_spread_over_machines_and_steady_for_each() -> None:
    def seconds(number: int) -> int:
        mac = f"52:54:00:00:00:{number:02x}"
        script = answer(dataclasses.replace(BIOS, macs=(mac,)), None, None)
        return next(int(line.split()[1]) for line in script.splitlines() if line.startswith("sleep"))

    waits = [seconds(number) for number in range(100)]
    assert waits == [seconds(number) for number in range(100)]
    assert set(waits) == set(range(RETRY_SECONDS - 3, RETRY_SECONDS + 4))
