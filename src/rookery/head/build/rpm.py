# SPDX-License-Identifier: Apache-2.0
"""Builds roots of rpm distributions with dnf, from outside: `dnf --installroot`.

The image needs neither dnf nor rpm for that, and the head no repository of its own: all that dnf is told stands in a
configuration of the build (dnf.conf(5)).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import stat
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apply, foreign, identity, installed, keys, owners, rpmdb
from rookery.head.build.apart import PROGRAMS, apart, require, require_root
from rookery.head.build.builder import SOURCE_DATE, BuildSite, BuiltTree
from rookery.head.build.deb import no_space
from rookery.head.build.recipe import Recipe, Repository
from rookery.head.progress import OnProgress, Progress
from rookery.run import RunError, run

# Package state that differs from build to build or is of no use in an image; relative to the root.
CLEANED = (
    "var/cache/dnf",
    "var/cache/yum",
    "var/lib/dnf/history*",
    "var/lib/dnf/*.lock",
    "var/lib/dnf/repos",
    "var/lib/dnf/system-upgrade*",
    "boot/initramfs-*",
    "boot/initrd-*",
)

# Words: root, then the command. Scriptlets of packages run in the root, and want what a running system has; what they
# do there must not change this machine, and is gone with the mount namespace (apart.py). No /sys: a package that owns
# the directory sets its mode, and the kernel's own refuses that.
_MOUNTS = r"""
set -eu
root=$1
shift
mkdir -p "$root"
mkdir -m 555 "$root/proc"
mkdir "$root/dev" "$root/run"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t tmpfs -o mode=755,nosuid,size=4m tmpfs "$root/dev"
node() { mknod -m 666 "$root/dev/$1" c "$2" "$3"; }
node null 1 3; node zero 1 5; node full 1 7; node random 1 8; node urandom 1 9; node tty 5 0
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
exec "$@"
"""


class RpmBuilder:
    """Rocky Linux, AlmaLinux, CentOS Stream, RHEL, Fedora or openSUSE, by dnf, from the recipe's repositories."""

    def check(self, recipe: Recipe) -> None:
        """See Builder.check."""
        require_root("building an image")
        require({"dnf": "dnf", "rpm": "rpm", **PROGRAMS}, f"building an image of {recipe.distribution}")
        _check_words(recipe)
        foreign.check(recipe.architecture)
        for one in recipe.repositories:
            _key(recipe, one)

    def build(self, recipe: Recipe, site: BuildSite) -> BuiltTree:
        """See Builder.build."""
        meter = _Meter(site.on_progress)
        home = _configure(recipe, site)
        words = [*apart(site.network_namespace), *foreign.words(recipe.architecture)]
        try:
            run(
                [*words, "sh", "-c", _MOUNTS, "sh", site.tree, *_command(recipe, site)],
                on_line=meter.line,
                cancel=site.cancel,
                env={
                    "HOME": str(home),
                    "PYTHONUNBUFFERED": "1",
                    # rpm takes it for the time of installation, which stands in its database.
                    "SOURCE_DATE_EPOCH": str(SOURCE_DATE),
                    # A node comes up on Rookery's agent: no initramfs, no boot loader's entries (kernel-install(8)).
                    "KERNEL_INSTALL_BYPASS": "1",
                },
            )
        except RunError as error:
            raise _explained(recipe, meter, error) from error
        nobodys = owners.settle(site.tree, rpmdb.directory(recipe), meter.missing, site.cancel)
        place = rpmdb.settle(site.tree, rpmdb.directory(recipe), site.scratch, site.cancel)
        leave_out(site.tree, recipe.exclude, recipe.keep)
        steps = dataclasses.replace(recipe, kernel="", packages=())  # those are in
        apply.apply(site.tree, steps, site.scratch, site.on_progress, site.cancel, site.network_namespace)
        packages = installed.packages(site.tree, place)
        rpmdb.tidy(site.tree, place)
        identity.remove(site.tree, CLEANED)
        notes = tuple(f"a script of a package failed: {line}" for line in dict.fromkeys(meter.scripts))
        if nobodys:
            notes += (f"files of packages belong to root, for there is no {', '.join(nobodys)} in the image",)
        return BuiltTree(packages, notes)


