# SPDX-License-Identifier: Apache-2.0
"""Working on an image by command line, from a machine that is captured to a version that is published."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rookery import run
from rookery.cli.connection import connect

if TYPE_CHECKING:
    from conftest import Place, Sshd

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture
def machine(tmp_path: Path, make_root: Callable[[Path], Path]) -> Path:
    root = make_root(tmp_path / "machine")
    (root / "var/data").write_bytes(os.urandom(3_000_000))
    return root


@pytest.fixture
def words(running: Place, sshd: Sshd, machine: Path) -> list[str]:
    """A capture of the machine."""
    shutil.copy(sshd.place / "user", running.directory / "id")
    (running.directory / "known_hosts").write_text(sshd.known)
    argv = ["image", "capture", "127.0.0.1", "--port", str(sshd.port), "--root", str(machine)]
    return argv + [word for option in sshd.options for word in ("--ssh-option", option)]


@pytest.fixture(autouse=True)
def no_trees(operate: Any) -> Any:
    yield
    for tree in json.loads(operate("image", "trees", "--json").out)["trees"]:
        assert operate("image", "close", tree["name"], "-y").code == 0
    for image in json.loads(operate("image", "list", "--json").out)["images"]:
        operate("image", "rm", image["name"], "-y")


def inside(running: Place, *argv: str, env: dict[str, str] | None = None) -> run.Completed:
    """A command that hands the terminal to another program: with real outputs, so as a process."""
    whole = [sys.executable, "-m", "rookery.cli", "image", *argv]
    return run.run(whole, check=False, timeout=120, env={"ROOKERY_DIR": str(running.directory), **(env or {})})


def versions(operate: Any, name: str) -> list[dict[str, Any]]:
    images = json.loads(operate("image", "list", "--json").out)["images"]
    return [version for image in images if image["name"] == name for version in image["versions"]]


def test_from_a_machine_to_a_version(operate: Any, running: Place, words: list[str], tmp_path: Path) -> None:
    done = operate(*words, "--as", "golden", "--tag", "first")
    assert done.code == 0, done.err
    assert "golden:first is version " in done.out
    assert " moved of " in done.err
    (first,) = versions(operate, "golden")
    assert (first["kind"], first["tags"]) == ("image", ["first"])

    done = inside(running, "exec", "golden", "--", "sh", "-c", "echo made > /etc/made; echo said; exit 5")
    assert (done.code, done.stdout) == (5, "said\n"), done.stderr
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho edited >> "$1"\n')
    editor.chmod(0o755)
    done = inside(running, "edit", "golden", "/etc/motd", env={"EDITOR": str(editor)})
    # Only $VISUAL, $EDITOR and what every program gets are taken over.
    assert (done.code, "/etc/motd is written" in done.stderr) == (0, True), done.stderr
    assert inside(running, "edit", "golden", "../../etc/motd", env={"EDITOR": str(editor)}).code == 2
    listed = operate("image", "trees").out
    assert ("capture of 127.0.0.1" in listed, "changed" in listed) == (True, True)

    done = operate("image", "publish", "golden", "--tag", "second")
    assert (done.code, "golden:second is version " in done.out) == (0, True), done.err
    assert len(versions(operate, "golden")) == 2
    again = json.loads(operate("image", "publish", "golden", "--tag", "third", "--json").out)
    assert again["tags"] == ["second", "third"]
    assert "unchanged" in operate("image", "trees").out

    asked = operate("image", "close", "golden")
    assert (asked.code, "remove the working tree of golden" in asked.err) == (2, True)
    assert operate("image", "close", "golden", "-y").code == 0
    opened = json.loads(operate("image", "open", "golden:second", "--json").out)
    root = Path(opened["root"])
    assert (root / "etc/made").read_text() == "made\n"
    assert (root / "etc/motd").read_text() == "hello\nedited\n"
    assert ((root / "etc/motd").stat().st_uid, (root / "etc/motd").stat().st_mode & 0o777) == (1, 0o640)
    clash = inside(running, "exec", "golden:first", "--", "true")
    assert (clash.code, "is not golden:first" in clash.stderr) == (4, True)
    assert inside(running, "exec", "golden:third", "--", "true").code == 0


def test_a_command_opens_the_tree(operate: Any, running: Place, words: list[str]) -> None:
    assert operate(*words, "--as", "golden").code == 0
    assert operate("image", "close", "golden", "-y").code == 0
    done = inside(running, "exec", "golden", "--", "cat", "/etc/motd")
    assert (done.code, done.stdout) == (0, "hello\n"), done.stderr
    assert inside(running, "exec", "nothing", "--", "true").code == 3
    assert inside(running, "shell", "golden").code == 0  # its input is at its end
    missing = inside(running, "exec", "golden", "--", "no-such-command")
    assert missing.code == 127


def test_captured_again_and_left_unpublished(operate: Any, words: list[str], machine: Path, tmp_path: Path) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_text("# what the next machine need not have\n/var/data\n")
    done = operate(*words, "--as", "golden", "--no-publish", "--exclude-from", str(patterns))
    assert done.code == 0, done.err
    assert "'rookery image publish golden' publishes it" in done.err
    assert "not published" in operate("image", "trees").out
    assert versions(operate, "golden") == []
    tree = json.loads(operate(*words, "--as", "golden", "--no-publish", "--json").out)
    assert tree["captured"]["moved"] > 3_000_000
    tree = json.loads(operate(*words, "--as", "golden", "--no-publish", "--json").out)
    assert tree["captured"]["moved"] < 100_000
    (Path(tree["root"]) / "etc/mine").touch()
    asked = operate(*words, "--as", "golden")
    assert (asked.code, "make it like the machine again?" in asked.err) == (2, True)
    assert operate(*words, "--as", "golden", "-y").code == 0
    assert not (Path(tree["root"]) / "etc/mine").exists()
    assert operate(*words, "--as", "golden", "--exclude-from", str(tmp_path / "none")).code == 3
    assert operate(*words, "--as", "../golden").code == 2
    wrong = operate("image", "capture", "-J", "--as", "x")
    assert wrong.code == 2


def test_who_works_in_a_tree_is_named(operate: Any, running: Place, words: list[str]) -> None:
    assert operate(*words, "--as", "golden").code == 0
    argv = [sys.executable, "-m", "rookery.cli", "image", "exec", "golden", "--dir", str(running.directory), "--"]
    with run.spawn([*argv, "sh", "-c", "echo ready; sleep 1000"], stdout=run.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        for command in (("publish", "golden"), ("close", "golden", "-y")):
            done = operate("image", *command)
            assert (done.code, "in use: exec, by " in done.err) == (4, True), done.err
        assert inside(running, "exec", "golden", "--", "true").code == 4
        assert "exec, by " in operate("image", "trees").out
        assert operate(*words, "--as", "golden").code == 4
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(30) == 130
    assert operate("image", "publish", "golden").code == 0


@pytest.mark.parametrize("how", ["systemd-nspawn", "chroot"])
def test_a_shell_at_a_terminal(operate: Any, running: Place, words: list[str], tmp_path: Path, how: str) -> None:
    assert operate(*words, "--as", "golden").code == 0
    environment = {**os.environ, "ROOKERY_DIR": str(running.directory)}
    if how == "chroot":
        (tmp_path / "systemd-nspawn").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "systemd-nspawn").chmod(0o755)
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    pid, terminal = pty.fork()
    if pid == 0:
        argv = [sys.executable, "-m", "rookery.cli", "image", "shell", "golden"]
        os.execve(argv[0], argv, environment)
    said = b""
    with os.fdopen(terminal, "r+b", buffering=0) as wire:
        for typed in (b"id -u; echo in $container.\n", b"exit 3\n"):
            before = len(said)
            while b"# " not in said[before:]:  # the prompt
                said += wire.read(1024)
            wire.write(typed)
        with contextlib.suppress(OSError):  # the last writer is gone
            while more := wire.read(1024):
                said += more
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3, said
    where = b"systemd-nspawn" if how == "systemd-nspawn" else b""
    assert b"\n0\r\nin " + where + b".\r\n" in said
    assert operate("image", "publish", "golden").code == 0  # nobody holds the tree


def test_a_machine_that_is_not_the_heads(operate: Any, running: Place, words: list[str]) -> None:
    assert operate(*words, "--as", "golden").code == 0
    place = json.loads(operate("image", "trees", "--json").out)["trees"][0]["place"]
    # A file system of its own in the tree's place: what another machine sees there.
    line = shlex.join([sys.executable, "-m", "rookery.cli", "image", "exec", "golden", "--", "true"])
    script = f"mount -t tmpfs none {shlex.quote(str(Path(place).parent))} && {line}"
    env = {"ROOKERY_DIR": str(running.directory)}
    done = run.run(["unshare", "--mount", "sh", "-c", script], check=False, env=env)
    assert (done.code, "on the head's machine" in done.stderr) == (2, True), done.stderr


def test_trees_outlive_the_head(place: Place, sshd: Sshd, machine: Path) -> None:
    (place.directory / "known_hosts").write_text(sshd.known)
    options = [word for option in sshd.options for word in ("--ssh-option", option)]
    words = ["image", "capture", "127.0.0.1", "--as", "golden", "--port", str(sshd.port), "--root", str(machine)]
    with place.serving():
        assert place.process(*words, *options, "--no-publish").code == 0
        (place.directory / "work" / "scratch").mkdir()
    with place.serving():
        (tree,) = json.loads(place.process("image", "trees", "--json").stdout)["trees"]
        assert (tree["name"], tree["changed"], tree["complete"]) == ("golden", False, True)
        assert not (place.directory / "work" / "scratch").exists()
        assert place.process("image", "publish", "golden").code == 0


def left(directory: Path) -> list[str]:
    """Mounts below a head's directory, in any namespace, and programs that were started to work there."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found |= {line for line in (process / "mountinfo").read_text().splitlines() if f"{directory}/" in line}
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory / "work") in words or f"{directory}/" in os.readlink(process / "root"):
                found.add(words)
    return sorted(found)


