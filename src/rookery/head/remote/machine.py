# SPDX-License-Identifier: Apache-2.0
"""A machine that is reached over SSH: the words for ssh and rsync, a first look at it, and errors that help."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rookery.errors import ErrorKind, RookeryError
from rookery.run import Completed, run

CONNECT_SECONDS = 15
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9]*[= ].+")
# What a machine that Rookery brought up keeps of it: node/places.py.
_SETTLED, _LOWER = "/run/rookery/state/settled", "/run/rookery/lower"

# $1: words before a command that needs root there, may be empty; $2: the root.
_LOOK = f"""
as=$1 root=$2
echo "user $(id -u)"
echo "architecture $(uname -m)"
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
command -v rsync >/dev/null && echo rsync yes
[ -n "$as" ] && {{ $as true </dev/null && echo sudo yes; }}
{{ [ -d "$root" ] || [ -n "$as" ]; }} && echo root yes
echo "real $(cd "$root" && pwd -P)"
while read -r path kind rest; do [ "$kind" = file ] && echo "swap $path"; done </proc/swaps
[ "$root" = / ] || exit 0
while read -r source path rest; do echo "mount $path"; done </proc/self/mounts
[ -d {_LOWER} ] || exit 0
echo lower yes
echo "version $(sed -n 's/^VERSION=//p' /etc/rookery-release)"
$as cat {_SETTLED} 2>/dev/null | while IFS= read -r path; do echo "settled $path"; done
exit 0
"""


@dataclass(frozen=True)
class Remote:
    """A machine. host: name or address. user, port: empty and 0 for ssh's own. root: the directory there, absolute.
    options: for `ssh -o`, before ours. accept_new: take the key of a host that was never seen, and remember it in
    known_hosts, which is looked into beside the user's own file. sudo: read as root by sudo."""

    host: str
    known_hosts: Path
    user: str = ""
    port: int = 0
    root: str = "/"
    options: tuple[str, ...] = ()
    accept_new: bool = False
    sudo: bool = False

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise RookeryError(
                f"{self.host[:80]!r} is not a host",
                kind=ErrorKind.INVALID,
                hint="a name or an address; --user names a user",
            )
        if self.user and not _USER.fullmatch(self.user):
            raise RookeryError(f"{self.user[:80]!r} is not a user's name", kind=ErrorKind.INVALID)
        if not self.root.startswith("/") or "\0" in self.root or ".." in PurePosixPath(self.root).parts:
            raise RookeryError(f"{self.root[:80]!r} is not an absolute path", kind=ErrorKind.INVALID)
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise RookeryError(
                    f"{option[:80]!r} is not an option of ssh", kind=ErrorKind.INVALID, hint="as in ProxyJump=login1"
                )

    @property
    def shown(self) -> str:
        """For people: `host:/`."""
        return f"{self.host}:{self.root}"

    @property
    def destination(self) -> str:
        """As ssh and rsync take it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def source(self, path: str) -> str:
        """A path of the machine as rsync's argument."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{path}" if self.user else f"{host}:{path}"

    @property
    def ssh(self) -> list[str]:
        """The words that begin an ssh command, up to the destination. It never asks: nobody sits at the head."""
        ours = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            # A machine that goes away is noticed within a minute.
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "StrictHostKeyChecking": "accept-new" if self.accept_new else "yes",
            "UserKnownHostsFile": f'"{self.known_hosts}" ~/.ssh/known_hosts',
        }
        options = [*self.options, *(f"{name}={value}" for name, value in ours.items())]  # the first one counts
        words = ["ssh", "-T", *(word for option in options for word in ("-o", option))]
        return [*words, *(("-p", str(self.port)) if self.port else ())]

    @property
    def shell(self) -> str:
        """The ssh command as rsync's option --rsh takes it: words in quotes, a quote in them doubled."""
        return " ".join("'" + word.replace("'", "''") + "'" for word in self.ssh)

    @property
    def rsync(self) -> str:
        """The remote rsync command."""
        return "sudo -n rsync" if self.sudo else "rsync"


@dataclass(frozen=True)
class Seen:
    """What the first look found. swaps: swap files, as paths below the root. mounts: mount points other than the
    root. settled: the files that Rookery wrote into a node's root, which is then an overlay over `lower`, and over the
    version `version`."""

    architecture: str
    swaps: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    lower: str = ""
    version: str = ""


