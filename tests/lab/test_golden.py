# SPDX-License-Identifier: Apache-2.0
"""A golden client, whole: a node boots, is changed by hand, is captured, and two others become what it is."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import netns, qemu
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import DhcpMode, Paths
from rookery.head.init import Settings, initialise
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.run import Completed, run

ADDRESS = "10.78.2.1"
MACHINES = {f"n{number}": (f"52:54:00:78:02:0{number}", f"10.78.2.1{number}") for number in (1, 2, 3)}
CHANGES = """
echo 'this machine runs well' > /etc/golden
useradd --create-home penguin && echo fish > /home/penguin/food && chown penguin /home/penguin/food
setcap cap_net_raw+ep /usr/bin/rsync
systemctl disable systemd-timesyncd.service 2>/dev/null
ln -s /etc/golden /opt/golden
setfacl -m u:penguin:rw,g:games:r /etc/golden && setfacl -d -m u:penguin:rwx /home/penguin
ln /home/penguin/food /home/penguin/again
mknod -m 660 /opt/disk b 259 70000 && chown daemon:disk /opt/disk
setfattr -n security.selinux -v system_u:object_r:etc_t:s0 /home/penguin/food
setfattr -n trusted.note -v 0x00ff0a /opt
truncate -s 4M /opt/sparse && echo end >> /opt/sparse && sync
"""
# What shows of these changes.
LOOK = """
getfacl --absolute-names --numeric /etc/golden /home/penguin
stat --format='%n: %F %t:%T %h %u:%g %a %s' /home/penguin/food /home/penguin/again /opt/disk /opt/sparse
[ /home/penguin/food -ef /home/penguin/again ] && echo 'one file'
getfattr --absolute-names --dump --encoding=hex --match=- /home/penguin/food /opt
sha256sum /opt/sparse
"""
SEEN = (
    "user:1000:rw-\ngroup::r--\ngroup:60:r--\nmask::rw-\n",
    "default:user:1000:rwx\n",
    "/home/penguin/again: regular file 0:0 2 1000:0 644 5\n",
    "/opt/disk: block special file 103:11170 1 1:6 660 0\n",
    f"/opt/sparse: regular file 0:0 1 0:0 644 {(4 << 20) + 4}\n",
    "one file\n",
    f"security.selinux=0x{b'system_u:object_r:etc_t:s0'.hex()}",
    "trusted.note=0x00ff0a\n",
)

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1500)]


@dataclass(frozen=True)
class Head:
    """A head that serves on the bridge of a room of its own, and the key that opens its nodes."""

    paths: Paths
    room: netns.Room
    key: Path

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rookery.cli", *words]

    def call(self, *words: str) -> Completed:
        done = run(self.words(*words), check=False, env={"ROOKERY_DIR": str(self.paths.directory)})
        assert done.code == 0, f"{done.stdout}{done.stderr}"
        return done

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in json.loads(self.call("status", "--json").stdout)["nodes"]}

    def wait_ready(self, guests: dict[str, qemu.Guest], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not all((nodes := self.nodes())[name]["state"] == "ready" for name in guests):
            for name, guest in guests.items():
                assert guest.running, guest.complaints()
                assert time.monotonic() < until, f"{json.dumps(nodes[name], indent=1)}\n{guest.text()[-2000:]}"
            time.sleep(0.5)

    def on(self, node: str, command: str) -> str:
        """Run a command on a node by ssh; what it printed."""
        options = [word for text in self.options(node) for word in ("-o", text)]
        return run([*self.room.in_hub, "ssh", *options, f"root@{MACHINES[node][1]}", command], timeout=120).stdout

    def options(self, node: str) -> tuple[str, ...]:
        return (f"IdentityFile={self.key}", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "LogLevel=ERROR")

    def machine(self, node: str, directory: Path) -> qemu.Machine:
        return qemu.Machine(node, MACHINES[node][0], directory, namespace=self.room.hub, bridge=netns.BRIDGE)


@pytest.fixture
def head(tmp_path: Path, built: BuiltImage) -> Iterator[Head]:
    """With the example image, and three nodes that have it."""
    paths, key, log = Paths(tmp_path / "head"), tmp_path / "operator", tmp_path / "head.log"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    keys = (key.with_suffix(".pub").read_text().strip(),)
    wish = Settings(
        *(netns.BRIDGE, ADDRESS), dhcp=DhcpMode.FULL, dhcp_range="10.78.2.100-10.78.2.150", authorized_keys=keys
    )
    initialise(paths.directory, wish)
    # Commands in a tree reach their packages through the test's own network.
    text = paths.config.read_text()
    assert 'network_namespace = ""' in text
    paths.config.write_text(text.replace('network_namespace = ""', f'network_namespace = "/proc/{os.getpid()}/ns/net"'))
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    publisher.image("base", built, "", "latest", silent, threading.Event())
    catalog.close()
    with netns.room() as room, log.open("wb") as sink:
        room.hub_address(f"{ADDRESS}/24")
        found = Head(paths, room, key)
        with room.process(None, [*found.words("serve"), "--dir", paths.directory], stdout=sink, stderr=sink) as process:
            until = time.monotonic() + 180
            while run(found.words("status", "--dir", str(paths.directory)), check=False).code != 0:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            table = tmp_path / "machines.csv"
            table.write_text("".join(f"{name},{mac},{address}\n" for name, (mac, address) in MACHINES.items()))
            found.call("node", "add", "n[1-3]", "--macs-from", str(table))
            yield found


def test_what_a_node_became_by_hand_two_others_become(head: Head, tmp_path: Path) -> None:
    # A machine that is to be captured needs rsync: a change of the image, in its working tree.
    head.call("image", "exec", "base", "--", "apt-get", "update")
    head.call("image", "exec", "base", "--", "apt-get", "install", "-y", "rsync", "libcap2-bin", "acl", "attr")
    head.call("image", "publish", "base", "--tag", "with-rsync")
    head.call("deploy", "n1", "--image", "base:with-rsync", "-y")
    with qemu.boot(head.machine("n1", tmp_path / "machines")) as guest:
        head.wait_ready({"n1": guest}, 400)
        head.on("n1", CHANGES)
        looks = head.on("n1", LOOK)
        assert [text for text in SEEN if text not in looks] == [], looks
        ssh = [word for text in head.options("n1") for word in ("--ssh-option", text)]
        words = ["image", "capture", MACHINES["n1"][1], "--as", "golden", "--user", "root", *ssh]
        done = head.call(*words)
        (tree,) = [
            tree
            for tree in json.loads(head.call("image", "trees", "--json").stdout)["trees"]
            if tree["name"] == "golden"
        ]
        captured, root = tree["captured"], Path(tree["root"])
        print(done.stdout, done.stderr)
        # It began with the version that the node runs.
        assert captured["moved"] < captured["total"] / 20, done.stderr
        assert (root / "etc/golden").read_text() == "this machine runs well\n"
        assert (root / "opt/sparse").stat().st_blocks * 512 < 1 << 20
        # What the head had ordered, and what is the machine's own, is not of the image.
        for name in (
            "etc/hostname",
            "etc/rookery-release",
            "root/.ssh/authorized_keys",
            "etc/ssh/ssh_host_ed25519_key",
        ):
            assert not (root / name).exists(), name
        assert (root / "etc/machine-id").read_text() == ""
        for name in ("run", "proc", "sys"):
            assert list((root / name).iterdir()) == [], name
        # Nothing changed since: the same version again.
        before = json.loads(head.call("image", "show", "golden", "--json").stdout)["version"]["id"]
        again = json.loads(head.call(*words, "--tag", "again", "--json").stdout)
        assert again["id"] == before
    head.call("deploy", "n[2-3]", "--image", "golden", "-y")
    with (
        qemu.boot(head.machine("n2", tmp_path / "machines")) as two,
        qemu.boot(head.machine("n3", tmp_path / "machines")) as three,
    ):
        head.wait_ready({"n2": two, "n3": three}, 600)
        for node in ("n2", "n3"):
            assert head.on(node, "hostname; cat /opt/golden").split("\n")[:2] == [node, "this machine runs well"]
            assert head.on(node, "stat -c %U /home/penguin/food; su penguin -c 'cat ~/food'") == "penguin\nfish\n"
            assert "cap_net_raw" in head.on(node, "getcap /usr/bin/rsync")
            assert head.on(node, LOOK) == looks
        assert head.on("n2", "cat /etc/machine-id") != head.on("n3", "cat /etc/machine-id")
        keys = [head.on(node, "cat /etc/ssh/ssh_host_ed25519_key.pub") for node in ("n2", "n3")]
        assert keys[0] != keys[1]