@dataclass(frozen=True)
class Cut:
    """A command of which Ctrl-C is typed in a stage of its job, and one by which the same is done in the end."""

    argv: tuple[str, ...]
    stage: str
    again: tuple[str, ...]


@pytest.fixture(params=["build", "publish", "export", "capture"])
def cut(request: pytest.FixtureRequest, operate: Any, words: list[str], machine: Path, tmp_path: Path) -> Cut:
    what: str = request.param
    if what == "build":
        (tmp_path / "slow.toml").write_text(f'archive = "{machine}"\ncommands = ["sleep 1000"]\n')
        (tmp_path / "quick.toml").write_text(f'archive = "{machine}"\n')
        slow, quick = (("image", "build", "golden", str(tmp_path / f"{name}.toml")) for name in ("slow", "quick"))
        return Cut(slow, "running the recipe's commands", quick)
    if what == "capture":
        throttle = Path(__file__).parents[1] / "head/trees/throttle_process.py"
        slowly = f"ProxyCommand={sys.executable} {throttle} %h %p 100000 {tmp_path}/line"
        once = (*words, "--as", "golden")
        return Cut((*once, "--ssh-option", slowly), "copying", once)
    if what == "export":
        with (tmp_path / "large").open("wb") as file:
            file.truncate(800 << 20)
        assert operate("publish", str(tmp_path / "large"), "--as", "golden").code == 0
        export = ("image", "export", "golden", str(tmp_path / "out/golden.capsule"))
        return Cut(export, "writing the capsule", export)
    (machine / "var/text").write_bytes(base64.b64encode(os.urandom(30_000_000)))  # packed with much work
    assert operate(*words, "--as", "golden", "--no-publish").code == 0
    publish = ("image", "publish", "golden")
    return Cut(publish, "packing the root", publish)


