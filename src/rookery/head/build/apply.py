# SPDX-License-Identifier: Apache-2.0
"""A recipe's packages, files and commands, put into a root that is there already, by its own package manager."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import identity, inside, sources
from rookery.head.build.builder import SOURCE_DATE
from rookery.head.build.inside import STAGE, Surroundings
from rookery.head.build.recipe import Recipe, RecipeFile
from rookery.head.progress import OnProgress, Progress
from rookery.run import Completed

INSTALLING = "installing packages"
_POLICY = "usr/sbin/policy-rc.d"  # what invoke-rc.d asks whether a service may start: not in an image that is built
_APT_OPTIONS = (
    *("-q", "-y", "-o", "APT::Install-Recommends=false", "-o", "Dpkg::Use-Pty=0", "-o", "APT::Update::Error-Mode=any"),
    *("-o", "DPkg::Options::=--force-unsafe-io", "-o", "DPkg::Options::=--force-confold"),
)


@dataclass(frozen=True)
class Manager:
    """A package manager as it is found in a root. program: its command. refresh, install: the words after it; the
    packages follow. missing: finds, in what it says, a name that it has no package for, as the first group that
    matched. cleaned: what it leaves that no image needs, relative to the root."""

    program: str
    refresh: tuple[str, ...]
    install: tuple[str, ...]
    missing: re.Pattern[str]
    cleaned: tuple[str, ...]


_DNF = (
    # A repository that does not answer is an error, unless the image itself says otherwise of that one: else a package
    # of it would be one that does not exist.
    ("-y", "--refresh", "--setopt=skip_if_unavailable=False", "makecache"),
    ("-y", "--setopt=install_weak_deps=False", "--setopt=keepcache=False", "install"),
    re.compile(r"(?:No match for argument|Unable to find a match|No package matches)[: ]+'?([^\s']+)"),
    ("var/cache/dnf/*", "var/cache/libdnf5/*", "var/cache/yum/*", "var/lib/dnf/*.lock", "boot/initramfs-*"),
)
MANAGERS = (
    Manager(
        "apt-get",
        (*_APT_OPTIONS, "update"),
        (*_APT_OPTIONS, "install"),
        re.compile(
            r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate"
            r"|Version '.*' for '(\S+)' was not found|Couldn't find any package by \S+ '(\S+?)'"
        ),
        (
            *("var/lib/apt/lists/*", "var/cache/apt/*", "var/lib/apt/daily_lock", "var/lib/dpkg/*-old"),
            *("var/lib/dpkg/lock*", "var/lib/dpkg/triggers/Lock", "var/cache/debconf/*-old"),
            *("boot/initrd.img*", "initrd.img", "initrd.img.old", "vmlinuz.old"),
        ),
    ),
    Manager("dnf", *_DNF),
    Manager(
        "microdnf",
        ("-y", "--refresh", "makecache"),
        ("-y", "--setopt=install_weak_deps=0", "--setopt=keepcache=0", "install"),
        *_DNF[2:],
    ),
    Manager(
        "zypper",
        ("--non-interactive", "refresh"),
        ("--non-interactive", "install", "--no-recommends", "--auto-agree-with-licenses"),
        re.compile(r"No provider of '(\S+?)' found|'(\S+?)' not found in package names"),
        ("var/cache/zypp/*", "boot/initrd-*"),
    ),
)


def find_manager(root: Path) -> Manager | None:
    """The package manager that a root has."""
    return next((manager for manager in MANAGERS if inside.has_program(root, manager.program)), None)


def apply(
    root: Path,
    recipe: Recipe,
    scratch: Path,
    on_progress: OnProgress,
    cancel: threading.Event,
    network_namespace: str = "",
) -> None:
    """Install the recipe's kernel and packages, then write its files, then run its commands, in the root `root`.

    scratch: a directory for what the steps need meanwhile. Every step has processes and mounts of its own (inside.py):
    nothing is left running or mounted, however it ends. Raises RookeryError, in the recipe's terms; `cancelled`.
    """
    steps = _Steps(root, recipe, on_progress, cancel, network_namespace)
    with files.scratch_directory(scratch, "apply-") as stage:
        steps.packages(stage)
        for index, file in enumerate(recipe.files):
            steps.file(stage, index, file)
        for index, command in enumerate(recipe.commands):
            steps.command(index, command)


class _Steps:
    def __init__(
        self, root: Path, recipe: Recipe, on_progress: OnProgress, cancel: threading.Event, network_namespace: str
    ) -> None:
        self._root, self._recipe = root, recipe
        self._tell, self._cancel = on_progress, cancel
        self._network = network_namespace

    def packages(self, stage: Path) -> None:
        names = self._recipe.wanted
        if not names:
            return
        manager = find_manager(self._root)
        if manager is None:
            raise RookeryError(
                f"the recipe asks for packages, and this root has none of {', '.join(m.program for m in MANAGERS)}",
                kind=ErrorKind.INVALID,
                hint="install them by its own means in the recipe's 'commands'",
            )
        use = Surroundings(self._network, stage, self._variables(manager, stage))
        policy = self._root / _POLICY
        ours = policy.parent.is_dir() and not policy.parent.is_symlink() and not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            self._tell(Progress("reading package lists"))
            meter = _Meter("reading package lists", self._tell)
            self._manage(manager, [manager.program, *manager.refresh], use, meter)
            meter = _Meter(INSTALLING, self._tell)
            self._manage(manager, [manager.program, *manager.install, *names], use, meter)
        finally:
            if ours:
                policy.unlink(missing_ok=True)
        identity.remove(self._root, manager.cleaned)

    def file(self, stage: Path, index: int, file: RecipeFile) -> None:
        self._tell(Progress("writing files", index, len(self._recipe.files), line=file.path))
        (stage / "file").write_bytes(file.content)
        # Written from inside the root, where its links lead to itself and not into this head's file system.
        script = 'mkdir -p "${1%/*}/" && rm -f "$1" && cat "$4" > "$1" && chown "$3" "$1" && chmod "$2" "$1"'
        words = ["/bin/sh", "-ec", script, "sh", file.path, f"{file.mode:04o}", file.owner, f"{STAGE}/file"]
        self._step(f"the file {file.path}", words, Surroundings(self._network, stage))

    def command(self, index: int, command: str) -> None:
        total = len(self._recipe.commands)
        variables = {"SOURCE_DATE_EPOCH": str(SOURCE_DATE), "DEBIAN_FRONTEND": "noninteractive", "INITRD": "No"}
        self._step(
            f"the command {command!r}",
            ["/bin/sh", "-ec", command, "sh"],
            Surroundings(self._network, variables=variables),
            Progress("running the recipe's commands", index, total),
        )

    def _step(self, what: str, words: Sequence[str], use: Surroundings, now: Progress | None = None) -> None:
        def on_line(line: str) -> None:
            if now:
                self._tell(Progress(now.stage, now.done, now.total, now.unit, line))

        on_line("")
        done = inside.execute(self._root, words, use, self._cancel, on_line)
        if done.code != 0:
            raise RookeryError(
                f"{what} of the recipe failed in the image's root",
                details="\n".join([*done.stdout.splitlines(), f"exit code {done.code}"]),
                hint="commands run with 'sh -e', after all packages and files are in",
            )

    def _variables(self, manager: Manager, stage: Path) -> dict[str, str]:
        proxy = self._recipe.proxy
        variables = {"SOURCE_DATE_EPOCH": str(SOURCE_DATE)}
        if proxy:
            variables |= {"http_proxy": proxy, "https_proxy": proxy}
        if manager.program == "apt-get":
            settings = list(sources.acquire_settings())
            if proxy:
                settings += [f'Acquire::{kind}::Proxy "{proxy}";' for kind in ("http", "https")]
            (stage / "apt.conf").write_text("\n".join(settings))
            # No initramfs: see deb.py.
            variables |= {"APT_CONFIG": f"{STAGE}/apt.conf", "DEBIAN_FRONTEND": "noninteractive", "INITRD": "No"}
        return variables

    def _manage(self, manager: Manager, words: Sequence[str], use: Surroundings, meter: _Meter) -> None:
        done = inside.execute(self._root, words, use, self._cancel, meter.line)
        if done.code != 0:
            raise _explained(manager, done, meter)


class _Meter:
    """Turns what package managers print into progress, and keeps what explains a failure."""

    _COUNTED = re.compile(r"\d+ upgraded, (\d+) newly installed")  # apt: then two steps for each
    _STEP = re.compile(r"(?:Unpacking|Setting up) \S+ ")
    # dnf: `  Installing  : less.x86_64   3/12`; dnf5: `[ 3/12] Installing less`; zypper: `(3/12) Installing: less`
    _OF = re.compile(r"^\s*[(\[]\s*(\d+)/(\d+)[)\]]|\s(\d+)/(\d+)\s*$")
    _FAULT = re.compile(
        r"\s*(E:|W: Failed|dpkg: error|Error: .|error:|Problem|- nothing provides|No provider|No match"
        r"|Unable to find a match|Package '\S+' not found)"
    )

    def __init__(self, stage: str, on_progress: OnProgress) -> None:
        self._stage, self._tell = stage, on_progress
        self._done = self._total = 0
        self.faults: list[str] = []

    def line(self, line: str) -> None:
        if self._FAULT.match(line) or "has no installation candidate" in line:
            self.faults.append(line.strip())
        if count := self._COUNTED.match(line):
            self._total = 2 * int(count[1])
        elif self._STEP.match(line):
            self._done += 1
        elif of := self._OF.search(line):
            self._done, self._total = (int(number) for number in of.groups() if number is not None)
        self._tell(Progress(self._stage, min(self._done, self._total), self._total, "steps", line))


def _explained(manager: Manager, done: Completed, meter: _Meter) -> RookeryError:
    """The failure in the recipe's terms."""
    said = "\n".join([*meter.faults, done.stdout])
    details = "\n".join(dict.fromkeys([*meter.faults, *done.stdout.splitlines()]))
    found = [next(filter(None, match.groups())) for match in manager.missing.finditer(said)]
    if found:
        return RookeryError(
            f"no package {', '.join(dict.fromkeys(found))} in the archives that this root's {manager.program} knows",
            kind=ErrorKind.INVALID,
            details=details,
            hint="correct the recipe's 'packages'; archives are added by 'files' of an image below this one",
        )
    if re.search(
        r"Failed to fetch|Could not (resolve|connect)|Temporary failure|Unable to connect|Cannot download"
        r"|Failed to download metadata|Curl error|Valid metadata not found",
        said,
    ):
        return RookeryError(
            f"{manager.program} in this root cannot reach its package archives",
            kind=ErrorKind.UNAVAILABLE,
            details=details,
            hint="see that the head reaches the archives that the image names; the head's apt settings hold for apt",
        )
    first = (meter.faults or ["see the details"])[0]
    return RookeryError(f"{manager.program} in this root failed: {first.removeprefix('E: ')}", details=details)
