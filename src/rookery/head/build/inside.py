# SPDX-License-Identifier: Apache-2.0
"""Runs programs inside a root tree: for a recipe's steps, and for a person who works on an image (trees/enter.py).

`chrooted` only makes the words of a command, to be given to `run.run`, or to `run.foreground` where a person's terminal
belongs to it. Whatever runs so has processes and mounts of its own, which are gone with it, also when
it is killed: nothing of them is ever seen by the head.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import rooted
from rookery.head.build.apart import apart
from rookery.run import Completed, run

# What a program inside is told of its surroundings, and nothing else of the head's but its proxies.
PATHS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
ENVIRONMENT = {
    "PATH": ":".join(PATHS),
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TERM": os.environ.get("TERM", "dumb"),
}
STAGE = "/run/rookery"  # where `stage` is seen inside
_ELSEWHERE = re.compile(r"/proc/([0-9]+)/root(/.*)")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")

# Words: root, the directory to show at STAGE (may be empty), what to lend a root whose resolv.conf is no link (may be
# empty), then the command. Runs in namespaces of its own, so that
# there is nothing to take down. A link in the place of a mount point is refused: it would lead into the head.
_SETUP = r"""
set -eu
umask 022 # whatever the head's is: the same commands make the same files
root=$1 stage=$2 lent=$3
shift 3
for name in proc sys dev run etc; do
    if [ -L "$root/$name" ]; then echo "/$name of this root is a symbolic link" >&2; exit 125; fi
    [ -d "$root/$name" ] || mkdir "$root/$name"
done
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for name in sys sysrq-trigger; do
    [ -e "$root/proc/$name" ] || continue # some kernels have no sysrq
    mount --bind "$root/proc/$name" "$root/proc/$name"
    mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/$name"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o mode=755,nosuid,size=4m tmpfs "$root/dev"
node() { mknod -m "$4" "$root/dev/$1" c "$2" "$3"; }
node null 1 3 666; node zero 1 5 666; node full 1 7 666; node random 1 8 666; node urandom 1 9 666; node tty 5 0 666
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5,nosuid,noexec devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mkdir -m 1777 "$root/run/lock"
if [ -n "$stage" ]; then
    mkdir "$root/run/rookery"
    mount --bind "$stage" "$root/run/rookery"
    mount -o remount,bind,ro "$root/run/rookery"
fi
# How the head finds names is lent, never copied: an image's own resolv.conf stays what it is.
if [ -e /etc/resolv.conf ]; then
    if [ -L "$root/etc/resolv.conf" ]; then
        case $(readlink "$root/etc/resolv.conf") in
            *..*/..*/..*) target= ;;
            /run/*) target=$(readlink "$root/etc/resolv.conf") ;;
            ../run/*) target=/$(readlink "$root/etc/resolv.conf" | cut -c4-) ;;
            *) target= ;;
        esac
        if [ -n "$target" ]; then
            mkdir -p "$root${target%/*}"
            cat /etc/resolv.conf >"$root$target"
        fi
    elif [ -n "$lent" ]; then
        [ -e "$root/etc/resolv.conf" ] || : >"$root/etc/resolv.conf"
        mount --bind "$lent" "$root/etc/resolv.conf"
    fi
fi
exec env -i "$@"
"""


@dataclass(frozen=True)
class Surroundings:
    """What a command inside a root may use of the head.

    network_namespace: path of the network namespace to run in; empty: the caller's own. stage: a directory that is
    seen, read-only, at STAGE. variables: environment variables beside ENVIRONMENT and the head's proxies. resolver:
    what to mount over a resolv.conf that is no link; None: nothing.
    """

    network_namespace: str = ""
    stage: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    resolver: Path | None = Path("/etc/resolv.conf")


def chrooted(root: Path, argv: Sequence[str | Path], use: Surroundings | None = None) -> list[str | Path]:
    """The words that run `argv` as root in the tree `root`, with /proc, /sys, /dev and /run of its own.

    A root that is mounted in another process's mount namespace (layer.py) is named /proc/PID/root/…, and entered there.
    All ends with the process, and the thread, that starts the command. Needs root, and unshare, mount, nsenter, setpriv
    (util-linux) and chroot on the head; of the image only what `argv` names, looked up on its own path. /proc/sys and
    /sys are read-only and /dev has no disks: what an image's scripts do cannot change the head. The exit code is the
    command's; 125, 126 and 127 as of chroot(1).
    """
    use = use or Surroundings()
    holder, place = _place(root)
    words = apart(use.network_namespace, f"/proc/{holder}/ns/mnt" if holder else "")
    given = [f"{name}={value}" for name, value in variables(use).items()]
    return [
        *words,
        "/bin/sh",
        "-c",
        _SETUP,
        "sh",
        place,
        use.stage or "",
        use.resolver or "",
        *given,
        "chroot",
        place,
        *argv,
    ]


def _place(root: Path) -> tuple[str, Path]:
    """The process in whose mount namespace a root is ("" for the caller's own), and its path there."""
    if found := _ELSEWHERE.fullmatch(str(root)):
        return found[1], Path(found[2])
    return "", root.absolute()


def variables(use: Surroundings) -> dict[str, str]:
    """The environment of a command inside."""
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    return {**ENVIRONMENT, **proxies, **use.variables}


def execute(
    root: Path,
    argv: Sequence[str | Path],
    use: Surroundings,
    cancel: threading.Event,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run one command in `root` by `chrooted`. Raises RunError, `cancelled`, and `invalid` where the root cannot run
    any program of that name."""
    done = run(chrooted(root, argv, use), check=False, on_line=on_line, cancel=cancel)
    said = done.stderr or done.stdout
    if "Exec format error" in said and done.code == 126:
        raise RookeryError(
            "this root's programs are for another kind of processor",
            kind=ErrorKind.MISSING,
            details=said,
            hint="install qemu-user-static on the head, or build with --on a machine of that kind",
        )
    if done.code == 127 and "chroot: failed to run command" in said:
        raise RookeryError(f"this root has no program {argv[0]}", kind=ErrorKind.INVALID, details=said)
    return done


def has_program(root: Path, name: str) -> bool:
    """Whether the root has the program `name` in one of the directories of ENVIRONMENT's path. Nothing is run."""
    found = (rooted.file(root, f"{directory}/{name}") for directory in PATHS)
    return any(path is not None and path.stat().st_mode & 0o111 for path in found)
