# SPDX-License-Identifier: Apache-2.0
"""The whole journey of one machine, in QEMU, against a real head: no part is left out but the firmware's (which
tests/head/boot boots)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import py_compile
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lab import netns, qemu
from rookery.head.build import cpio
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Node
from rookery.head.config import DhcpMode, Paths
from rookery.head.init import Settings, initialise
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.node import probe
from rookery.node.plan import MOST_REFUSALS
from rookery.run import run
from rookery.wire import routes

ADDRESS, PORT = "10.78.0.1", 8470
MAC = "52:54:00:78:00:01"
STRUCK = """

_record = record


def record(*arguments):
    if not os.path.exists("/run/rookery/state/struck"):
        Path("/run/rookery/state/struck").touch()
        os.kill(os.getpid(), 11)
    return _record(*arguments)
"""

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


class Head:
    """A head in a room of its own, with one node and one image."""

    def __init__(self, paths: Paths, room: netns.Room, key: Path) -> None:
        self.paths, self.room, self.key = paths, room, key

    def call(self, *words: str) -> str:
        done = run([sys.executable, "-m", "rookery.cli", *words, "--dir", self.paths.directory], check=False)
        assert done.code == 0, done.stderr
        return done.stdout

    def node(self) -> dict[str, Any]:
        (found,) = json.loads(self.call("status", "n1", "--json"))["nodes"]
        return dict(found)

    def wait_for(self, what: Callable[[dict[str, Any]], bool], seconds: float = 240) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while not what(node := self.node()):
            assert time.monotonic() < until, json.dumps(node, indent=1)
            time.sleep(0.5)
        return node

    def get(self, path: str) -> str:
        return run([*self.room.in_hub, "curl", "-sf", f"http://{ADDRESS}:{PORT}{path}"]).stdout

    def manifest(self, change: Callable[[dict[str, Any]], None]) -> str:
        """Change the stored manifest's envelope; returns what it was."""
        with contextlib.closing(sqlite3.connect(self.paths.database)) as database, database:
            (before,) = database.execute("SELECT manifest FROM versions").fetchone()
            envelope = json.loads(before)
            change(envelope)
            database.execute("UPDATE versions SET manifest = ?", (json.dumps(envelope),))
        return str(before)


@pytest.fixture
def head(tmp_path: Path, built: BuiltImage) -> Iterator[Head]:
    paths = Paths(tmp_path / "head")
    key = tmp_path / "operator"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    wish = Settings(
        "br0",
        ADDRESS,
        PORT,
        dhcp=DhcpMode.FULL,
        dhcp_range="10.78.0.100-10.78.0.150",
        authorized_keys=(key.with_suffix(".pub").read_text().strip(),),
    )
    initialise(paths.directory, wish)
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    publisher.image("base", built, "", "latest", silent, threading.Event())
    catalog.add_nodes([Node("n1", (MAC,), image="base:latest")])
    catalog.close()
    log = tmp_path / "head.log"
    with netns.room() as room, log.open("wb") as sink:
        room.hub_address(f"{ADDRESS}/24")
        words = [sys.executable, "-m", "rookery.cli", "serve", "--dir", str(paths.directory)]
        with room.process(None, words, stdout=sink, stderr=sink) as process:
            until = time.monotonic() + 180
            words[3] = "status"
            while run(words, check=False).code != 0:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield Head(paths, room, key)


def machine(head: Head, tmp_path: Path, *more: Path) -> qemu.Machine:
    """The machine as iPXE would start it: what the head's script for it says, with the files that it names."""
    script = head.get(f"{routes.SCRIPT}?mac={MAC}&arch=x86_64&firmware=pcbios")
    line = re.search(r"^imgargs kernel (.*?)(?: \|\|.*)?$", script, re.MULTILINE)
    assert line, script
    names = dict(re.findall(r"--name (\w+) http\S+/([0-9a-f]{64})", script))
    agent = next(head.paths.boot.glob("agent-*.cpio"))
    return qemu.Machine(
        "n1",
        MAC,
        tmp_path / "machine",
        namespace=head.room.hub,
        bridge=netns.BRIDGE,
        kernel=head.paths.blobs / names["kernel"],
        initrds=(head.paths.blobs / names["drivers"], agent, *more),
        command_line=line[1],
    )


