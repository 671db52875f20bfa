# SPDX-License-Identifier: Apache-2.0
"""Builds on another machine: sends the builders and the recipe there, follows the work, and brings the image home."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rookery import codec, files
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.head.build import apart, image, parcel, there
from rookery.head.build.builder import Base
from rookery.head.build.image import BuiltImage
from rookery.head.build.parcel import SentImage
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress, Progress
from rookery.head.remote.machine import Remote, explained
from rookery.run import PIPE, Child, Completed, spawn

_BLOCK = 1 << 20
_MOST_LINE = 1 << 24  # bytes: a list of packages is one line
_PATIENCE = 30.0  # seconds that the other machine has to clean up
_NO_PYTHON, _NO_ROOT = 97, 98  # exit codes of the script below
_SSH_FAILED = 255  # of ssh itself

# $1: bytes of the program. Needs a shell, mktemp, head and Python there. The program removes what it made; the trap is
# for what comes before and after it.
_SCRIPT = f"""
umask 077
for python in python3.14 python3.13 python3.12 python3.11 python3 none; do
    [ "$python" = none ] && exit {_NO_PYTHON}
    "$python" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && break
done
as=
[ "$(id -u)" = 0 ] || as="sudo -n"
$as true </dev/null || exit {_NO_ROOT}
d=$(mktemp -d "${{TMPDIR:-/var/tmp}}/rookery-build.XXXXXX") || exit 1
trap "rm -rf \\"$d\\"" EXIT
trap "exit 1" HUP INT TERM
head -c "$1" >"$d/rookery.pyz"
$as "$python" -I "$d/rookery.pyz" "$d"
exit $?
"""


def build(
    machine: Remote,
    recipe: Recipe,
    work: Path,
    on_progress: OnProgress,
    cancel: threading.Event,
    base: Base,
    name: str = "",
) -> BuiltImage:
    """Build a recipe on another machine; its paths (`archive`, `container`) are those of that machine.

    work: the head's scratch space, for what comes home. name: what the image will be called. Cancelling ends the work
    there, too, and cleans up; so does the end of the head. Raises RookeryError: what ssh says, what the build there
    says, `corrupt` for what does not arrive as it was sent.
    """
    apart.require({"ssh": "openssh-client"}, "building on another machine")
    below = None
    path = None
    if recipe.from_image:
        part = base(recipe.from_image)
        path = part.path
        size = path.stat().st_size
        digest = files.sha256_file(
            path, lambda done: on_progress(Progress("reading the image below", done, size, "bytes"))
        )
        below = parcel.SentBase(size, digest, part.packages, part.version, part.architecture)
    program = parcel.pack(parcel.Job(recipe, below, name))
    script = "'" + _SCRIPT.replace("'", "'\\''") + "'"
    words = [*machine.ssh, "--", machine.destination, f"exec /bin/sh -c {script} sh {len(program)}"]
    on_progress(Progress("reaching the other machine", line=machine.destination))
    with image.site(work) as place:
        log = place / "ssh.log"
        with log.open("wb") as said, spawn(words, stdin=PIPE, stdout=PIPE, stderr=said, grace=1.0) as child:
            assert child.stdout is not None
            with _attended(child, program, path, cancel):
                told = _follow(machine, child.stdout, on_progress)
                if told:
                    built = _bring(told, child.stdout, place, on_progress)
            if cancel.is_set():
                raise RookeryError("the build was cancelled", kind=ErrorKind.CANCELLED)
            if not told:
                raise _fault(machine, Completed(tuple(words[:-1]), child.wait(), "", _end_of(log)))
        log.unlink()
        return built


@contextlib.contextmanager
def _attended(child: Child, program: bytes, below: Path | None, cancel: threading.Event) -> Iterator[None]:
    """Send the program and the image below, while the block reads what comes back.

    At the end of the block, or when cancelled, the other machine's standard input ends: it then cleans up, and this
    waits for it.
    """
    ended = threading.Event()

    def feed() -> None:
        assert child.stdin is not None
        with contextlib.suppress(OSError):  # it hung up: its last words tell why
            for block in _blocks(program, below):
                if ended.is_set() or cancel.is_set():
                    break
                child.stdin.write(block)
            child.stdin.flush()
            while not ended.wait(0.1) and not cancel.is_set():
                pass
        with contextlib.suppress(OSError):
            child.stdin.close()

    def watch() -> None:
        while not ended.wait(0.1) and not cancel.is_set():
            pass
        # A machine that went away does not read, and so does not end either.
        until = time.monotonic() + _PATIENCE
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if child.poll() is None:
            child.kill()

    threads = [threading.Thread(target=work, name="build-elsewhere", daemon=True) for work in (feed, watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _blocks(program: bytes, below: Path | None) -> Iterator[bytes]:
    yield program
    if below:
        with below.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block


def _follow(machine: Remote, stream: IO[bytes], on_progress: OnProgress) -> SentImage | None:
    """Pass progress on until the image is announced; None when the other machine ended without a word.

    Raises RookeryError as the build there did.
    """
    while line := stream.readline(_MOST_LINE):
        try:
            message = json.loads(line)
            if error := message.get("error"):
                details = "\n".join(filter(None, [error["details"], f"this was on {machine.host}"]))
                record = ErrorRecord(ErrorKind(error["kind"]), error["message"], details, error["hint"])
                raise RookeryError.from_record(record)
            if image_there := message.get("image"):
                return _sent(image_there)
            on_progress(Progress(**message["progress"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RookeryError(
                "the other machine says what no build says",
                details=line[:500].decode(errors="replace"),
                hint="its login shell must print nothing when it runs a command",
            ) from error
    return None


def _sent(image_there: object) -> SentImage:
    """Raises ValueError for anything but the three files of an image."""
    try:
        sent = codec.decode(SentImage, image_there)
    except RookeryError as error:
        raise ValueError(str(error)) from error
    if len(sent.files) != len(there.FILES):
        raise ValueError(f"{len(sent.files)} files")
    return sent


def _bring(sent: SentImage, stream: IO[bytes], place: Path, on_progress: OnProgress) -> BuiltImage:
    paths = [place / name for name in (image.ROOT, image.KERNEL, image.DRIVERS)]
    total, done = sum(file.size for file in sent.files), 0
    files.require_space(place, total, "the image that comes home")
    for path, file in zip(paths, sent.files, strict=True):
        digest, left = hashlib.sha256(), file.size
        with path.open("wb") as target:
            while left > 0:
                block = stream.read(min(_BLOCK, left))
                if not block:
                    raise RookeryError("the other machine is gone", kind=ErrorKind.UNAVAILABLE, hint="build again")
                target.write(block)
                digest.update(block)
                left, done = left - len(block), done + len(block)
                on_progress(Progress("bringing the image home", done, total, "bytes"))
        if digest.hexdigest() != file.sha256:
            raise RookeryError(
                f"{path.name} did not arrive as it was built", kind=ErrorKind.CORRUPT, hint="build again"
            )
    root, kernel, drivers = paths
    return BuiltImage(
        root,
        kernel,
        drivers,
        kernel_release=sent.kernel_release,
        architecture=sent.architecture,
        packages=sent.packages,
        notes=sent.notes,
    )


def _fault(machine: Remote, done: Completed) -> RookeryError:
    """What it means when nothing came."""
    if done.code == _NO_PYTHON:
        return RookeryError(
            f"{machine.host} has no Python 3.11 or later, which builders need",
            kind=ErrorKind.MISSING,
            details=done.stderr,
            hint="install it there: apt install python3, dnf install python3.11, zypper install python311",
        )
    if done.code == _NO_ROOT:
        return RookeryError(
            f"the user on {machine.host} is not root, and sudo does not let it be without a password",
            kind=ErrorKind.FORBIDDEN,
            details=done.stderr,
            hint=f"log in as root: --on root@{machine.host}; or allow sudo without a password there",
        )
    if done.code != _SSH_FAILED:
        return RookeryError(
            f"the build on {machine.host} ended without a word (exit code {done.code})",
            kind=ErrorKind.UNAVAILABLE,
            details=done.stderr,
            hint="build again; if it ends again, the log of that machine may tell why: no memory left, for one",
        )
    return explained(machine, done)


def _end_of(log: Path) -> str:
    return log.read_bytes()[-4000:].decode(errors="replace")