def look(machine: Remote, cancel: threading.Event) -> Seen:
    """Connect, and see whether the machine can be captured. Raises RookeryError with what to do about it."""
    words = [*machine.ssh, machine.destination, "/bin/sh", "-s", "--", "'sudo -n'" if machine.sudo else "''"]
    words.append("'" + machine.root.replace("'", "'\\''") + "'")
    done = run(words, stdin=_LOOK.encode(), check=False, cancel=cancel, timeout=60)
    if done.code != 0:
        raise explained(machine, done)
    told: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        told.setdefault(key, []).append(value)
    if "user" not in told:
        raise RookeryError(
            f"{machine.host} does not answer as a machine with a shell does",
            details=done.stdout[-1000:],
            hint=f"look what 'ssh {machine.destination} id' prints",
        )
    _require(machine, told, done)
    unescaped = [_unescaped(path) for path in told.get("mount", [])]
    return Seen(
        architecture=told["architecture"][0],
        swaps=tuple(_swaps(told, machine.root)),
        mounts=tuple(dict.fromkeys(path for path in unescaped if path != "/")),
        settled=tuple(told.get("settled", [])),
        lower=_LOWER if "lower" in told else "",
        version=told.get("version", [""])[0],
    )


def _require(machine: Remote, told: dict[str, list[str]], done: Completed) -> None:
    if machine.sudo and "sudo" not in told:
        raise RookeryError(
            f"sudo on {machine.host} wants a password, or does not let this user be root",
            kind=ErrorKind.FORBIDDEN,
            details=done.stderr.strip()[-500:],
            hint="allow it in sudoers there: USER ALL=(root) NOPASSWD: /usr/bin/rsync, /usr/bin/true, /usr/bin/cat",
        )
    if not machine.sudo and told["user"][0] != "0":
        raise RookeryError(
            f"the user on {machine.host} is not root, who alone can read everything",
            kind=ErrorKind.FORBIDDEN,
            hint="give --user root, or --sudo for a user that may become root without a password",
        )
    if "root" not in told:
        raise RookeryError(
            f"there is no directory {machine.root} on {machine.host}",
            kind=ErrorKind.NOT_FOUND,
            hint="leave --root out for the machine's own root",
        )
    if "rsync" not in told:
        raise RookeryError(
            f"there is no rsync on {machine.host}",
            kind=ErrorKind.MISSING,
            hint="install it there: apt install rsync, dnf install rsync, zypper install rsync",
        )


# What ssh says -> kind, what it means, what to do. The first that fits counts.
_FAULTS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        ErrorKind.UNAUTHORIZED,
        "{host} shows another host key than the one that is known",
        "find out why; then 'ssh-keygen -R {host}' on the head forgets the old key (with -f {known}, a capture's)",
    ),
    (
        "host key is known|Host key verification failed",
        ErrorKind.UNAUTHORIZED,
        "the host key of {host} is not known",
        "compare the fingerprint and take it by 'ssh {destination}' as the head's user, or give --accept-new",
    ),
    (
        "Permission denied",
        ErrorKind.UNAUTHORIZED,
        "{host} does not let {who} in",
        "on the head, as the head's user: ssh-copy-id {destination}; or give --ssh-option IdentityFile=PATH",
    ),
    (
        "Connection refused",
        ErrorKind.UNAVAILABLE,
        "nothing answers on SSH's port of {host}",
        "start sshd there, or name its port by --port",
    ),
    (
        "Could not resolve hostname",
        ErrorKind.UNAVAILABLE,
        "the head does not know the name {host}",
        "give an address, or correct the name",
    ),
    (
        "timed out|No route to host|Network is unreachable",
        ErrorKind.UNAVAILABLE,
        "{host} cannot be reached",
        "is it on, and not behind a firewall?",
    ),
    (
        "kex_exchange_identification|banner exchange|Connection (closed|reset)",
        ErrorKind.UNAVAILABLE,
        "{host} ended the connection at once",
        "is it SSH that listens on that port? --port names another",
    ),
    (
        "Bad configuration option|command-line.*line|unsupported option|Bad .*argument",
        ErrorKind.INVALID,
        "ssh does not take these options",
        "see ssh_config(5) for what --ssh-option may say",
    ),
)


def explained(machine: Remote, done: Completed) -> RookeryError:
    """What a failed ssh command means."""
    said = (done.stderr or done.stdout).strip()
    for pattern, kind, message, hint in _FAULTS:
        if re.search(pattern, said):
            words = {
                "host": machine.host,
                "destination": machine.destination,
                "who": machine.user or "the head's user",
                "known": machine.known_hosts,
            }
            return RookeryError(
                message.format(**words),
                kind=kind,
                details="\n".join(said.splitlines()[-6:]),
                hint=hint.format(**words),
            )
    return RookeryError(
        f"cannot speak to {machine.host} by ssh (exit code {done.code})",
        kind=ErrorKind.UNAVAILABLE,
        details="\n".join(said.splitlines()[-6:]),
        hint=f"try 'ssh {machine.destination}' on the head, as the head's user",
    )


def _swaps(told: dict[str, list[str]], root: str) -> Iterator[str]:
    below = PurePosixPath(told["real"][0] or root)
    for path in map(PurePosixPath, map(_unescaped, told.get("swap", []))):
        if path.is_relative_to(below):
            yield f"/{path.relative_to(below)}"


def _unescaped(path: str) -> str:
    """A path as /proc writes it: octal for blanks (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
