# SPDX-License-Identifier: Apache-2.0
"""Builds roots of Debian, Ubuntu and their kin with mmdebstrap."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import foreign, identity, installed, sources
from rookery.head.build.apart import PROGRAMS, apart, require, require_root
from rookery.head.build.builder import SOURCE_DATE, BuildSite, BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress, Progress
from rookery.run import RunError, run

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~_-]+)?")
_HOOKS = Path("/usr/share/mmdebstrap/hooks")
_MARK = "rookery-step:"

# Package state that differs from build to build or is of no use in an image; relative to the root.
CLEANED = (
    "var/lib/apt/lists/*",
    "var/cache/apt/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/cache/debconf/*-old",
    "var/lib/apt/daily_lock",
    "etc/apt/apt.conf.d/99mmdebstrap",  # how the head reaches archives: may hold a proxy's password
    "boot/initrd.img*",
    "initrd.img",
    "initrd.img.old",
    "vmlinuz.old",
)


class DebBuilder:
    """Debian or Ubuntu, by mmdebstrap: from the recipe's mirror, the head's own archives, or the distribution's."""

    def check(self, recipe: Recipe) -> None:
        """See Builder.check."""
        require_root("building an image")
        require({"mmdebstrap": "mmdebstrap", **PROGRAMS}, f"building a {recipe.distribution.capitalize()} image")
        if recipe.distribution not in sources.FAMILIES:
            raise RookeryError(
                f"mmdebstrap does not build {recipe.distribution}",
                kind=ErrorKind.INVALID,
                hint=f"it builds {', '.join(sources.FAMILIES)}",
            )
        if recipe.groups:
            raise RookeryError(
                "deb packages have no groups",
                kind=ErrorKind.INVALID,
                hint="leave 'groups' out of the recipe, and name packages, or tasks as in 'task-ssh-server'",
            )
        foreign.check(recipe.architecture)
        # Keys that are not there are told before anything is fetched.
        sources.of_recipe(recipe)
        sources.further(recipe)
        for name in recipe.wanted:
            if not _PACKAGE.fullmatch(name):
                raise RookeryError(
                    f"{name!r} is not a Debian package name",
                    kind=ErrorKind.INVALID,
                    hint="expected: a name as in 'openssh-server', 'NAME=VERSION' or 'NAME/SUITE'",
                )

    def build(self, recipe: Recipe, site: BuildSite) -> BuiltTree:
        """See Builder.build."""
        meter = _Meter(site.on_progress)
        try:
            run(
                [
                    *apart(site.network_namespace),
                    *foreign.words(recipe.architecture),
                    *_command(recipe, site.tree, site.scratch),
                ],
                on_line=meter.line,
                cancel=site.cancel,
                env={
                    "SOURCE_DATE_EPOCH": str(SOURCE_DATE),
                    "DEBIAN_FRONTEND": "noninteractive",
                    # The word of the kernel package's own hook (/etc/kernel/postinst.d) for "this kernel needs none":
                    # a node comes up on Rookery's agent, so an initramfs here would be 15 MB for every node to fetch
                    # and never to use. On a node, update-initramfs works as ever.
                    "INITRD": "No",
                },
            )
        except RunError as error:
            raise _explained(recipe, meter, error) from error
        _clean_sources(site.tree)
        identity.remove(site.tree, CLEANED)
        return BuiltTree(installed.packages(site.tree))


