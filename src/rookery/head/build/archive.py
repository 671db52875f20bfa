# SPDX-License-Identifier: Apache-2.0
"""Builds roots from what is there already: a directory, which rsync copies, or a tarball, which GNU tar unpacks."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apply, guard, installed
from rookery.head.build.apart import PROGRAMS, apart, full_disk, require, require_root
from rookery.head.build.builder import BuildSite, BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.progress import Progress
from rookery.run import RunError, run

COPYING, UNPACKING = "copying the tree", "unpacking the archive"
# File systems that hold no files of anybody's: mounted below a tree, they are not a part of it.
VIRTUAL = re.compile(
    "autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|fusectl|hugetlbfs|mqueue|proc|pstore"
    "|ramfs|securityfs|sysfs|tmpfs|tracefs"
)
_PACKAGES = {"gzip": "gzip", "xz": "xz-utils", "zstd": "zstd", "bzip2": "bzip2"}
_RECORD, _RECORDS_TOLD = 10240, 1000  # bytes of a record, by which GNU tar counts; how many between two messages
_TOLD_EVERY = 100  # files
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class ArchiveBuilder:
    """A tree or a tarball becomes a root; the recipe's packages, files and commands are added inside it."""

    def check(self, recipe: Recipe) -> None:
        """See Builder.check."""
        require_root("building an image")
        source = Path(recipe.archive)
        if not source.exists():
            raise RookeryError(
                f"there is nothing at {source}", kind=ErrorKind.NOT_FOUND, hint="'archive' is a path on the head"
            )
        if source.is_dir():
            require({"rsync": "rsync", **PROGRAMS}, "copying a tree")
        elif source.is_file():
            packed = guard.compressor(source)
            programs = {packed: _PACKAGES[packed]} if packed else {}
            require({"tar": "tar", **programs, **PROGRAMS}, "unpacking an archive")
        else:
            raise RookeryError(f"{source} is neither a directory nor a file", kind=ErrorKind.INVALID)

    def build(self, recipe: Recipe, site: BuildSite) -> BuiltTree:
        """See Builder.build."""
        site.tree.parent.chmod(0o700)  # what is unpacked may have programs with the set-user-ID bit, and devices
        source = Path(recipe.archive)
        try:
            notes = _copy(source, recipe, site) if source.is_dir() else _unpack(source, recipe, site)
        except RunError as error:
            if full := full_disk(error, f"{'copy' if source.is_dir() else 'unpack'} {source}", site.tree.parent):
                raise full from error
            raise
        apply.apply(site.tree, recipe, site.scratch, site.on_progress, site.cancel, site.network_namespace)
        return BuiltTree(installed.packages(site.tree, cancel=site.cancel), notes)


def _copy(source: Path, recipe: Recipe, site: BuildSite) -> tuple[str, ...]:
    """Copy a directory exactly; returns what was left out."""
    source = source.resolve()
    if site.tree.resolve().is_relative_to(source):
        raise RookeryError(
            f"{source} holds the head's own work directory", kind=ErrorKind.INVALID, hint="copy a part of it"
        )
    left_out = _virtual_mounts(source)
    rules = guard.Guard(str(source), recipe.limits, layers=False)
    _count(source, left_out, rules, site)
    files.require_space(site.tree.parent, rules.size, f"a copy of {source}")

    copied = 0

    def on_line(line: str) -> None:
        nonlocal copied
        copied += 1
        if copied % _TOLD_EVERY == 0:
            site.on_progress(Progress(COPYING, min(copied, rules.entries), rules.entries, line=line))

    # What a machine has mounted of its own (a running root's /proc) is no part of the tree.
    skipped = [f"--exclude=/{_pattern(path)}/*" for path in left_out]
    exact = ("--archive", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids", "--no-inc-recursive")
    run(
        [*apart(), "rsync", *exact, "--out-format=%n", "--outbuf=L", *skipped, "--", f"{source}/", f"{site.tree}/"],
        on_line=on_line,
        cancel=site.cancel,
        hint="a tree that changes while it is copied cannot be copied exactly: stop what writes there",
    )
    return tuple(f"/{path} of {source} is a file system of the machine: its content was left out" for path in left_out)


def _virtual_mounts(source: Path) -> tuple[str, ...]:
    """The virtual file systems that are mounted below a directory: paths relative to it. See proc(5), mountinfo."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        place = Path(os.fsdecode(_ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), before.split(b" ")[4])))
        if VIRTUAL.fullmatch(after.split(b" ")[0].decode()) and place != source and place.is_relative_to(source):
            found.add(str(place.relative_to(source)))
    return tuple(sorted(found))


def _pattern(path: str) -> str:
    """A path as rsync's patterns take it: letter by letter."""
    return re.sub(r"([*?\[\\])", r"\\\1", path) if re.search(r"[*?\[]", path) else path


def _count(source: Path, left_out: tuple[str, ...], rules: guard.Guard, site: BuildSite) -> None:
    """Hold the limits over a directory before it is copied."""
    skipped = {os.path.join(source, path) for path in left_out}
    for directory, names, others in os.walk(source):
        site.on_progress(Progress("counting files", line=directory))
        if site.cancel.is_set():
            raise RookeryError("copying the tree was cancelled", kind=ErrorKind.CANCELLED)
        states = [os.lstat(os.path.join(directory, name)) for name in others]
        # What it takes on the disk: a hole costs nothing, and a file with several names is copied once.
        size = sum(state.st_blocks * 512 // state.st_nlink for state in states if stat.S_ISREG(state.st_mode))
        rules.count(len(names) + len(others), size)
        names[:] = [name for name in names if os.path.join(directory, name) not in skipped]


def _unpack(source: Path, recipe: Recipe, site: BuildSite) -> tuple[str, ...]:
    """Look through a tarball and unpack it exactly."""
    rules, total = guard.Guard(str(source), recipe.limits, layers=False), source.stat().st_size

    def told(done: int) -> None:
        site.on_progress(Progress("looking through the archive", done, total, "bytes"))

    acls = False
    for entry in guard.scan(source, told, site.cancel, rules.stream):
        rules.look(entry)
        acls = acls or entry.acl
    if rules.entries == 0:
        raise RookeryError(f"{source} is empty, or no tar archive", kind=ErrorKind.INVALID)
    files.require_space(site.tree.parent, rules.size, f"unpacking {source}")

    def on_line(line: str) -> None:
        if count := re.search(r"record (\d+)$", line):
            site.on_progress(Progress(UNPACKING, min(int(count[1]) * _RECORD, rules.size), rules.size, "bytes"))

    site.tree.mkdir()
    packed = guard.compressor(source)
    run(
        [
            *(
                *apart(),
                "tar",
                "--extract",
                f"--file={source}",
                f"--directory={site.tree}",
                *([f"--{packed}"] if packed else []),
            ),
            *("--numeric-owner", "--same-owner", "--preserve-permissions", "--delay-directory-restore"),
            # With it, GNU tar takes access lists away that came as plain attributes, as packing/tree.py writes them.
            *(["--acls"] if acls else []),
            *("--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--warning=no-unknown-keyword"),
            *(f"--checkpoint={_RECORDS_TOLD}", "--checkpoint-action=echo=record %u"),
        ],
        on_line=on_line,
        cancel=site.cancel,
        hint=f"'tar --list --file={source}' tells whether it is whole",
    )
    return ()
