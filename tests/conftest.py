# SPDX-License-Identifier: Apache-2.0
"""For all tests: a real image for those that boot one, built once, and kept for the next run as long as what it is made
of is the same; a small root that is quick to pack; and a machine to log in to."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# pytest rewrites the asserts of anyio's modules when they are imported, because anyio ships a plugin. A server's thread
# that imports them while another thread compiles trips over a fault of CPython 3.11 (python/cpython#106905); here they
# are imported before any thread is there.
import anyio._backends._asyncio
import anyio._core._fileio
import anyio.from_thread
import anyio.streams.memory
import anyio.to_thread  # noqa: F401
import pytest

from rookery.files import scratch_directory
from rookery.head.build import image, recipe
from rookery.head.build.image import BuiltImage
from rookery.head.progress import silent
from rookery.run import Child, run, spawn

TOP = Path(__file__).parents[1]
RECIPE = TOP / "examples" / "recipes" / "bookworm.toml"


@pytest.fixture(scope="session")
def bookworm() -> Path:
    """A directory with `root`, `kernel` and `drivers` of the example image."""
    sources = [RECIPE, *sorted((TOP / "src/rookery/head/build").glob("*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = TOP / ".cache" / "test-image"
    there = cache / digest
    if not there.exists():
        with scratch_directory(cache, "build.") as scratch:
            wish = recipe.parse(RECIPE.read_text(), str(RECIPE), RECIPE.parent)
            built = image.build(wish, scratch, silent, threading.Event())
            fresh = scratch / "fresh"
            fresh.mkdir()
            for name in ("root", "kernel", "drivers"):
                os.link(getattr(built, name), fresh / name)
            fresh.rename(there)
    return there


@pytest.fixture
def built(bookworm: Path, tmp_path: Path) -> BuiltImage:
    """The example image, as the builder hands it to publishing: files that may be moved away."""
    mine = tmp_path / "built"
    mine.mkdir()
    for name in ("root", "kernel", "drivers"):
        try:
            os.link(bookworm / name, mine / name)
        except OSError:  # another file system
            (mine / name).write_bytes((bookworm / name).read_bytes())
    return BuiltImage(mine / "root", mine / "kernel", mine / "drivers", "", "x86_64", {})


RELEASE = "6.1.0-test"
LONG_AGO = 1_600_000_000


def small_root(root: Path) -> Path:
    """A root with busybox as its programs, and files with everything that a file may have."""
    for name in ("bin", "boot", "dev", "etc/ssh", "proc", "root", "run", "sbin", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("usr/bin", "usr/lib", "var/log"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in run(["/bin/busybox", "--list"]).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "usr/bin/env").symlink_to("../../bin/busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    where = tmp_path / "small"
    where.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=16m", "rookery-test", where])
    try:
        yield where
    finally:
        run(["umount", "-l", where])


@pytest.fixture
def make_root() -> Callable[[Path], Path]:
    return small_root


@dataclasses.dataclass(frozen=True)
class Sshd:
    """A real sshd on loopback. place: its keys. options: for `ssh -o`, to be let in. known: its host key as a line of
    known_hosts. What it runs makes its temporary files in the directory `place`/there."""

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
SetEnv TMPDIR={place}/there
"""
    )
    (place / "there").mkdir()
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


@pytest.fixture
def sshd_config(sshd: Sshd) -> Callable[[str], None]:
    """Adds a line to sshd's configuration, which holds for the next connection."""

    def add(line: str) -> None:
        config, log = sshd.place / "config", sshd.place / "log"
        config.write_text(f"{config.read_text()}{line}\n")
        before = log.read_text().count("Server listening")
        sshd.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while log.read_text().count("Server listening") == before:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)

    return add


@contextlib.contextmanager
def run_until(argv: list[str | Path], log: Path) -> Iterator[Child]:
    with log.open("wb") as sink, spawn(argv, stdout=sink, stderr=sink) as child:
        yield child