def _command(recipe: Recipe, tree: Path, scratch: Path) -> list[str | Path]:
    base, further = sources.of_recipe(recipe), sources.further(recipe)
    argv: list[str | Path] = [
        *("mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--architectures={ARCHITECTURES[recipe.architecture]}",
        f"--components={','.join(sources.components(recipe))}",
        f"--include={','.join(recipe.wanted)}",
        # An image lists what it holds; what it does not list it does not need.
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--aptopt={line}" for line in sources.acquire_settings(recipe.proxy)),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude),
        *(f"--dpkgopt=path-include={pattern}" for pattern in recipe.keep),
    ]
    for name, archive in further.items():
        path = scratch / f"{name}.sources"
        path.write_text(archive.stanza())
        # Before other hooks, of which one reads all lists, for good.
        argv.append(f'--setup-hook=cp {shlex.quote(str(path))} "$1/etc/apt/sources.list.d/"')
    hooks = []
    # Debian 12 and later: merge /usr by symbolic links at once, or the package that converts brings perl (45 MB).
    if (_HOOKS / "maybe-merged-usr").is_dir():
        hooks.append("maybe-merged-usr")
    if any(uri.startswith("file:") for archive in (*base, *further.values()) for uri in archive.uris):
        hooks.append("file-mirror-automount")  # apt inside the root reads it as well
    argv += [f"--hook-dir={_HOOKS / hook}" for hook in hooks]
    argv += [f"--customize-hook={hook}" for hook in _hooks(recipe, scratch)]
    return [*argv, recipe.suite, tree, *_mirrors(recipe, base, scratch)]


def _mirrors(recipe: Recipe, archives: Sequence[sources.Archive], scratch: Path) -> list[str | Path]:
    """mmdebstrap's arguments that say where packages are; none for its default of the distribution."""
    if recipe.mirror and not any(archive.signed_by for archive in archives):
        return [recipe.mirror]  # it finds the keys
    if not archives:
        return []
    path = scratch / f"{recipe.distribution}.sources"  # apt on the node knows it by this name
    path.write_text("\n".join(archive.stanza() for archive in archives))
    return [path]


def _hooks(recipe: Recipe, scratch: Path) -> list[str]:
    """Shell lines for mmdebstrap that bring in the recipe's files and run its commands; `$1` there is the root."""
    lines = []
    for index, file in enumerate(recipe.files):
        staged = scratch / f"file{index}"
        staged.write_bytes(file.content)
        # Written from inside the root, where its links lead to itself and not into this head's file system.
        script = 'mkdir -p "${1%/*}/" && rm -f "$1" && cat > "$1" && chown "$3" "$1" && chmod "$2" "$1"'
        lines.append(
            f'echo "{_MARK} file {index}" >&2; '
            f'chroot "$1" /bin/sh -ec {shlex.quote(script)} sh '
            f"{shlex.quote(file.path)} {file.mode:04o} {file.owner} < {shlex.quote(str(staged))}"
        )
    for index, command in enumerate(recipe.commands):
        lines.append(f'echo "{_MARK} command {index}" >&2; chroot "$1" /bin/sh -ec {shlex.quote(command)} sh')
    return lines


class _Meter:
    """Turns the output of mmdebstrap, apt and dpkg into progress, and keeps what explains a failure."""

    _STAGES = (
        ("I: running apt-get update", "reading package lists"),
        ("I: downloading packages", "downloading"),
        ("I: extracting archives", "unpacking the base"),
        ("I: installing essential packages", "installing the base"),
        ("I: installing remaining packages", "installing packages"),
        ("I: cleaning package lists", "cleaning up"),
    )
    # Each package is unpacked once and set up once; the base is unpacked by mmdebstrap and again by dpkg.
    _STEP = re.compile(r"(Unpacking|Setting up) \S+ ")
    _COUNT = re.compile(r"\d+ upgraded, (\d+) newly installed")
    _GET = re.compile(r"Get:(\d+) ")

    def __init__(self, on_progress: OnProgress) -> None:
        self._tell = on_progress
        self._stage, self._packages, self._done = "starting", 0, 0
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.step: tuple[str, int] | None = None

    def line(self, line: str) -> None:
        if line.startswith(_MARK):
            kind, number = line.removeprefix(_MARK).split()
            self.step, self._stage = (kind, int(number)), "running the recipe's commands"
        if line.startswith(("E:", "dpkg: error", "chroot: failed")):
            self.errors.append(line.removeprefix("E:").strip())
        if line.startswith(("Err:", "W: GPG error", "W: Failed to fetch")):
            self.warnings.append(line)
        for start, stage in self._STAGES:
            if line.startswith(start):
                self._stage, self._done = stage, 0
        if count := self._COUNT.match(line):
            self._packages = int(count[1])
        if got := self._GET.match(line):
            self._done = int(got[1]) if "download" in self._stage else self._done
        elif self._STEP.match(line):
            self._done += 1
        total = {"downloading": 1, "installing the base": 2, "installing packages": 2}.get(self._stage, 0)
        total *= self._packages
        self._tell(Progress(self._stage, min(self._done, total), total, "steps", line))


def _explained(recipe: Recipe, meter: _Meter, error: RunError) -> RookeryError:
    """The failure in the recipe's terms."""
    details = "\n".join([*dict.fromkeys([*meter.warnings, *meter.errors]), error.record.details])
    if meter.step is not None:
        kind, index = meter.step
        what = (
            f"the command {recipe.commands[index]!r}" if kind == "command" else f"the file {recipe.files[index].path}"
        )
        return RookeryError(
            f"{what} of the recipe failed in the image's root",
            details=details,
            hint="commands run with 'sh -e', after all packages and files are in",
        )
    text = "\n".join(meter.errors)
    if "No space left on device" in details:
        return no_space(details)
    if missing := re.findall(r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate", text):
        names = ", ".join(dict.fromkeys(first or second for first, second in missing))
        areas = ", ".join(sources.components(recipe))
        return RookeryError(
            f"no package {names} in {recipe.distribution} {recipe.suite} ({areas})",
            kind=ErrorKind.INVALID,
            details=details,
            hint="correct the recipe's 'packages', or add the archive area to 'components'",
        )
    archive = _archive(recipe, [*meter.errors, *meter.warnings])
    if re.search(r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|signatures were invalid|could ?n.t be verified", details):
        return RookeryError(
            f"{archive} is not signed by the key that it should be",
            kind=ErrorKind.CORRUPT,
            details=details,
            hint="see that 'key' in the recipe is that archive's public key, and that nobody else answers in its place",
        )
    if re.search(r"^\s*404\s", details, re.MULTILINE) and "does not have a Release file" in details:
        return RookeryError(
            f"{archive} has no suite of that name: it answers 404",
            kind=ErrorKind.INVALID,
            details=details,
            hint="correct 'suite' in the recipe" if "archive of" in archive else "correct its 'url' or 'suite' there",
        )
    if re.search(
        r"Failed to fetch|Could not (resolve|connect)|Temporary failure|Unable to connect|Release file", details
    ):
        return RookeryError(
            f"cannot reach {archive}",
            kind=ErrorKind.UNAVAILABLE,
            details=details,
            hint="try 'apt update' on this head; another archive is named by the recipe's 'mirror'",
        )
    return RookeryError(
        f"installing {recipe.distribution} {recipe.suite} failed: {_last(meter.errors)}", details=details
    )


def no_space(details: str) -> RookeryError:
    """A full disk, whatever tool met it."""
    return RookeryError(
        "no space left to build the image",
        kind=ErrorKind.NO_SPACE,
        details=details,
        hint="free some space, or move the head's directory to a larger file system",
    )


def _archive(recipe: Recipe, lines: Sequence[str]) -> str:
    """Which archive a failure is about, in the recipe's terms."""
    for one in recipe.repositories:
        # apt shows no slash at the end and no password, and of a directory's URL one slash where three are.
        shown = re.sub(r"://[^/@\s]+@", "://", re.sub(r"^(file|copy):/+", r"\1:/", one.url)).rstrip("/")
        if any(shown in line for line in lines):
            return f"the repository {one.name} ({shown})"
    return f"the package archive of {recipe.distribution} {recipe.suite}"


def _last(errors: Sequence[str]) -> str:
    telling = [line for line in errors if "setup failed" not in line and not line.startswith("mmdebstrap failed")]
    return (telling or [*errors, "see the details"])[0]


def _clean_sources(tree: Path) -> None:
    """Take names and passwords out of the archive addresses that the head lent to the image."""
    apt = tree / "etc/apt"
    for path in [apt / "sources.list", *(apt / "sources.list.d").glob("*")]:
        if path.is_file() and not path.is_symlink():
            text = path.read_text()
            path.write_text(re.sub(r"(?m)^#.*\n", "", re.sub(r"://[^/@\s]+@", "://", text)))
    unsafe = tree / "etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    if unsafe.is_file():
        lines = [line for line in unsafe.read_text().splitlines(keepends=True) if line.startswith("path-")]
        unsafe.write_text("".join(lines))
