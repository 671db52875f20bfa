# SPDX-License-Identifier: Apache-2.0
"""What is published is what a node gets, entry by entry: through a real head, the swarm, and a fetch on another host.

The lister here shares nothing with the code that it judges: it asks the kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pytest

from lab import netns
from rookery import acls, run
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from rookery.node import deeds, places
from rookery.node.action import Action, Kind
from rookery.node.cmdline import CommandLine
from rookery.node.console import Console
from rookery.node.network import Network
from rookery.node.plan import Known
from rookery.node.reporter import Reporter
from rookery.node.talk import Head
from rookery.wire.report import Report, Step

# The first test of a run may have to wait until an agent is packed.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADDRESS = "10.84.0.1"
NUMBERS = itertools.count(2)
WORDS = [sys.executable, "-m", "rookery.cli"]
# cap_net_raw=ep, as setcap writes it (linux/capability.h, VFS_CAP_REVISION_2).
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
LABEL = b"system_u:object_r:etc_t:s0\0"
HOLE = 64 << 20
LONG_AGO = 1_600_000_000


@dataclass(frozen=True)
class Seen:
    """An entry as the kernel shows it. mates: the names of the same inode. full: whether it takes the room that its
    size says (a sparse file does not)."""

    mode: int
    owner: tuple[int, int]
    mtime: int
    size: int
    device: tuple[int, int]
    target: bytes
    content: str
    mates: frozenset[bytes]
    attributes: tuple[tuple[str, bytes], ...]
    full: bool = True


def listing(top: Path) -> dict[bytes, Seen]:
    """Everything below a directory, and itself as `.`, by relative path."""
    root = os.fsencode(top)
    paths = [root]
    for parent, names, others in os.walk(root):
        paths += [os.path.join(parent, name) for name in [*names, *others]]
    states = {path: os.lstat(path) for path in paths}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    for path, state in states.items():
        if not stat.S_ISDIR(state.st_mode):
            inodes.setdefault((state.st_dev, state.st_ino), []).append(os.path.relpath(path, root))
    found = {}
    for path, state in states.items():
        regular = stat.S_ISREG(state.st_mode)
        special = stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode)
        found[os.path.relpath(path, root)] = Seen(
            mode=state.st_mode,
            owner=(state.st_uid, state.st_gid),
            mtime=state.st_mtime_ns,
            size=state.st_size if regular else 0,
            device=(os.major(state.st_rdev), os.minor(state.st_rdev)) if special else (0, 0),
            target=os.readlink(path) if stat.S_ISLNK(state.st_mode) else b"",
            content=digest(path) if regular else "",
            mates=frozenset(inodes.get((state.st_dev, state.st_ino), [])),
            attributes=tuple(
                (name, os.getxattr(path, name, follow_symlinks=False))
                for name in sorted(os.listxattr(path, follow_symlinks=False))
            ),
            full=not regular or state.st_blocks * 512 >= state.st_size // 2,
        )
    return found


def digest(path: bytes) -> str:
    sums = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sums.update(block)
    return sums.hexdigest()


def put(path: Path, data: bytes = b"content", mode: int = 0o644) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def strange(top: Path) -> None:
    """A tree with everything that a root file system may have and that tools like to lose."""
    top.mkdir()
    # Extended attributes of every kind, on files and directories.
    os.setxattr(put(top / "user"), "user.colour", b"blue\0\xff\xfe")
    os.setxattr(put(top / "empty-value"), "user.empty", b"")
    os.setxattr(put(top / "long-value"), "user.long", os.urandom(2000))
    os.setxattr(put(top / "trusted"), "trusted.secret", b"root alone")
    os.setxattr(put(top / "labelled"), "security.selinux", LABEL)
    os.setxattr(put(top / "capable", mode=0o755), "security.capability", NET_RAW)
    (top / "labelled-directory").mkdir()
    os.setxattr(top / "labelled-directory", "security.selinux", LABEL)
    # Access control lists, of their own and for what is made later.
    run.run(["setfacl", "-m", "u:4321:rw,g:8765:r,m::rwx", put(top / "listed", mode=0o640)])
    (top / "inheriting").mkdir()
    run.run(["setfacl", "-m", "u:1000:rwx", "-d", "-m", "g:1001:rx", top / "inheriting"])
    run.run(["setfacl", "-m", "u:1000:r", put(top / "inheriting" / "inherited")])
    # One inode with several names: a file, a symbolic link, a FIFO.
    put(top / "one", b"the same")
    (top / "below").mkdir()
    for name in ("two", "below/three"):
        os.link(top / "one", top / name)
    (top / "pointer").symlink_to("one")
    os.link(top / "pointer", top / "pointer-again", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o600)
    os.link(top / "fifo", top / "fifo-again")
    # Holes: at the end, in the middle, and nothing but one.
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(HOLE)
        file.write(b"middle" * 1000)
        file.truncate(2 * HOLE)
    with (top / "hollow").open("wb") as file:
        file.truncate(HOLE)
    # Devices, owners and modes.
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
    os.chown(put(top / "owned"), 3_000_000_000, 4_000_000_000)
    os.chown(put(top / "setuid"), 65_536, 100_000)
    (top / "setuid").chmod(0o6755)
    put(top / "forbidden", mode=0)
    for name, mode in (("sticky", 0o1777), ("setgid", 0o2770), ("closed", 0)):
        (top / name).mkdir()
        (top / name).chmod(mode)
    (top / "linked-owner").symlink_to("nowhere")
    os.chown(top / "linked-owner", 12_345, 54_321, follow_symlinks=False)
    # Names and targets.
    odd = os.fsencode(top) + b"/odd"
    os.mkdir(odd)
    for name in (b"new\nline", b"\xff\xfe not UTF-8", b" spaces ", b"-rf", b"back\\slash", b"x" * 255, "ünï".encode()):
        with open(os.path.join(odd, name), "wb") as file:
            file.write(name)
    os.symlink(b"/no/such/\xff/place\n", os.path.join(odd, b"dangling"))
    os.symlink(b"/" + b"long/" * 400, os.path.join(odd, b"far"))
    (top / "void").mkdir()
    put(top / "empty", b"")
    put(top / "block", os.urandom(1 << 20))
    # Times, last: before 1980, after 2038, and a directory's own.
    for name, when in (("user", 86_400), ("trusted", 3_000_000_000), ("void", 1_000_000_000), ("pointer", 12_345)):
        os.utime(top / name, ns=(when * 10**9, when * 10**9 + 123_456_789), follow_symlinks=False)


def differences(one: dict[bytes, Seen], two: dict[bytes, Seen]) -> list[str]:
    found = [f"only before: {path!r}" for path in one.keys() - two.keys()]
    found += [f"only after: {path!r}" for path in two.keys() - one.keys()]
    for path in one.keys() & two.keys():
        was, becomes = vars(one[path]), vars(two[path])
        found += [f"{path!r}: {key}: {was[key]!r} -> {becomes[key]!r}" for key in was if was[key] != becomes[key]]
    return sorted(found)


@dataclass(frozen=True)
class Serving:
    """A head that runs on a host of its own."""

    place: Any
    room: netns.Room
    log: IO[bytes]

    def call(self, *more: str) -> dict[str, Any]:
        done = self.place.process(*more, "--json")
        assert done.code == 0, done.stderr
        return dict(json.loads(done.stdout))

    def fetched(self, reference: str, to: Path, *names: str) -> None:
        """Fetch on one host, and from there on another one, whose copy is at `to`. names: what comes."""
        url, first = self.call("ticket", reference)["url"], to.with_name(f"{to.name}-first")
        with self._fetch(url, first, "--seed", "600") as giving:
            until = time.monotonic() + 120
            while not all((first / name).exists() for name in names):
                assert giving.poll() is None, self.place.log.read_text()
                assert time.monotonic() < until, self.place.log.read_text()
                time.sleep(0.1)
            stats = to.with_suffix(".json")
            with self._fetch(url, to, "--stats", str(stats)) as fetch:
                assert fetch.wait(120) == 0, self.place.log.read_text()
        account = json.loads(stats.read_text())
        assert account["bytes_total"] > 1 << 20
        assert account["bytes_from_peers"] > 1 << 20

    def _fetch(self, url: str, to: Path, *more: str) -> contextlib.AbstractContextManager[run.Child]:
        to.mkdir()
        host = self.room.host(f"10.84.0.{next(NUMBERS)}/24")
        return self.room.process(host, [*WORDS, "fetch", url, "--to", str(to), *more], stderr=self.log)


@contextlib.contextmanager
def serving(place: Any) -> Iterator[Serving]:
    paths = Paths(place.directory)
    paths.config.write_text(re.sub(r'(?m)^address = "[^"]*"', f'address = "{ADDRESS}"', paths.config.read_text()))
    with netns.room() as room, place.log.open("ab") as log:
        argv = [*WORDS, "serve", "--dir", str(place.directory)]
        with room.process(room.host(f"{ADDRESS}/24"), argv, stdout=log, stderr=log) as child:
            place.wait(child)
            yield Serving(place, room, log)


@pytest.fixture
def publisher(place: Any) -> Iterator[Publisher]:
    paths = Paths(place.directory)
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    yield Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    catalog.close()


def test_a_tree(place: Any, publisher: Publisher, tmp_path: Path) -> None:
    strange(tmp_path / "strange")
    before = listing(tmp_path / "strange")
    version = publisher.path(tmp_path / "strange", "strange", "latest", silent, threading.Event())
    assert version.size < HOLE, "holes do not travel"
    with serving(place) as head:
        head.fetched("strange", tmp_path / "out", "strange")
    assert differences(before, listing(tmp_path / "out" / "strange")) == []
    assert not before[b"sparse"].full


def test_gnu_tar_reads_the_same(publisher: Publisher, tmp_path: Path) -> None:
    strange(tmp_path / "strange")
    before = listing(tmp_path / "strange")
    publisher.path(tmp_path / "strange", "strange", "latest", silent, threading.Event())
    (archive,) = (path for path in publisher._store.directory.iterdir() if path.name.isalnum())
    (tmp_path / "out").mkdir()
    words = ["tar", "--extract", "--xattrs", "--xattrs-include=*", "--same-owner", "--same-permissions"]
    run.run([*words, "--numeric-owner", "--file", archive, "--directory", tmp_path / "out"])
    after = listing(tmp_path / "out")
    assert differences(before, after) == []


@contextlib.contextmanager
def as_a_node_has_it(blob: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root that the agent's deeds make of the squashfs."""
    lower, upper, root = (place / name for name in ("lower", "upper", "root"))
    monkeypatch.setattr(places, "NEW_ROOT", root)
    reporter = Reporter(Report("ab" * 16, 0, Step.ROOT), lambda: 1, lambda _record: None)
    node = deeds.Traveller("ab" * 16, Known(CommandLine()), Network(place), Console([]), reporter, Head(""))
    layers = f"lowerdir={lower},upperdir={upper}/data,workdir={upper}/work"
    with contextlib.ExitStack() as stack:
        stack.callback(reporter.close)
        for path in (lower, upper, root):
            stack.callback(run.run, ["umount", "-l", path], check=False)
        deeds.do(node, Action(Step.ROOT, Kind.MOUNT_IMAGE, str(lower), "because", str(blob)))
        deeds.do(node, Action(Step.ROOT, Kind.MOUNT_MEMORY, str(upper), "because", "mode=0755"))
        deeds.do(node, Action(Step.ROOT, Kind.MOUNT_OVERLAY, str(root), "because", layers))
        assert node.known.image is not None
        assert node.known.image.lists, "what the plan goes by"
        deeds.do(node, Action(Step.SETTLE, Kind.RESTORE_LISTS, f"/{acls.FILE}", "because"))
        yield root