def test_ctrl_c(operate: Any, running: Place, tmp_path: Path, cut: Cut) -> None:
    (tmp_path / "out").mkdir()
    work, blobs = (running.directory / name for name in ("work", "blobs"))
    before = [set(os.listdir(path)) | {"trees"} for path in (work, blobs)]
    known = versions(operate, "golden")
    argv = [sys.executable, "-m", "rookery.cli", *cut.argv, "--dir", str(running.directory)]
    with connect(running.directory) as client, run.spawn(argv, stdout=run.PIPE, stderr=run.PIPE) as child:
        while not (
            there := [job for job in client.jobs().jobs if job.progress.stage == cut.stage and not job.ended_at]
        ):
            assert child.poll() is None, child.communicate()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (130, b""), err
        (job,) = there
        assert err.decode().splitlines()[-1] == f"error: {job.kind} of golden was cancelled"
        while job.ended_at is None:
            job = client.job(job.id, after=job.revision, wait=10)
        assert job.state == "cancelled"
    assert left(running.directory) == []
    assert [set(os.listdir(path)) | {"trees"} for path in (work, blobs)] == before
    assert os.listdir(tmp_path / "out") == []
    assert versions(operate, "golden") == known
    # The head goes on.
    done = operate(*cut.again)
    assert done.code == 0, done.err


def test_publishing_at_a_terminal_shows_a_bar(operate: Any, running: Place, words: list[str], machine: Path) -> None:
    (machine / "var/text").write_bytes(base64.b64encode(os.urandom(10_000_000)))
    assert operate(*words, "--as", "golden", "--no-publish").code == 0
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    argv = [sys.executable, "-m", "rookery.cli", "image", "publish", "golden", "--dir", str(running.directory)]
    said = b""
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        os.fdopen(theirs, "wb") as stderr,
        run.spawn(argv, stdout=run.PIPE, stderr=stderr, env={"TERM": "xterm"}) as child,
    ):
        stderr.close()
        with contextlib.suppress(OSError):  # the last writer is gone
            while more := terminal.read(1024):
                said += more
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert out.startswith(b"golden:latest is version ")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
    assert re.search(r"packing the root .* [0-9]+ of [0-9]+ +0:00:", shown), shown
    # In the end there is nothing of it, and the cursor is back.
    assert on_screen(shown) == ""
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def on_screen(shown: str) -> str:
    """What one sees when all of it was shown, of what rich uses: new lines, and lines that are erased."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[[?0-9]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part[0] not in "\r\x1b":
            rows[row] = part
    return "".join(rows).strip()


def test_completion_of_trees(operate: Any, running: Place, words: list[str]) -> None:
    assert operate(*words, "--as", "golden", "--no-publish").code == 0
    text = "rookery image publish g"
    names = {"_ROOKERY_COMPLETE": "complete_bash", "COMP_WORDS": text, "COMP_CWORD": "3"}
    done = run.run(
        [Path(sys.executable).with_name("rookery")], env={**names, "ROOKERY_DIR": str(running.directory)}, check=False
    )
    assert done.stdout.split() == ["golden"]