def _check_words(recipe: Recipe) -> None:
    def refuse(message: str, hint: str) -> None:
        raise RookeryError(message, kind=ErrorKind.INVALID, hint=hint)

    if not recipe.repositories:
        refuse(
            f"the recipe says nowhere where {recipe.distribution}'s packages are",
            "add its archives as [[repositories]]; examples/recipes has them for some distributions",
        )
    if recipe.mirror or recipe.components:
        refuse("'mirror' and 'components' are for deb packages", "name whole addresses in [[repositories]]")
    for one in recipe.repositories:
        if one.suites or one.components:
            refuse(f"the repository {one.name}: rpm repositories have no suites or components", "leave them out")
        if one.url.startswith("copy:"):
            refuse(f"the repository {one.name}: dnf does not know {one.url}", f"write file:{one.url[5:]}")
        if not (one.key or recipe.key or one.trusted):
            refuse(
                f"the repository {one.name} has no key",
                "name the key that signs its packages ('key', of it or of the recipe), or say 'trusted = true'",
            )


def _key(recipe: Recipe, one: Repository) -> str:
    """The armored key of a repository; empty where it is trusted without."""
    key = "" if one.trusted else one.key or recipe.key
    return keys.armored(key, f"of the repository {one.name}") if key else ""


def _configure(recipe: Recipe, site: BuildSite) -> Path:
    """Write all that dnf and rpm are told; returns the directory that they take for their home."""
    repositories, home = site.scratch / "repositories", site.scratch / "home"
    for directory in (repositories, home, site.scratch / "nothing"):
        directory.mkdir()
    for one in recipe.repositories:
        text = f"[{one.name}]\nname={one.name}\nbaseurl={one.url}\nenabled=1\ngpgcheck={0 if one.trusted else 1}\n"
        if key := _key(recipe, one):
            path = site.scratch / f"{one.name}.asc"
            path.write_text(key)
            text += f"gpgkey=file://{path}\n"
        (repositories / f"{one.name}.repo").write_text(text)
    settings = {
        "reposdir": repositories,
        "varsdir": site.scratch / "nothing",
        # An image lists what it holds; what it does not list it does not need.
        "install_weak_deps": "False",
        "best": "True",
        "skip_if_unavailable": "False",
        "keepcache": "False",
        "retries": "3",
        "timeout": "30",
        "proxy": recipe.proxy,
        "module_platform_id": _platform(recipe),
    }
    lines = [f"{name}={value}" for name, value in settings.items() if value]
    (site.scratch / "dnf.conf").write_text("\n".join(["[main]", *lines, ""]))
    macros = {"_dbpath": f"/{rpmdb.directory(recipe)}", "_db_backend": "sqlite"}
    (home / ".rpmmacros").write_text("".join(f"%{name} {value}\n" for name, value in macros.items()))
    return home


def _platform(recipe: Recipe) -> str:
    """What modules of packages are for, which dnf would read in the root if it were there already."""
    if recipe.distribution == "opensuse":
        return ""
    return f"platform:{'f' if recipe.distribution == 'fedora' else 'el'}{rpmdb.major(recipe)}"


def _command(recipe: Recipe, site: BuildSite) -> list[str | Path]:
    argv: list[str | Path] = [
        "dnf",
        f"--config={site.scratch / 'dnf.conf'}",
        f"--installroot={site.tree}",
        f"--releasever={recipe.suite}",
        f"--setopt=reposdir={site.scratch / 'repositories'}",  # or it also looks into the root
        "--noplugins",
        "--assumeyes",
    ]
    if foreign.is_foreign(recipe.architecture):
        argv.append(f"--forcearch={recipe.architecture}")
    return [*argv, "install", *recipe.wanted, *(f"@{group}" for group in recipe.groups)]


def leave_out(tree: Path, exclude: tuple[str, ...], keep: tuple[str, ...]) -> None:
    """Remove what matches `exclude` and not `keep` from a root, as dpkg does with such patterns: they are of whole
    absolute paths, and `*` also stands for slashes. Directories go when they match and are empty then."""

    def goes(path: str) -> bool:
        name = f"/{os.path.relpath(path, tree)}"
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude) and not any(
            fnmatch.fnmatchcase(name, pattern) for pattern in keep
        )

    for parent, directories, names in os.walk(tree, topdown=False) if exclude else ():
        for path in (os.path.join(parent, name) for name in (*names, *directories)):
            if not goes(path):
                continue
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
            elif not os.listdir(path):
                os.rmdir(path)


