# SPDX-License-Identifier: Apache-2.0
"""Captures from a real sshd with a real rsync: what comes, what does not, again, and what goes wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import image
from rookery.head.build.builder import BuiltTree
from rookery.head.build.recipe import IdentityRules, Recipe
from rookery.head.progress import Progress
from rookery.head.remote.machine import Remote
from rookery.head.trees import lock
from rookery.head.trees.capture import Wish, capture
from rookery.head.trees.state import Captured
from rookery.run import PIPE, run, spawn

if TYPE_CHECKING:
    from conftest import Room, Sshd

pytestmark = pytest.mark.system
BIG = 20_000_000


@dataclasses.dataclass
class Golden:
    """A machine to capture: sshd, its root, and the head that captures it."""

    room: Room
    sshd: Sshd
    root: Path

    def machine(self, **changes: object) -> Remote:
        known = self.room.paths.known_hosts
        if not known.exists():
            known.write_text(self.sshd.known)
        given = Remote("127.0.0.1", known, port=self.sshd.port, root=str(self.root), options=self.sshd.options)
        return dataclasses.replace(given, **changes)  # type: ignore[arg-type]

    def capture(self, tag: str = "", **changes: object) -> Captured:
        wish = dataclasses.replace(Wish(self.machine(), "golden"), **changes)  # type: ignore[arg-type]
        return capture(self.room.trees, wish, tag, self.room.told.append, self.room.cancel)[0]

    @property
    def tree(self) -> Path:
        return self.room.trees.tree("golden").root


@pytest.fixture
def golden(room: Room, sshd: Sshd, tmp_path: Path, make_root: Callable[[Path], Path]) -> Golden:
    root = make_root(tmp_path / "machine")
    (root / "var/big").write_bytes(os.urandom(BIG))
    os.mkdir(root / "home")
    return Golden(room, sshd, root)


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        names = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(root))] = (
            oct(state.st_mode),
            state.st_uid,
            state.st_gid,
            state.st_rdev,
            0 if path.is_dir() else state.st_nlink,
            0 if path.is_dir() else int(state.st_mtime),
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
            {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
        )
    return found


def test_a_machine_comes_exactly_but_for_what_is_its_own(golden: Golden) -> None:
    root = golden.root
    os.mkfifo(root / "etc/pipe")
    run(["mknod", root / "etc/device", "c", "1", "3"])
    run(["setfacl", "-m", "u:daemon:rw", root / "etc/passwd"])
    run(["truncate", "-s", "50M", root / "var/sparse"])
    os.setxattr(root / "bin/busybox", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    whole = listing(root)
    with socket.socket(socket.AF_UNIX) as wire:
        wire.bind(str(root / "etc/socket"))
        for name in ("proc/version", "sys/kernel", "run/pid", "tmp/scratch", "etc/hostname", "etc/machine-id"):
            (root / name).write_text("its own\n")
        for name in ("etc/ssh/ssh_host_rsa_key", "var/log/messages", "root/.bash_history", "var/log/apt/term.log"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text("its own\n")
        (root / "var/lib/rookery").mkdir(parents=True)
        (root / "var/lib/rookery/site.key").write_text("secret\n")
        done = golden.capture()
    there = listing(golden.tree)
    assert there.pop("var/lib")[0] == "0o40755"
    assert there.pop("var/log/apt")[0] == "0o40755"  # programs expect their directories
    assert there == whole
    assert (golden.tree / "var/sparse").stat().st_blocks < 1000
    assert done.total > BIG
    assert done.moved > BIG
    assert [told.stage for told in golden.room.told][-1] == "copying"
    assert any(told.done > 0 and told.total >= told.done and told.unit == "bytes" for told in golden.room.told)


def test_capturing_again_moves_only_what_changed(golden: Golden) -> None:
    first = golden.capture("latest")
    kept = golden.room.catalog.resolve("golden")
    assert golden.capture("again").moved < first.moved / 200
    assert golden.room.catalog.resolve("golden:again").id == kept.id
    with (golden.root / "var/big").open("r+b") as file:
        file.seek(BIG // 2)
        file.write(b"changed")
    (golden.root / "etc/new").write_text("new\n")
    (golden.root / "etc/passwd").unlink()
    again = golden.capture("latest")
    assert again.moved < first.moved / 50
    assert again.total == pytest.approx(first.total, rel=0.01)
    assert (golden.tree / "var/big").read_bytes() == (golden.root / "var/big").read_bytes()
    assert (golden.tree / "etc/new").exists()
    assert not (golden.tree / "etc/passwd").exists()
    assert golden.room.catalog.resolve("golden").id != kept.id
    assert "capture of 127.0.0.1:" in golden.room.catalog.resolve("golden").recipe


def test_what_is_named_is_left_out_and_further_mounts_come_along(golden: Golden) -> None:
    for name in ("home", "srv"):
        (golden.root / name).mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "none", golden.root / name])
    try:
        for name in ("home/mine", "srv/data", "srv/lost+found/x", "etc/odd [name]"):
            (golden.root / name).parent.mkdir(exist_ok=True)
            (golden.root / name).write_text("x\n")
        excludes = ("/var/big", "/etc/odd \\[*")
        done = golden.capture(mounts=("/srv",), excludes=excludes)
        there = set(listing(golden.tree))
        assert {"home", "srv/data", "etc/motd"} <= there
        assert not {"home/mine", "srv/lost+found", "var/big", "etc/odd [name]"} & there
        assert done.total < BIG
        (golden.root / "srv/data").unlink()
        golden.capture(mounts=("/srv",), excludes=excludes)
        assert "srv/data" not in listing(golden.tree)
    finally:
        for name in ("home", "srv"):
            run(["umount", golden.root / name])


def failed(golden: Golden, **changes: object) -> RookeryError:
    with pytest.raises(RookeryError) as raised:
        golden.capture(**changes)
    assert raised.value.record.hint
    return raised.value


def test_machines_that_cannot_be_captured(golden: Golden, tmp_path: Path) -> None:
    no_hosts = tmp_path / "no-hosts"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"])
    changed_hosts = tmp_path / "changed-hosts"
    port = golden.sshd.port
    changed_hosts.write_text(f"[127.0.0.1]:{port} {(tmp_path / 'other.pub').read_text()}")
    stranger = (f"IdentityFile={tmp_path / 'other'}", "IdentitiesOnly=yes")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = int(silent.getsockname()[1])
    cases = [
        ({"known_hosts": no_hosts}, ErrorKind.UNAUTHORIZED, "host key of 127.0.0.1 is not known", "--accept-new"),
        ({"known_hosts": changed_hosts}, ErrorKind.UNAUTHORIZED, "another host key", "ssh-keygen -R"),
        ({"options": stranger}, ErrorKind.UNAUTHORIZED, "does not let", "authorized_keys|ssh-copy-id"),
        ({"port": closed}, ErrorKind.UNAVAILABLE, "nothing answers", "--port"),
        ({"host": "no-such-host.invalid"}, ErrorKind.UNAVAILABLE, "does not know the name", "address"),
        ({"options": ("NoSuchOption=1",)}, ErrorKind.INVALID, "does not take these options", "ssh_config"),
        ({"root": "/no/such/directory"}, ErrorKind.NOT_FOUND, "no directory /no/such/directory", ""),
    ]
    for changes, kind, message, hint in cases:
        with pytest.raises(RookeryError, match=message) as raised:
            golden.capture(machine=golden.machine(**changes))
        assert (raised.value.kind, changes) == (kind, changes)
        assert re.search(hint, raised.value.record.hint), changes
    # By now there is neither a tree nor what it would be made in.
    assert golden.room.trees.all() == ()
    assert not golden.room.paths.trees.exists() or list(golden.room.paths.trees.iterdir()) == []
    # A new host key is taken when that is asked for, and remembered.
    golden.capture(machine=golden.machine(known_hosts=no_hosts, accept_new=True))
    assert "ssh-ed25519 " in no_hosts.read_text()
    golden.capture(machine=golden.machine(known_hosts=no_hosts))


@pytest.mark.parametrize(
    ("command", "kind", "message", "hint"),
    [
        (
            "exec unshare --mount sh -c 'mount --bind /dev/null /usr/bin/rsync; eval \"$SSH_ORIGINAL_COMMAND\"'",
            ErrorKind.MISSING,
            "there is no rsync on 127.0.0.1",
            "apt install rsync",
        ),
        (
            'exec setpriv --reuid=65534 --clear-groups sh -c "$SSH_ORIGINAL_COMMAND"',
            ErrorKind.FORBIDDEN,
            "not root",
            "--sudo",
        ),
        ("echo Welcome to the appliance", ErrorKind.FAILED, "as a machine with a shell does", "ssh 127.0.0.1 id"),
        ("echo go away >&2; exit 3", ErrorKind.UNAVAILABLE, "cannot speak to 127.0.0.1", "as the head's user"),
    ],
)
def test_a_user_that_cannot_be_captured_from(
    golden: Golden, sshd_config: Callable[[str], None], command: str, kind: ErrorKind, message: str, hint: str
) -> None:
    sshd_config(f"ForceCommand {command}")
    with pytest.raises(RookeryError, match=message) as raised:
        golden.capture()
    assert raised.value.kind is kind
    assert hint in raised.value.record.hint


def test_by_sudo(golden: Golden) -> None:
    assert golden.capture(machine=golden.machine(sudo=True)).moved > BIG


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "-oProxyCommand=touch /tmp/x"},
        {"host": "a b"},
        {"host": ""},
        {"user": "-l"},
        {"user": "a b"},
        {"root": "relative"},
        {"root": "/a/../b"},
        {"options": ("-v",)},
        {"options": ("Port",)},
        {"options": ("User=x\nProxyCommand=y",)},
    ],
)
def test_words_that_are_not_what_they_should_be(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(RookeryError) as raised:
        dataclasses.replace(Remote("node7", tmp_path), **wrong)  # type: ignore[arg-type]
    assert raised.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize(
    "wrong", [{"mounts": ("/",)}, {"mounts": ("boot",)}, {"mounts": ("/a/../b",)}, {"excludes": ("!",)}]
)
def test_mounts_and_patterns_that_are_none(tmp_path: Path, wrong: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(RookeryError) as raised:
        Wish(Remote("node7", tmp_path), "golden", **wrong)
    assert raised.value.kind is ErrorKind.INVALID


def test_a_tree_of_something_else_and_changes_by_hand_are_kept(golden: Golden) -> None:
    golden.room.open()
    kept = failed(golden, name="base")
    assert (kept.kind, "it is another: base@" in str(kept)) == (ErrorKind.CONFLICT, True)
    golden.capture()
    (golden.tree / "etc/mine").write_text("mine\n")
    kept = failed(golden)
    assert (kept.kind, "changed by hand" in str(kept)) == (ErrorKind.CONFLICT, True)
    assert (golden.tree / "etc/mine").exists()
    assert (golden.root / "etc/motd").exists()
    with lock.hold(golden.tree.parent, "shell"):
        assert "in use: shell, by " in str(failed(golden, force=True))
    golden.capture(force=True)
    assert not (golden.tree / "etc/mine").exists()


def slow(golden: Golden, pid_file: Path, rate: int = 4_000_000) -> tuple[str, ...]:
    """The options of a machine behind a thin line."""
    script = Path(__file__).with_name("throttle_process.py")
    return (*golden.sshd.options, f"ProxyCommand={sys.executable} {script} %h %p {rate} {pid_file}")


def test_a_machine_that_goes_away(golden: Golden, tmp_path: Path) -> None:
    line = tmp_path / "line"

    def cut(told: Progress) -> None:
        if told.done > BIG / 3 and line.exists():
            os.kill(int(line.read_text()), signal.SIGKILL)
            line.unlink()

    wish = Wish(golden.machine(options=slow(golden, line)), "golden")
    with pytest.raises(RookeryError, match="broke off; what came is kept") as raised:
        capture(golden.room.trees, wish, "latest", cut, threading.Event())
    assert raised.value.kind is ErrorKind.UNAVAILABLE
    assert "goes on" in raised.value.record.hint
    goes_on(golden)


def goes_on(golden: Golden) -> None:
    """A capture was cut off: the tree is there and cannot be published; the next capture moves only the rest."""
    tree = golden.room.trees.tree("golden")
    assert not tree.state.complete
    assert tree.holder is None
    with pytest.raises(RookeryError, match="was cut off") as raised:
        golden.room.trees.publish("golden", "latest", golden.room.told.append, golden.room.cancel)
    assert raised.value.kind is ErrorKind.CONFLICT
    done = golden.capture("latest")
    assert done.moved < BIG * 0.8
    assert golden.room.trees.tree("golden").state.complete
    assert listing(golden.tree).keys() >= {"var/big", "etc/motd", "bin/busybox"}
    assert (golden.tree / "var/big").read_bytes() == (golden.root / "var/big").read_bytes()
    assert not list(golden.tree.rglob(".big*"))
    assert golden.room.catalog.resolve("golden").kind == "image"


def test_cancelled_in_the_middle(golden: Golden, tmp_path: Path) -> None:
    cancel = threading.Event()
    wish = Wish(golden.machine(options=slow(golden, tmp_path / "line")), "golden")
    with pytest.raises(RookeryError) as raised:
        capture(golden.room.trees, wish, "", lambda told: cancel.set() if told.done > BIG / 3 else None, cancel)
    assert raised.value.kind is ErrorKind.CANCELLED
    goes_on(golden)


def test_a_killed_head(golden: Golden, tmp_path: Path) -> None:
    golden.machine()
    script = Path(__file__).with_name("capture_process.py")
    argv = [sys.executable, script, golden.room.paths.directory, str(golden.sshd.port), golden.root]
    with spawn([*argv, *slow(golden, tmp_path / "line")], stdout=PIPE, env={"PYTHONPATH": ":".join(sys.path)}) as head:
        assert head.stdout is not None
        for line in head.stdout:
            if int(line) > BIG / 3:
                break
        assert golden.room.trees.tree("golden").holder is not None
        head.kill()
        head.wait()
        until = time.monotonic() + 30
        while golden.room.trees.tree("golden").holder is not None:
            assert time.monotonic() < until
            time.sleep(0.02)
    processes = run(["pgrep", "-f", str(golden.tree)], check=False).stdout
    assert processes == ""
    tree = golden.room.trees.tree("golden")
    assert not tree.state.complete
    golden.capture()
    assert (golden.tree / "var/big").read_bytes() == (golden.root / "var/big").read_bytes()
    assert not list(golden.tree.rglob(".big*"))


def test_a_full_disk(golden: Golden) -> None:
    trees = golden.room.paths.trees
    trees.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={BIG // 2}", "none", trees])
    try:
        full = failed(golden)
        assert (full.kind, "what came is kept" in str(full)) == (ErrorKind.NO_SPACE, True)
        assert not golden.room.trees.tree("golden").state.complete
        run(["mount", "-o", f"remount,size={BIG * 4}", trees])
        golden.capture()
        assert (golden.tree / "var/big").read_bytes() == (golden.root / "var/big").read_bytes()
    finally:
        run(["umount", trees])


SWAPS = """Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/sda2                               partition\t1048572\t\t0\t\t-2
{below}/swap\\040file                      file\t\t1048572\t\t0\t\t-3
/elsewhere/swap                         file\t\t1048572\t\t0\t\t-4
"""
MINE = ("etc/munge/munge.key", "root/.cache/kept/deep/x", "var/log/installer/log", "root/.cache/other", "etc/mine.key")


def machine_with(golden: Golden, sshd_config: Callable[[str], None], below: str, start: str = "") -> None:
    """A machine whose kernel says that it swaps to files, `below` its root and elsewhere."""
    swaps = golden.sshd.place / "swaps"
    swaps.write_text(SWAPS.format(below=below))
    for name in ("swap file", "swapped"):
        (golden.root / name).write_text("x\n")
    start = start or 'eval "$SSH_ORIGINAL_COMMAND"'
    sshd_config(f"ForceCommand exec unshare --mount sh -c 'mount --bind {swaps} /proc/swaps && {start}'")


def test_swap_files_stay(golden: Golden, sshd_config: Callable[[str], None]) -> None:
    machine_with(golden, sshd_config, str(golden.root))
    link = golden.root.with_name("link")
    link.symlink_to(golden.root)
    for root in (golden.root, link):
        golden.capture(machine=golden.machine(root=str(root)), name=root.name)
        there = golden.room.trees.tree(root.name).root
        assert (there / "swapped").exists()
        assert not (there / "swap file").exists()


@pytest.fixture
def node(golden: Golden, sshd_config: Callable[[str], None]) -> Golden:
    """The machine as a node that runs the version `base:kept`: the head wrote its motd, its root is an overlay."""
    root = golden.root
    said = run(["ldd", "/usr/bin/rsync"]).stdout
    for path in ("/usr/bin/rsync", *re.findall(r"(/\S+) \(0x", said)):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / path[1:]).write_bytes(Path(path).read_bytes())
    (root / "usr/bin/rsync").chmod(0o755)
    for path in re.findall(r"(/\S*/ld-\S+) \(0x", said):
        (root / path[1:]).chmod(0o755)
    for name in MINE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("its own\n")
    with image.site(golden.room.paths.work) as site:
        copy = golden.sshd.place / "copy"
        run(["cp", "-a", root, copy])
        built = image.finish(copy, site, Recipe(identity=IdentityRules(MINE[:1])), BuiltTree({}), 1_600_001_000)
        version = golden.room.publisher.image(
            *("base", built, RECIPE, "kept", golden.room.told.append, golden.room.cancel)
        )
        built.discard()
    for name, text in (
        ("etc/rookery-release", f"IMAGE=base\nVERSION={version.id}\n"),
        ("run/rookery/state/settled", "/etc/motd\n"),
        ("run/rookery/lower/etc/motd", "of the image\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    into = f"mount --rbind /proc {root}/proc && mount --bind /dev {root}/dev && exec chroot {root} /bin/sh -c"
    machine_with(golden, sshd_config, "", f'{into} "$SSH_ORIGINAL_COMMAND"')
    return golden


RECIPE = """# what it is made of
[identity]
keep = ["/etc/munge/munge.key"]
remove = ["/etc/mine.*"]
"""


def published(node: Golden, reference: str) -> set[str]:
    """What there is of MINE in a version."""
    version = node.room.catalog.resolve(reference)
    said = run(["unsquashfs", "-l", node.room.trees._squashfs(version)]).stdout
    return {name for name in MINE if f"squashfs-root/{name}\n" in said}


def test_what_the_recipe_of_a_nodes_version_keeps_is_kept(node: Golden) -> None:
    node.capture(machine=node.machine(root="/"))
    # The rest did not so much as travel.
    assert [name for name in MINE if (node.tree / name).exists()] == [MINE[0]]
    node.capture("latest", machine=node.machine(root="/"))
    assert (node.tree / MINE[0]).read_text() == "its own\n"
    assert (node.tree / "etc/motd").read_text() == "of the image\n"
    assert (node.tree / "swapped").exists()
    assert not (node.tree / "swap file").exists()
    assert published(node, "golden:latest") == {MINE[0]}
    # A machine of which no version is known keeps what the tree's last capture knew.
    (node.root / "etc/rookery-release").write_text(f"VERSION={'0' * 64}\n")
    node.capture("again", machine=node.machine(root="/"))
    assert node.room.catalog.resolve("golden:again").id == node.room.catalog.resolve("golden:latest").id


def test_what_captures_keep_and_remove_holds_for_the_next_and_goes_along(node: Golden) -> None:
    keep = ("/root/*/kept", "/var/log/installer/*")
    machine = node.machine(root="/")
    node.capture(machine=machine, identity=IdentityRules(keep, ("/etc/motd.*",)))
    # Nothing else so much as travelled.
    assert [name for name in MINE if (node.tree / name).exists()] == [*MINE[:3]]
    node.capture("first", machine=machine)
    assert published(node, "golden:first") == {*MINE[:3]}
    assert not (node.tree / "etc/motd.too").exists()
    node.capture("again", machine=machine)
    assert node.room.catalog.resolve("golden:again").id == node.room.catalog.resolve("golden:first").id
    # Another tree of a machine that runs this version.
    version = node.room.catalog.resolve("golden:first")
    (node.root / "etc/rookery-release").write_text(f"VERSION={version.id}\n")
    node.capture("other", machine=machine, name="other")
    assert node.room.catalog.resolve("other:other").id == version.id
    # What is named anew replaces; what removes stays.
    node.capture("third", machine=machine, identity=IdentityRules(("/root/.cache/*",)))
    assert published(node, "golden:third") == {MINE[0], MINE[1], MINE[3]}
    assert not (node.tree / "etc/motd.too").exists()


@pytest.mark.parametrize("pattern", ["etc/hostname", "/a/../b", "/a\n/b", "", "/a "])
def test_patterns_that_are_none(tmp_path: Path, pattern: str) -> None:
    for rules in (IdentityRules((pattern,)), IdentityRules((), (pattern,))):
        with pytest.raises(RookeryError, match="is not an absolute path pattern") as raised:
            Wish(Remote("node7", tmp_path), "golden", identity=rules)
        assert raised.value.kind is ErrorKind.INVALID
