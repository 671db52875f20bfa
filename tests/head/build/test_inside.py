# SPDX-License-Identifier: Apache-2.0
"""Programs inside a root: what they see, what they cannot reach, and that nothing of them stays."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import inside
from rookery.head.build.inside import STAGE, Surroundings
from rookery.run import run

pytestmark = pytest.mark.system
Traces = Callable[[Path], list[str]]


def said(root: Path, script: str, use: Surroundings | None = None) -> list[str]:
    return run(inside.chrooted(root, ["sh", "-c", script], use)).stdout.splitlines()


def test_a_command_has_surroundings_of_its_own(root: Path, tmp_path: Path, traces: Traces) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/lent").write_text("lent\n")
    before = sorted(os.listdir(root / "dev"))
    use = Surroundings(stage=tmp_path / "stage", variables={"HELLO": "a b"})
    assert said(root, "echo $$ $HELLO; pwd; readlink /proc/1/root", use) == ["1 a b", "/", "/"]
    assert said(root, "ls /dev/[hsv]d* /dev/nvme* 2>&- | wc -l; echo x >/dev/null && echo written") == ["0", "written"]
    assert said(root, f"cat {STAGE}/lent; touch {STAGE}/x 2>&- || echo no", use) == ["lent", "no"]
    assert said(root, "ls /run; touch /run/x") == ["lock"]
    assert said(root, "cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text().splitlines()
    # What would change the head.
    assert said(root, "echo 1 2>&- >/proc/sys/kernel/printk || echo no; touch /sys/x 2>&- || echo no") == ["no", "no"]
    assert sorted(os.listdir(root / "dev")) == before
    assert os.listdir(root / "proc") == os.listdir(root / "sys") == []
    assert traces(tmp_path) == []


def test_only_what_is_said_comes_in_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setenv("SECRET", "x")
    names = {line.partition("=")[0] for line in said(root, "env")}
    assert names - {"http_proxy", "https_proxy", "no_proxy"} == {"PATH", "HOME", "LC_ALL", "TERM", "PWD"}


@pytest.mark.parametrize("target", ["../run/systemd/resolve/stub-resolv.conf", "/run/resolvconf/resolv.conf"])
def test_a_root_with_a_running_resolver_is_lent_the_heads(root: Path, target: str) -> None:
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").symlink_to(target)
    assert said(root, "cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text().splitlines()
    assert os.readlink(root / "etc/resolv.conf") == target
    assert os.listdir(root / "run") in ([], ["lock"])


@pytest.mark.parametrize("name", ["dev", "proc", "etc"])
def test_a_link_in_the_place_of_a_mount_point_leads_nowhere(tmp_path: Path, name: str, traces: Traces) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / name).symlink_to(outside)
    done = run(inside.chrooted(tmp_path / "root", ["sh"]), check=False)
    assert (done.code, done.stderr) == (125, f"/{name} of this root is a symbolic link\n")
    assert os.listdir(outside) == []
    assert traces(tmp_path) == []


def test_a_program_that_is_not_there(root: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        inside.execute(root, ["no-such-program"], Surroundings(), threading.Event())
    assert (caught.value.kind, str(caught.value)) == (ErrorKind.INVALID, "this root has no program no-such-program")


def test_cancelling_leaves_nothing(root: Path, traces: Traces) -> None:
    cancel = threading.Event()
    script = "trap '' TERM; sleep 600 & echo begun; mount -t tmpfs tmpfs /mnt 2>&-; sleep 600"
    with pytest.raises(RookeryError) as caught:
        inside.execute(root, ["sh", "-c", script], Surroundings(), cancel, lambda line: cancel.set())
    assert caught.value.kind is ErrorKind.CANCELLED
    assert traces(root) == []


KILLED = """
import sys, threading
from pathlib import Path
from rookery.head.build import inside
root = Path(sys.argv[1])
inside.execute(root, ["sh", "-c", "sleep 600 & echo begun; sleep 600"], inside.Surroundings(), threading.Event(), print)
"""


def test_a_killed_head_leaves_nothing(root: Path, traces: Traces) -> None:
    words = [sys.executable, "-u", "-c", KILLED, root]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdout is not None
        assert head.stdout.readline() == "begun\n"
        children = [os.pidfd_open(int(line.split(":")[0])) for line in traces(root) if line.split(":")[0].isdigit()]
        assert len(children) >= 2
        os.kill(head.pid, signal.SIGKILL)
    for child in children:
        assert select.select([child], [], [], 30)[0], "a process outlived the head"
        os.close(child)
    assert traces(root) == []


def test_programs_are_looked_for_without_leaving_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("/bin")
    assert not inside.has_program(tmp_path, "sh")
    (tmp_path / "usr/bin/sh").symlink_to("/usr/bin/busybox")
    assert not inside.has_program(tmp_path, "sh")
    (tmp_path / "usr/bin/busybox").touch(0o755)
    (tmp_path / "usr/bin/text").touch(0o644)
    assert inside.has_program(tmp_path, "sh")
    assert not inside.has_program(tmp_path, "text")
