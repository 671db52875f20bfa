# SPDX-License-Identifier: Apache-2.0
"""Commands inside a tree, in systemd-nspawn and by chroot: what they find, what they leave, and kills."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.trees import lock
from rookery.head.trees.enter import Inside, enter

pytestmark = pytest.mark.system
HOST = Path("/etc/resolv.conf")


@pytest.fixture
def place(tmp_path: Path, make_root: Callable[[Path], Path]) -> Path:
    make_root(tmp_path / "base" / "root")
    return tmp_path / "base"


@pytest.fixture(params=["container", "chroot"])
def how(request: pytest.FixtureRequest) -> str:
    if request.param == "container" and run.which("systemd-nspawn") is None:
        pytest.fail("systemd-nspawn is not installed: apt install systemd-container")
    return str(request.param)


def words(place: Path, how: str, *argv: str) -> list[str]:
    script = Path(__file__).with_name("enter_process.py")
    return [sys.executable, str(script), str(place), how, *argv]


def inside(place: Path, how: str, *argv: str, path: str = os.environ["PATH"]) -> run.Completed:
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": path}
    return run.run(words(place, how, *argv), check=False, env=env, timeout=60)


def traces(place: Path) -> list[str]:
    """Processes that live below a directory or have something mounted there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts, root = (process / "mountinfo").read_text(), os.readlink(process / "root")
        except OSError:
            continue
        if f"{place}/" in mounts or str(place) in root:
            found.append(f"{process.name}: {(process / 'cmdline').read_bytes()!r}")
    return found


def test_what_a_command_finds_and_how_it_ends(place: Path, how: str) -> None:
    done = inside(place, how, "sh", "-c", "echo out; echo wrong >&2; id -u; cat /etc/resolv.conf; touch /made; exit 7")
    assert done.code == 7
    assert done.stdout == f"out\n0\n{HOST.read_text()}"
    assert "wrong\n" in done.stderr
    assert (place / "root/made").exists()
    assert not (place / "root/etc/resolv.conf").exists()
    assert list((place / "root/run").iterdir()) == list((place / "root/dev").iterdir()) == []
    said = inside(place, how, "sh", "-c", "mount; test -c /dev/null && test -d /proc/self && test -w /tmp").stdout
    for path in ("/proc", "/sys", "/dev", "/dev/pts", "/run"):
        assert f" on {path} type " in said or f"{place}/root{path} type" in said, path
    assert traces(place) == []


def test_without_a_systemd_nspawn_that_starts_it_is_chroot(place: Path, tmp_path: Path) -> None:
    """As inside of another container: it is installed, and cannot begin."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "systemd-nspawn").write_text(f"#!/bin/sh\necho tried >> {tmp_path}/tries\necho no >&2\nexit 1\n")
    (broken / "systemd-nspawn").chmod(0o755)
    command = ("sh", "-c", 'echo "out $container"; id -u; test -c /dev/null && test -d /proc/self && exit 7')
    done = inside(place, "either", *command, path=f"{broken}:{os.environ['PATH']}:/usr/sbin:/sbin")
    assert (done.code, done.stdout, done.stderr) == (7, "out \n0\n", "")
    assert (tmp_path / "tries").read_text() == "tried\n"
    assert traces(place) == []
    # The same command where systemd-nspawn is as it should be.
    done = inside(place, "either", *command)
    assert (done.code, done.stdout) == (7, "out systemd-nspawn\n0\n"), done.stderr


def test_a_command_that_is_not_there(place: Path, how: str) -> None:
    assert inside(place, how, "no-such-command").code == 127


def test_words_are_passed_on_as_they_are(place: Path, how: str) -> None:
    odd = ["a b", "$HOME", "*", "'", '"', "--console=pipe", "%s", "\\"]
    assert inside(place, how, "printf", "%s\\n", *odd).stdout.splitlines() == odd


def test_processes_do_not_outlive_the_command(place: Path, how: str) -> None:
    done = inside(place, how, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo begun")
    assert (done.code, done.stdout) == (0, "begun\n")
    assert traces(place) == []
    assert lock.holder(place) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_command_leaves_nothing(place: Path, how: str, number: signal.Signals) -> None:
    (place / "root/etc/resolv.conf").write_text("its own\n")
    argv = words(place, how, "sh", "-c", "mkdir -p /in; mount -t tmpfs none /in; echo ready; sleep 1000")
    with run.spawn(argv, stdout=run.PIPE, env={"PYTHONPATH": ":".join(sys.path)}) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert traces(place) != []
        held = lock.holder(place)
        assert held is not None
        with pytest.raises(RookeryError) as raised, lock.hold(place, "publish"):
            pass
        assert raised.value.kind is ErrorKind.CONFLICT
        os.kill(held.pid, number)
        assert child.wait(30) == (-9 if number == signal.SIGKILL else 130)
        until = time.monotonic() + 30
        while lock.holder(place) is not None:
            assert time.monotonic() < until, traces(place)
            time.sleep(0.02)
    # Whoever is next finds nothing of it: the tree is free only when all of it has gone.
    assert traces(place) == []
    assert inside(place, how, "cat", "/etc/resolv.conf").stdout == HOST.read_text()
    assert (place / "root/etc/resolv.conf").read_text() == "its own\n"
    assert sorted(path.name for path in place.iterdir()) == ["lock", "root"]


def test_what_the_command_makes_of_resolv_conf_stays(place: Path, how: str) -> None:
    path = place / "root/etc/resolv.conf"
    inside(place, how, "sh", "-c", "rm /etc/resolv.conf && ln -s ../run/resolve/stub.conf /etc/resolv.conf")
    assert os.readlink(path) == "../run/resolve/stub.conf"
    # A link into /run, which is made for the moment: the file is lent there.
    assert inside(place, how, "cat", "/etc/resolv.conf").stdout == HOST.read_text()
    assert os.readlink(path) == "../run/resolve/stub.conf"


def test_a_link_in_place_of_a_mount_point_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (place / "root/proc").rmdir()
    (place / "root/proc").symlink_to(tmp_path / "outside")
    with lock.hold(place, "exec") as handle, pytest.raises(RookeryError) as raised:
        enter(Inside("base", place, place / "root", "", handle), ["true"])
    assert raised.value.kind is ErrorKind.INVALID


def test_a_tree_without_programs(place: Path) -> None:
    run.run(["rm", "-r", place / "root/bin", place / "root/usr"])
    with lock.hold(place, "exec") as handle, pytest.raises(RookeryError, match="no programs"):
        enter(Inside("base", place, place / "root", "", handle), ["true"])


def test_ctrl_c_is_for_the_command(place: Path, how: str) -> None:
    argv = words(place, how, "sh", "-c", "trap 'echo heard; exit 9' INT; echo ready; while :; do sleep 1; done")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, {**os.environ, "PYTHONPATH": ":".join(sys.path)})
    said = b""
    with os.fdopen(terminal, "r+b", buffering=0) as wire:
        while b"ready" not in said:
            said += wire.read(1024)
        wire.write(b"\x03")
        with contextlib.suppress(OSError):  # the last writer is gone
            while more := wire.read(1024):
                said += more
    _, status = os.waitpid(pid, 0)
    assert (os.waitstatus_to_exitcode(status), b"heard" in said) == (9, True), said
    assert traces(place) == []
    assert lock.holder(place) is None
