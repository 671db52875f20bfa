# SPDX-License-Identifier: Apache-2.0
"""A head's trees with real parts, and an image of busybox and an empty kernel, which is quick to pack."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rookery.head.build import image
from rookery.head.build.builder import BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.head.config import Paths
from rookery.head.progress import Progress
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.head.trees.trees import Trees
from rookery.run import Child, run, spawn

RELEASE = "6.1.0-test"
LONG_AGO = 1_600_000_000


@dataclasses.dataclass
class Room:
    """A head's trees, an image `base` that can be opened, and what progress was told."""

    paths: Paths
    catalog: Catalog
    store: BlobStore
    trees: Trees
    base: Version
    told: list[Progress]
    cancel: threading.Event

    def open(self, reference: str = "base") -> Path:
        """Open an image; its root."""
        self.trees.open(reference, self.told.append, self.cancel)
        return self.trees.tree("base").root

    def publish(self, tag: str = "latest") -> Version:
        return self.trees.publish("base", tag, self.told.append, self.cancel)


def small_root(root: Path) -> Path:
    """A root with busybox as its programs, and files with everything that a file may have."""
    for name in ("bin", "boot", "dev", "etc/ssh", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "var/log"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in run(["/bin/busybox", "--list"]).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "usr/bin/env").symlink_to("../../bin/busybox")
    modules = root / "usr/lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (modules / "modules.dep").touch()
    (modules / "modules.order").touch()
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(b"a kernel")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/motd").write_text("hello\n")
    (root / "etc/motd").chmod(0o640)
    os.chown(root / "etc/motd", 1, 4)
    os.setxattr(root / "etc/motd", "user.colour", b"green")
    os.link(root / "etc/motd", root / "etc/motd.too")
    for path in sorted(root.rglob("*")):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return root


@pytest.fixture
def make_root() -> Callable[[Path], Path]:
    return small_root


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    paths = Paths(tmp_path / "head")
    paths.work.mkdir(parents=True)
    key = SiteKey.create(paths)
    store, catalog = BlobStore(paths.blobs), Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(store, key, catalog, make_torrent)
    told: list[Progress] = []
    cancel = threading.Event()
    root = small_root(tmp_path / "made")
    with image.site(paths.work) as site:
        built = image.finish(root, site, Recipe(), BuiltTree({}), LONG_AGO + 1000)
    text = '# what it is made of\n[identity]\nkeep = ["/etc/hostname"]\n'
    base = publisher.image("base", built, text, "latest", told.append, cancel)
    built.discard()
    trees = Trees(paths.trees, paths.work, catalog, store, publisher)
    yield Room(paths, catalog, store, trees, base, told, cancel)
    catalog.close()


@dataclasses.dataclass(frozen=True)
class Sshd:
    """A real sshd on loopback. place: its keys. options: for `ssh -o`, to be let in. known: its host key as a line of
    known_hosts."""

    place: Path
    port: int
    options: tuple[str, ...]
    known: str
    process: Child


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    place = tmp_path / "sshd"
    place.mkdir(mode=0o700)
    for name in ("host", "user"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", place / name])
    with socket.create_server(("127.0.0.1", 0)) as wire:
        port = int(wire.getsockname()[1])
    (place / "config").write_text(
        f"""ListenAddress 127.0.0.1
Port {port}
HostKey {place}/host
AuthorizedKeysFile {place}/user.pub
PidFile none
UsePAM no
PermitRootLogin yes
StrictModes no
"""
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks its unprivileged half up
    with run_until(["/usr/sbin/sshd", "-D", "-e", "-f", place / "config"], place / "log") as process:
        until = time.monotonic() + 30
        while "Server listening" not in (place / "log").read_text():
            assert process.poll() is None, (place / "log").read_text()
            assert time.monotonic() < until, (place / "log").read_text()
            time.sleep(0.02)
        key = (place / "host.pub").read_text().strip()
        yield Sshd(
            place, port, (f"IdentityFile={place}/user", "IdentitiesOnly=yes"), f"[127.0.0.1]:{port} {key}\n", process
        )


@contextlib.contextmanager
def run_until(argv: list[str | Path], log: Path) -> Iterator[Child]:
    with log.open("wb") as sink, spawn(argv, stdout=sink, stderr=sink) as child:
        yield child