class _Meter:
    """Turns what dnf prints into progress, and keeps what explains a failure."""

    _STAGES = (
        ("Downloading Packages", "downloading"),
        ("Running transaction check", "checking packages"),
        ("Running transaction", "installing packages"),
    )
    # `(1/12): less-590-2.el9.x86_64.rpm   1.2 MB/s | 160 kB`; `  Installing       : less-590-2.el9.x86_64    3/12`
    _GOT = re.compile(r"\((\d+)/(\d+)\): ")
    _DONE = re.compile(r"  (?:Installing|Running scriptlet|Verifying|Preparing)\s*: .*?(\d+)/(\d+)\s*$")
    _FAULT = re.compile(
        r"(?:Error|error|Errors|Problem|No match|Module or Group|Unable|GPG|Public key|Package \S+ is not signed|"
        r"The GPG keys|Import of key|Failing package|  - Curl| Problem|  - nothing|\[Errno|Failed)"
    )
    _SCRIPT = re.compile(r"(?:warning: (%\w+\(.*\) scriptlet failed.*)|Error in (\w+ scriptlet in rpm package .*))")

    def __init__(self, on_progress: OnProgress) -> None:
        self._tell = on_progress
        self._stage, self._done, self._total = "reading package lists", 0, 0
        self.faults: list[str] = []
        self.scripts: list[str] = []
        self.missing: set[str] = set()

    def line(self, line: str) -> None:
        if name := owners.missing(line):
            self.missing.add(name)
        if found := self._SCRIPT.match(line):
            self.scripts += [found[1]] if found[1] else []
        elif self._FAULT.match(line):
            self.faults.append(line.strip())
        for start, stage in self._STAGES:
            if line.startswith(start) and not line.startswith(f"{start} test"):
                self._stage, self._done, self._total = stage, 0, 0
        if count := self._GOT.match(line) or self._DONE.match(line):
            if line.startswith("  Verifying"):
                self._stage = "checking packages"
            self._done, self._total = int(count[1]), int(count[2])
        self._tell(Progress(self._stage, self._done, self._total, "steps", line))


def _explained(recipe: Recipe, meter: _Meter, error: RunError) -> RookeryError:
    """The failure in the recipe's terms."""
    said = "\n".join(meter.faults)
    details = "\n".join([*dict.fromkeys(meter.faults), error.record.details])
    release = f"{recipe.distribution} {recipe.suite}"
    if re.search(r"No space left on device|needs \S+ (more space|more inodes|inodes) on|more space needed on", details):
        return no_space(details)
    if groups := re.findall(r"Module or Group '(.*?)' (?:does not exist|is not available)", said):
        return RookeryError(
            f"no group {', '.join(dict.fromkeys(groups))} in the repositories of {release}",
            kind=ErrorKind.INVALID,
            details=details,
            hint="correct the recipe's 'groups': ids as 'dnf group list --hidden --ids' shows them",
        )
    if missing := re.findall(r"(?:No match for argument|Unable to find a match): (.+)", said):
        names = dict.fromkeys(name for line in missing for name in line.split())
        return RookeryError(
            f"no package {', '.join(names)} in the repositories of {release}",
            kind=ErrorKind.INVALID,
            details=details,
            hint="correct the recipe's 'packages', or add a repository that has them",
        )
    if re.search(r"GPG check FAILED|is not signed|not correct for this package|Public key for", said):
        return RookeryError(
            f"{_repository(recipe, said)} gives packages that are not signed by the key that they should be",
            kind=ErrorKind.CORRUPT,
            details=details,
            hint="see that 'key' in the recipe is that repository's public key, and that nobody else answers for it",
        )
    if re.search(r"Failed to download metadata|Curl error|Cannot download|Error downloading packages", said):
        return RookeryError(
            f"cannot reach {_repository(recipe, said)}",
            kind=ErrorKind.UNAVAILABLE,
            details=details,
            hint="try its 'url' with curl on this head, with repodata/repomd.xml after it",
        )
    first = next((line for line in meter.faults if line.strip() != "Error:"), "see the details")
    return RookeryError(f"installing {release} failed: {first.removeprefix('Error: ')}", details=details)


def _repository(recipe: Recipe, said: str) -> str:
    """Which repository a failure is about, in the recipe's terms."""
    for one in recipe.repositories:
        if re.search(rf"(?:repo|repository) ['\"]{re.escape(one.name)}['\"]|/{re.escape(one.name)}\.asc", said):
            return f"the repository {one.name} ({re.sub(r'://[^/@]+@', '://', one.url)})"
    return f"a repository of {recipe.distribution} {recipe.suite}"