def accident(tmp_path: Path) -> Path:
    """A further archive, unpacked over the agent: the process that makes the journey is struck down once, as a fault in
    machine code would."""
    place = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}/rookery/node/probe"
    source = tmp_path / "probe.py"
    source.write_text(Path(probe.__file__).read_text() + STRUCK)
    target = tmp_path / "over" / f"{place}.pyc"
    target.parent.mkdir(parents=True)
    py_compile.compile(
        str(source), str(target), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    cpio.pack_tree(tmp_path / "over", tmp_path / "over.cpio", "none")
    return tmp_path / "over.cpio"


def look_around(head: Head) -> None:
    """The running system, as an operator who logs in finds it."""
    shown = json.loads(head.call("node", "show", "n1", "--json"))
    address = shown["facts"]["network_cards"][0]["address"]
    words = ["ssh", "-i", head.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    words += ["-o", "BatchMode=yes", f"root@{address}"]

    def ask(command: str) -> str:
        done = run([*head.room.in_hub, *words, command], check=False, timeout=120)
        assert done.code == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    assert ask("hostname") == "n1"
    version = json.loads(head.call("image", "show", "base", "--json"))["version"]
    # As a script on the node reads it.
    release = ask(". /etc/rookery-release && echo $NODE $IMAGE $VERSION $MODE $BUILT")
    *named, built = release.split()
    assert named == ["n1", "base:latest", version["id"], "ram"]
    assert 0 <= version["published_at"] - datetime.fromisoformat(built).timestamp() < 60
    assert ask("findmnt -no FSTYPE /") == "overlay"
    assert ask("stat -c %a /run/rookery/state /run/rookery/state/handover.json").split() == ["700", "600"]
    # The running system's own DHCP client keeps the address that the agent had.
    assert address in ask("ip -4 -o address show scope global")
    assert "State: routable" in ask("networkctl status eth0 --no-pager")
    # Given from outside the image's root, within limits.
    limits = ask("systemctl show rookery-seed.service -p RootDirectory,CPUQuotaPerSecUSec,MemoryMax,ActiveState")
    assert set(limits.splitlines()) == {
        "RootDirectory=/run/rookery/agent",
        "CPUQuotaPerSecUSec=200ms",
        f"MemoryMax={256 << 20}",
        "ActiveState=active",
    }
    assert ask("cat /etc/machine-id") == ask("systemd-id128 machine-id")
    # The agent did without; the image has its kernel's own setting.
    assert ask("cat /proc/sys/net/ipv4/tcp_timestamps") == "1"


def test_refuses_then_boots_then_stops_seeding(head: Head, tmp_path: Path) -> None:
    def forge(envelope: dict[str, Any]) -> None:
        envelope["signature"] = "00" * 64

    good = head.manifest(forge)
    with qemu.boot(machine(head, tmp_path, accident(tmp_path))) as guest:
        # The child died; process 1 says so, starts another, and that one tells the head.
        assert "ended by SIGSEGV" in guest.wait_for("network FAILED", 180)
        guest.wait_for("hello .* this is n1", 60)
        # A manifest that nobody of this site signed is not used; the node says so and goes on asking.
        failed = head.wait_for(lambda node: "signature is wrong" in json.dumps(node["error"]))
        assert failed["state"] == "failed"
        assert "ended by SIGSEGV" in head.call("events", "--json")
        assert "orders FAILED" in guest.wait_for("orders FAILED", 5)
        assert "next try in" in guest.wait_for("next try in", 5)

        head.manifest(lambda envelope: envelope.update(json.loads(good)))
        ready = head.wait_for(lambda node: node["state"] == "ready")
        assert set(ready["seconds"]) >= {"kernel", "modules", "network", "fetch", "verify", "root", "settle", "system"}
        assert ready["transfer"]["done"] == ready["transfer"]["total"] > 0
        assert ready["transfer"]["from_head"] >= ready["transfer"]["total"]  # there was nobody else
        assert ready["system"] in ("running", "degraded")

        head.wait_for(lambda node: node["seeding"])
        look_around(head)
        head.call("node", "set", "n1", "may_seed=false", "-y")
        head.wait_for(lambda node: not node["seeding"])


def test_a_machine_whose_token_is_refused_starts_again_by_itself(head: Head, tmp_path: Path) -> None:
    """As after a database that was brought back from a backup: the token is one that the head does not know."""
    real = machine(head, tmp_path)
    line, changed = re.subn(r"rookery\.token=\S+", "rookery.token=of-yesterday", real.command_line)
    assert changed == 1
    with qemu.boot(dataclasses.replace(real, command_line=line)) as guest:
        guest.wait_for(f"hello FAILED .attempt {MOST_REFUSALS}.: the boot token is not known", 240)
        guest.wait_for(f"refused this machine's boot token {MOST_REFUSALS} times", 60)
        guest.wait_for("starting again", 60)
        until = time.monotonic() + 120
        # QEMU starts the same kernel with the same words again; a real machine would ask its firmware.
        while guest.text().count("the agent takes over from the kernel") < 2:
            assert guest.running, guest.text()
            assert time.monotonic() < until, guest.text()
            time.sleep(0.5)
    assert head.node()["state"] == "booting"
