# SPDX-License-Identifier: Apache-2.0
"""Running a command inside a working tree, on this process's own terminal.

In systemd-nspawn where that runs, otherwise by chroot (build/inside.py). Either way in a mount and a process namespace
of its own, which end with the command and with this process: nothing can stay mounted, whoever is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apart, sources
from rookery.head.build import inside as programs
from rookery.head.build.inside import STAGE, Surroundings
from rookery.head.trees import resolver

SHELL = ("/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh -l")
_APT = "apt.conf"

# Words: those of systemd-nspawn. /run/systemd/nspawn, where it leaves a directory for each container, is a file system
# of this namespace's own.
_CONTAINER = """
trap : INT QUIT
mkdir -p /run/systemd/nspawn && mount -t tmpfs -o mode=700 rookery /run/systemd/nspawn || exit 125
"$@"
exit $?
"""
# The command is a child and not the namespace's first process, which would not hear Ctrl-C; and that one outlives it.
_SECOND = 'trap : INT QUIT; "$@"; exit $?'
_MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")


@dataclass(frozen=True)
class Inside:
    """A tree to work in. name: of its image. place: its directory. root: the tree itself. network: path of the network
    namespace to work in, empty for this process's own. lock: file descriptor of the tree's lock."""

    name: str
    place: Path
    root: Path
    network: str
    lock: int


def enter(inside: Inside, argv: Sequence[str], *, container: bool | None = None) -> int:
    """Run `argv` in the tree, with this process's standard input and outputs; returns its exit code.

    container: whether in systemd-nspawn; None: where that runs. Raises RookeryError before the command is begun:
    `forbidden` when not root, `missing`, `invalid` for a tree in which no program can run.
    """
    if os.geteuid() != 0:
        raise RookeryError("working in a tree needs root", kind=ErrorKind.FORBIDDEN, hint="run it with sudo")
    apart.require(apart.PROGRAMS, "working in a tree")
    _prepare(inside.root)
    with _scratch(inside.place) as scratch, resolver.lent(inside.place, inside.root) as resolver_at:
        use = _surroundings(inside, scratch)
        if container is None:
            container = _container_runs(inside, use)
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if container:
            words = _in_container(inside, use, resolver_at, argv, terminal)
        else:
            words = _in_chroot(inside, use, argv, terminal)
        return run.foreground(words, inherit=(inside.lock,))


@contextlib.contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """An empty directory beside the tree; the next one to work there removes what a kill left."""
    path = place / "inside"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _surroundings(inside: Inside, scratch: Path) -> Surroundings:
    """scratch: an empty directory, to be seen inside."""
    # RUNLEVEL: in which Debian's scripts start no services; INITRD: as in builds, no node needs one (build/deb.py).
    variables = {"debian_chroot": inside.name, "RUNLEVEL": "1", "INITRD": "No"}
    if settings := sources.acquire_settings():
        (scratch / _APT).write_text("".join(f"{line}\n" for line in settings))
        variables["APT_CONFIG"] = f"{STAGE}/{_APT}"
    return Surroundings(inside.network, scratch, variables, resolver=None)


def _in_container(
    inside: Inside, use: Surroundings, resolver_at: str, argv: Sequence[str], terminal: bool
) -> list[str | Path]:
    return [
        *apart.apart(inside.network),
        *("sh", "-c", _CONTAINER, "sh", "systemd-nspawn", "--quiet", f"--directory={inside.root}", "--as-pid2"),
        *("--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
        f"--machine={re.sub('[^A-Za-z0-9]+', '-', inside.name)[:60].strip('-')}",
        f"--console={'interactive' if terminal else 'pipe'}",
        *(f"--setenv={name}={value}" for name, value in programs.variables(use).items()),
        f"--bind-ro={str(use.stage).replace(':', chr(92) + ':')}:{STAGE}",
        *([f"--bind-ro={resolver.HOST}:{resolver_at}"] if resolver_at else []),
        # By the image's own shell, which says 127 for a command that is not there.
        *("--", "/bin/sh", "-c", 'exec "$@"', "sh", *argv),
    ]


def _in_chroot(inside: Inside, use: Surroundings, argv: Sequence[str], terminal: bool) -> list[str | Path]:
    if terminal and programs.has_program(inside.root, "script"):
        # A terminal of its own, or the shell inside has no job control: the outer one belongs to another session.
        argv = ["script", "--quiet", "--return", "--command", shlex.join(argv), "/dev/null"]
    return programs.chrooted(inside.root, ["/bin/sh", "-c", _SECOND, "sh", *argv], use)


def _container_runs(inside: Inside, use: Surroundings) -> bool:
    """Whether systemd-nspawn works here, with this tree: to be installed is not enough inside of another container."""
    if run.which("systemd-nspawn") is None:
        return False
    words = _in_container(inside, use, "", ["/bin/sh", "-c", ":"], terminal=False)
    return run.run(words, check=False, timeout=30).code == 0


def _prepare(root: Path) -> None:
    """Make the directories to mount on, and refuse a root in which they are something else: what is mounted on a link
    is mounted where that leads."""
    for name in _MOUNT_POINTS:
        path = root / name
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise RookeryError(f"/{name} in the image is not a directory", kind=ErrorKind.INVALID)
        except FileNotFoundError:
            path.mkdir()
            path.chmod(0o1777 if name == "tmp" else 0o755)
    if not (root / "bin").exists() and not (root / "usr/bin").exists():
        raise RookeryError("the image has no programs (no /bin)", kind=ErrorKind.INVALID)
