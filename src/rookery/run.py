# SPDX-License-Identifier: Apache-2.0
"""The only place that starts processes.

argv lists only, never a shell string; standard input closed unless given; a clean environment; and on failure the
command is shown ready to paste, with the last lines it printed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rookery.errors import ErrorKind, RookeryError

KEPT_LINES = 20
PIPE = subprocess.PIPE
Child = subprocess.Popen[bytes]  # for annotations elsewhere: only this module imports subprocess
# Before a command: it goes when this process is killed. To be started from a thread that waits for its end, as `run`
# does: the kernel's signal comes when that thread ends.
BOUND = ("setpriv", "--pdeathsig", "KILL")
_KEPT_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "TERM")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """A finished command: argv, exit code (negative: killed by that signal), standard output and error as text."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class RunError(RookeryError):
    """A command that exited other than 0, ran out of time, or could not be started."""

    def __init__(self, message: str, completed: Completed, hint: str = "") -> None:
        lines = (completed.stderr or completed.stdout).strip().splitlines()[-KEPT_LINES:]
        details = "\n".join([f"$ {shlex.join(completed.argv)}", *lines])
        super().__init__(message, kind=ErrorKind.FAILED, details=details, hint=hint)
        self.completed = completed


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The clean environment for a child: what a tool needs of ours, locale C.UTF-8, then `extra`."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    kept.setdefault("PATH", _DEFAULT_PATH)
    # An administrator's PATH often lacks sbin, where dnsmasq, ip and modprobe are.
    kept["PATH"] = ":".join(dict.fromkeys([*kept["PATH"].split(":"), *_DEFAULT_PATH.split(":")]))
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def which(program: str) -> Path | None:
    """Where `program` is on the path that `run` uses, or None."""
    found = shutil.which(program, path=environment()["PATH"])
    return Path(found) if found else None


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    on_line: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
    hint: str = "",
) -> Completed:
    """Run one command to its end.

    `on_line` gets every line of output (standard error merged into it) as it comes; `cancel`, when set from another
    thread, ends the command's whole process group and raises `cancelled`. `timeout` in seconds.
    Raises RunError on a non-zero exit with `check`, on time-out, and when the program is not there (kind `missing`).
    """
    words = tuple(str(word) for word in argv)
    with spawn(
        words,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
        cwd=cwd,
        env=env,
    ) as child:
        stopper = _stop_when(child, cancel, timeout)
        try:
            if on_line:
                out, err = _read_lines(child, stdin, on_line), ""
            else:
                raw_out, raw_err = child.communicate(stdin)
                out, err = raw_out.decode(errors="replace"), (raw_err or b"").decode(errors="replace")
            code = child.wait()
        finally:
            stopper.finished.set()
            stopper.thread.join()
    done = Completed(words, code, out, err)
    if cancel is not None and cancel.is_set():
        raise RookeryError(f"{Path(words[0]).name} was cancelled", kind=ErrorKind.CANCELLED)
    if stopper.timed_out:
        raise RunError(f"{Path(words[0]).name} did not finish within {timeout:g} s", done, hint)
    if check and code != 0:
        raise RunError(f"{Path(words[0]).name} failed with exit code {code}", done, hint)
    return done


@contextlib.contextmanager
def spawn(
    argv: Sequence[str | Path],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    grace: float = 5.0,
    inherit: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own and end the whole group on leaving the block.

    The group gets SIGTERM, then SIGKILL after `grace` seconds. Raises RookeryError of kind `missing` when the program
    is not there.
    """
    child = start(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, inherit=inherit)
    try:
        yield child
    finally:
        end(child, grace)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def start(
    argv: Sequence[str | Path],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own; the caller ends it with `end`. Prefer `spawn`.

    inherit: file descriptors that it gets beside the three."""
    words = [str(word) for word in argv]
    return _begin(
        words,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=environment(env),
        start_new_session=True,
        pass_fds=tuple(inherit),
    )


def _begin(words: list[str], *, cwd: Path | None = None, **how: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(words, cwd=cwd, **how)
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise RookeryError(f"no directory {cwd} to run {words[0]} in", kind=ErrorKind.NOT_FOUND) from error
        raise RookeryError(
            f"the program {words[0]} is not installed",
            kind=ErrorKind.MISSING,
            hint="run 'rookery doctor': it names the package to install",
        ) from error
    except PermissionError as error:
        raise RookeryError(f"not allowed to run {words[0]}", kind=ErrorKind.FORBIDDEN) from error


def foreground(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, inherit: Sequence[int] = ()) -> int:
    """Run a command for the user: on our own terminal, in our process group, with our standard input and outputs.

    Returns its exit code, 128 + N when it was ended by signal N. Ctrl-C on a terminal is for the command, which decides
    what to do; otherwise the signal ends the command, by SIGKILL, and KeyboardInterrupt is raised. inherit: file
    descriptors that the command gets too. To be called in the main thread. Raises RookeryError of kind `missing`.
    """
    words = [str(word) for word in argv]
    of_terminal = sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    before = signal.getsignal(signal.SIGINT)
    if of_terminal:
        signal.signal(signal.SIGINT, lambda *_: None)  # a handler of ours; the command itself starts with the default
    try:
        with _begin(words, env=environment(env), pass_fds=tuple(inherit)) as child:
            try:
                code = child.wait()
            except BaseException:
                child.kill()
                raise
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - code if code < 0 else code


def end(child: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a child's process group: SIGTERM, then SIGKILL after `grace` seconds. A finished child is only reaped."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)


def _read_lines(child: subprocess.Popen[bytes], stdin: bytes | None, on_line: Callable[[str], None]) -> str:
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    if stdin is not None and child.stdin is not None:
        child.stdin.write(stdin)
        child.stdin.close()
    assert child.stdout is not None
    for raw in child.stdout:
        # Progress meters separate their states by carriage returns: the last one counts.
        line = raw.decode(errors="replace").rstrip("\n").rsplit("\r", 1)[-1]
        kept.append(line)
        on_line(line)
    return "\n".join(kept)


class _Stopper:
    def __init__(self) -> None:
        self.finished = threading.Event()
        self.timed_out = False
        self.thread = threading.Thread(target=lambda: None)


def _stop_when(child: subprocess.Popen[bytes], cancel: threading.Event | None, timeout: float | None) -> _Stopper:
    stopper = _Stopper()

    def watch() -> None:
        waited = 0.0
        while not stopper.finished.wait(0.1):
            waited += 0.1
            stopper.timed_out = timeout is not None and waited >= timeout
            if stopper.timed_out or (cancel is not None and cancel.is_set()):
                end(child)
                return

    if cancel is not None or timeout is not None:
        stopper.thread = threading.Thread(target=watch, name="run-watch", daemon=True)
    stopper.thread.start()
    return stopper
