# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rookery.head.boot import probe
from rookery.head.boot.foreign import ForeignServer, foreign_snippet
from rookery.head.config import Config, Network
from rookery.run import spawn

ADDRESS = "10.77.0.1"
CONFIG = Config(Network("rkbr0", ADDRESS, port=8099))
START = f"http://{ADDRESS}:8099/boot/start.ipxe"
HTTP_LOADER = f"http://{ADDRESS}:8099/boot/loader/snponly.efi"


@pytest.mark.parametrize("kind", list(ForeignServer))
def test_every_snippet_names_every_boot_file(kind: ForeignServer) -> None:
    text = foreign_snippet(kind, CONFIG, ADDRESS)
    for file in ("undionly.kpxe", "snponly.efi", "snponly-arm64.efi", START, HTTP_LOADER, "HTTPClient"):
        assert file in text
    assert ADDRESS in text


def test_kea_gets_json_with_one_class_for_each_architecture_and_one_for_ipxe() -> None:
    classes = json.loads(foreign_snippet(ForeignServer.KEA, CONFIG, ADDRESS))["client-classes"]
    by_name = {item["name"]: item for item in classes}
    assert set(by_name) == {"rookery-ipxe", *(f"rookery-arch-{code}" for code in (0, 7, 9, 11, 16, 19))}
    assert by_name["rookery-ipxe"]["boot-file-name"] == START
    assert by_name["rookery-arch-7"]["test"].startswith("option[93].hex == 0x0007 and not (")
    assert by_name["rookery-arch-16"]["option-data"][0]["data"] == "HTTPClient"
    assert "option-data" not in by_name["rookery-arch-7"]


def test_isc_gets_balanced_blocks_with_ipxe_first() -> None:
    text = foreign_snippet(ForeignServer.ISC, CONFIG, ADDRESS)
    assert text.count("{") == text.count("}") == 7
    tests = re.findall(r"(?:elsif|if exists) .*", text)
    assert "iPXE" in tests[0]
    assert [match[1] for match in re.finditer(r"rookery-arch = 00:(\w\w)", text)] == [
        "00",
        "07",
        "09",
        "0b",
        "10",
        "13",
    ]


@pytest.mark.system
@pytest.mark.parametrize(
    ("vendor", "options", "file"),
    [
        ("PXEClient:Arch:00000", {93: b"\0\0"}, "undionly.kpxe"),
        ("PXEClient:Arch:00007", {93: b"\0\x07"}, "snponly.efi"),
        ("HTTPClient:Arch:00016", {93: b"\0\x10"}, HTTP_LOADER),
        ("PXEClient:Arch:00007", {93: b"\0\x07", 77: b"iPXE"}, START),
    ],
)
def test_a_real_foreign_dnsmasq_with_the_snippet_answers(
    room: Any, tmp_path: Path, vendor: str, options: dict[int, bytes], file: str
) -> None:
    own = ["port=0", "interface=eth0", "bind-interfaces", "dhcp-range=10.77.0.200,10.77.0.220", "no-ping", "user=root"]
    conf = tmp_path / "conf"
    conf.write_text("\n".join([*own, "leasefile-ro", foreign_snippet(ForeignServer.DNSMASQ, CONFIG, ADDRESS)]))
    with spawn(["ip", "netns", "exec", room.foreign, "dnsmasq", "-k", "--pid-file=", f"--conf-file={conf}"]):
        found: tuple[probe.Reply, ...] = ()
        for _ in range(10):
            with room.inside(room.client):
                found = found or probe.offers("eth0", 2, {60: vendor.encode(), 55: b"\x01\x3c\x43", **options}, most=1)
    assert [offer.file for offer in found] == [file]
    assert found[0].next_server == ADDRESS