def as_built(found: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """What a build makes of the times: directories, and what is newer than all packaged files, get that of those."""
    latest = LONG_AGO * 10**9
    return {
        path: replace(seen, mtime=latest if stat.S_ISDIR(seen.mode) else min(seen.mtime, latest))
        for path, seen in found.items()
    }


def in_squashfs(found: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """It has times in seconds, and no number of blocks that would show holes."""
    return {path: replace(seen, mtime=seen.mtime // 10**9, full=True) for path, seen in found.items()}


def by_gnu_tar(found: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """It makes of a FIFO with two names two."""
    return {
        path: replace(seen, mates=frozenset([path])) if stat.S_ISFIFO(seen.mode) else seen
        for path, seen in found.items()
    }


@pytest.fixture
def bootable(tmp_path: Path, make_root: Callable[[Path], Path]) -> Path:
    """A root with everything strange, older than any build."""
    root = make_root(tmp_path / "machine")
    strange(root / "srv")
    os.setxattr(root, "security.selinux", b"system_u:object_r:root_t:s0\0")
    root.chmod(0o775)
    for path, seen in listing(root).items():
        if seen.mtime > time.time_ns() - 3600 * 10**9 and seen.mtime < time.time_ns():
            when = LONG_AGO * 10**9 + 123_456_789
            os.utime(os.path.join(os.fsencode(root), path), ns=(when, when), follow_symlinks=False)
    return root


def test_images_by_every_way(place: Any, bootable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built from a tree and from a tarball, and published out of a working tree that was opened from the first."""
    before = listing(bootable)
    exact = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--format=posix", "--sparse"]
    run.run(["tar", "-C", bootable, *exact, "-cf", tmp_path / "machine.tar", "."])
    with serving(place) as head:
        for name, source in (("tree", "machine"), ("ball", "machine.tar")):
            (tmp_path / f"{name}.toml").write_text(f'archive = "{source}"\n')
            head.call("image", "build", name, str(tmp_path / f"{name}.toml"))
        working = Path(head.call("image", "open", "tree")["root"])
        (working / "etc/made").write_bytes(b"by hand")
        head.call("image", "publish", "tree", "--tag", "worked-on")
        for reference in ("tree", "ball", "tree:worked-on"):
            head.fetched(reference, tmp_path / reference, "root.squashfs", "kernel", "drivers.cpio")
    assert listing(bootable) == before
    stamps = {b"etc/machine-id", b"etc/.updated", b"var/.updated"}
    lists = {b"usr/share", b"usr/share/rookery", acls.FILE.encode()}
    wanted = as_built(before)
    for reference, expected, more in (
        ("tree", wanted, set()),
        ("ball", by_gnu_tar(wanted), set()),
        ("tree:worked-on", wanted, {b"etc/made"}),
    ):
        blob = tmp_path / reference / "root.squashfs"
        assert blob.stat().st_size < 8 << 20, "holes take no room"
        place_of_node = tmp_path / f"node-{reference.replace(':', '-')}"  # a colon parts an overlay's layers
        with as_a_node_has_it(blob, place_of_node, monkeypatch) as root:
            after = in_squashfs(listing(root))
        assert after.keys() - before.keys() == {*stamps, *lists, *more}, reference
        there = {path: seen for path, seen in after.items() if path in before}
        assert differences(in_squashfs(expected), there) == [], reference
