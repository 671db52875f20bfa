# SPDX-License-Identifier: Apache-2.0
"""rpm's database in a root: where the image's own rpm looks for it, in the form that this one reads, and the same bytes
for the same packages."""

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from rookery import files
from rookery.errors import RookeryError
from rookery.head.build import identity, inside
from rookery.head.build.builder import SOURCE_DATE
from rookery.head.build.recipe import Recipe
from rookery.run import run

SYSIMAGE, VAR = "usr/lib/sysimage/rpm", "var/lib/rpm"  # relative to the root: the present place, and the old one
_FILE = "rpmdb.sqlite"
_TIMELESS = {"SOURCE_DATE_EPOCH": str(SOURCE_DATE)}
_OLD = {"rocky": 9, "almalinux": 9, "centos": 9, "rhel": 9, "fedora": 35}  # the last release with VAR


def directory(recipe: Recipe) -> str:
    """Where a distribution keeps its database, relative to the root: packages are installed with it there, since some
    have a link in the place of the other."""
    release = major(recipe)
    old = release.isdigit() and int(release) <= _OLD.get(recipe.distribution, 0)
    return VAR if old else SYSIMAGE


def major(recipe: Recipe) -> str:
    """The number that a release begins with (`9.4`, `9-stream`), or its whole name where there is none."""
    found = re.match(r"\d+", recipe.suite)
    return found[0] if found else recipe.suite


def settle(tree: Path, place: str, scratch: Path, cancel: threading.Event) -> str:
    """Put the database, which this machine's rpm wrote to `place` in the root, where the root's own rpm reads it;
    returns that place. Both are relative to the root.

    It is asked for what it sees: when that is not what is there, the database is carried over by the programs
    themselves, `rpmdb --exportdb` here and `--importdb` there (rpmdb(8)). A root without rpm keeps it as it is.
    Raises RookeryError `failed` when its rpm sees nothing all the same, and `cancelled`.
    """
    if not inside.has_program(tree, "rpm"):
        return place
    here = run(["rpm", f"--dbpath={tree / place}", "--query", "--all"]).stdout.split()
    if _asked(tree, ["--query", "--all"], cancel) == sorted(here):
        return place
    with files.scratch_directory(scratch, "rpmdb-") as stage:
        run(["sh", "-c", 'exec rpmdb --dbpath="$1" --exportdb >"$2"', "sh", tree / place, stage / "headers"])
        for path in (tree / place).iterdir():
            path.rename(stage / path.name)
        words = ["/bin/sh", "-c", f"exec rpmdb --importdb <{inside.STAGE}/headers"]
        done = inside.execute(tree, words, inside.Surroundings(stage=stage, variables=_TIMELESS), cancel)
        if _asked(tree, ["--query", "--all"], cancel) != sorted(here):
            raise RookeryError(
                "the image's own rpm cannot read the database of its packages",
                details=done.stderr or done.stdout,
                hint="build on a machine of that distribution",
            )
    return "".join(_asked(tree, ["--eval", "%{_dbpath}"], cancel)).lstrip("/")


def tidy(tree: Path, place: str) -> None:
    """Write a database anew, in the order of its tables: without what was deleted, without journal and locks."""
    path = (tree / place / _FILE).resolve()
    if path.is_file() and path.is_relative_to(tree.resolve()):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("VACUUM")
    identity.remove(tree, [f"{place}/{name}" for name in (".rpm.lock", f"{_FILE}-shm", f"{_FILE}-wal")])


def _asked(tree: Path, words: list[str], cancel: threading.Event) -> list[str]:
    """The sorted words that the root's own rpm answers; none when it fails."""
    done = inside.execute(tree, ["rpm", *words], inside.Surroundings(), cancel)
    return sorted(done.stdout.split()) if done.code == 0 else []
