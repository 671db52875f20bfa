# SPDX-License-Identifier: Apache-2.0
"""dnf: progress from what it says, failures in the recipe's terms, what it is told, and the recipes that ship."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import rpm, rpmdb
from rookery.head.build.builder import BuildSite, find
from rookery.head.build.recipe import Recipe, Repository, parse
from rookery.head.progress import Progress, silent
from rookery.run import Completed, RunError, run

EXAMPLES = Path(__file__).parents[3] / "examples" / "recipes"
ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----"
RECIPE = Recipe(
    "rocky",
    "9",
    "kernel",
    "x86_64",
    groups=("core",),
    key=ARMOR,
    proxy="http://cache.example:3142",
    repositories=(
        Repository("baseos", "https://me:secret@r.example/$releasever"),
        Repository("lan", "file:///srv/lan"),
    ),
)
# As dnf 4.14 says it, shortened.
OUTPUT = """\
baseos                                          1.3 MB/s | 2.4 MB     00:01
Dependencies resolved.
Total download size: 160 k
Downloading Packages:
(1/2): less-590-5.el9.x86_64.rpm                 13 MB/s | 160 kB     00:00
(2/2): which-2.21-29.el9.x86_64.rpm              11 MB/s |  40 kB     00:00
Running transaction check
Transaction check succeeded.
Running transaction test
Transaction test succeeded.
Running transaction
  Preparing        :                                                        1/1
  Installing       : less-590-5.el9.x86_64                                  1/2
  Installing       : which-2.21-29.el9.x86_64                               2/2
  Running scriptlet: which-2.21-29.el9.x86_64                               2/2
warning: %post(which-2.21-29.el9.x86_64) scriptlet failed, exit status 1

Error in POSTIN scriptlet in rpm package which
  Verifying        : less-590-5.el9.x86_64                                  1/2
  Verifying        : which-2.21-29.el9.x86_64                               2/2
Complete!
"""


def fed(text: str) -> tuple[rpm._Meter, list[Progress]]:
    told: list[Progress] = []
    meter = rpm._Meter(told.append)
    for line in text.splitlines():
        meter.line(line)
    return meter, told


def explained(text: str) -> RookeryError:
    return rpm._explained(RECIPE, fed(text)[0], RunError("dnf failed", Completed(("dnf",), 1, text, "")))


def test_progress_follows_dnf() -> None:
    meter, told = fed(OUTPUT)
    last = {progress.stage: (progress.done, progress.total) for progress in told}
    assert last == {
        "reading package lists": (0, 0),
        "downloading": (2, 2),
        "installing packages": (2, 2),
        "checking packages": (2, 2),
    }
    assert meter.scripts == ["%post(which-2.21-29.el9.x86_64) scriptlet failed, exit status 1"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "No match for argument: lesss\nNo match for argument: vimm\nError: Unable to find a match: lesss vimm\n",
            ErrorKind.INVALID,
            "no package lesss, vimm in the repositories of rocky 9",
        ),
        (
            "Error: Failed to download metadata for repo 'baseos': Cannot download repomd.xml\n",
            ErrorKind.UNAVAILABLE,
            "cannot reach the repository baseos (https://r.example/$releasever)",
        ),
        (
            "Public key for less.rpm is not installed. Failing package is: less\nError: GPG check FAILED\n",
            ErrorKind.CORRUPT,
            "a repository of rocky 9 gives packages that are not signed",
        ),
        (
            "Error:\n Problem: conflicting requests\n  - nothing provides libfoo needed by bar-1-1.x86_64\n",
            ErrorKind.FAILED,
            "installing rocky 9 failed: Problem: conflicting requests",
        ),
    ],
)
def test_failures_are_told_in_the_recipes_terms(text: str, kind: ErrorKind, message: str) -> None:
    error = explained(text)
    assert error.kind is kind
    assert str(error).startswith(message)
    assert "secret" not in str(error)


def configured(recipe: Recipe, tmp_path: Path) -> tuple[BuildSite, list[str]]:
    site = BuildSite(tmp_path / "tree", tmp_path / "scratch", silent, None)  # type: ignore[arg-type]
    site.scratch.mkdir()
    rpm._configure(recipe, site)
    return site, [str(word) for word in rpm._command(recipe, site)]


def test_what_dnf_is_told(tmp_path: Path) -> None:
    site, words = configured(RECIPE, tmp_path)
    assert words[-3:] == ["install", "kernel", "@core"]
    assert "--releasever=9" in words
    settings = (site.scratch / "dnf.conf").read_text().splitlines()
    assert {"proxy=http://cache.example:3142", "module_platform_id=platform:el9"} <= set(settings)
    repository = (site.scratch / "repositories/baseos.repo").read_text().splitlines()
    assert {"[baseos]", "gpgcheck=1", f"gpgkey=file://{site.scratch}/baseos.asc"} <= set(repository)
    assert (site.scratch / "baseos.asc").read_text().strip() == ARMOR
    assert (site.scratch / "home/.rpmmacros").read_text().splitlines()[0] == "%_dbpath /var/lib/rpm"


def test_dnf_knows_every_option_and_setting(tmp_path: Path) -> None:
    foreign = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    site, words = configured(dataclasses.replace(RECIPE, architecture=foreign), tmp_path)
    said = run(["dnf", "--help"]).stdout
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert "--forcearch" in options
    assert [option for option in options if not re.search(rf"(^|\s|,){option}\b", said)] == []
    settings = [line.partition("=")[0] for line in (site.scratch / "dnf.conf").read_text().splitlines()[1:]]
    keys = [line.partition("=")[0] for line in (site.scratch / "repositories/lan.repo").read_text().splitlines()[1:]]
    script = (
        "import sys, dnf.conf; main, repository = dnf.conf.MainConf(), dnf.conf.RepoConf(dnf.conf.MainConf());"
        "print([n for n in sys.argv[1].split() if not hasattr(main, n)],"
        " [n for n in sys.argv[2].split() if not hasattr(repository, n)])"
    )
    unknown = run(["/usr/bin/python3", "-c", script, " ".join(settings), " ".join(keys)]).stdout
    assert unknown.strip() == "[] []"


@pytest.mark.parametrize(
    ("distribution", "suite", "place"),
    [
        ("rocky", "9", "var/lib/rpm"),
        ("rocky", "9.4", "var/lib/rpm"),
        ("centos", "9-stream", "var/lib/rpm"),
        ("rocky", "10", "usr/lib/sysimage/rpm"),
        ("fedora", "41", "usr/lib/sysimage/rpm"),
        ("opensuse", "15.6", "usr/lib/sysimage/rpm"),
        ("opensuse", "tumbleweed", "usr/lib/sysimage/rpm"),
    ],
)
def test_where_distributions_keep_their_database(distribution: str, suite: str, place: str) -> None:
    assert rpmdb.directory(dataclasses.replace(RECIPE, distribution=distribution, suite=suite)) == place


def test_left_out_are_files_and_empty_directories(tmp_path: Path) -> None:
    for name in (
        "usr/share/man/man1/a.1",
        "usr/share/man/de/man1/a.1",
        "usr/share/doc/a/COPYING",
        "usr/share/doc/a/NEWS",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "usr/share/doc/link").symlink_to("/etc")
    rpm.leave_out(tmp_path, ("/usr/share/man/*", "/usr/share/doc/*"), ("/usr/share/doc/*/COPYING",))
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["usr", "usr/share", "usr/share/doc", "usr/share/doc/a", "usr/share/doc/a/COPYING", "usr/share/man"]


EXAMPLES_OF_RPM = ("rocky9.toml", "rocky10.toml", "opensuse.toml")


@pytest.mark.parametrize("name", EXAMPLES_OF_RPM)
def test_the_examples_are_complete(name: str, tmp_path: Path) -> None:
    recipe = parse((EXAMPLES / name).read_text(), name, EXAMPLES)
    assert isinstance(find(recipe.builder), rpm.RpmBuilder)
    rpm._check_words(recipe)
    assert Path(recipe.key).is_relative_to(EXAMPLES)
    _, words = configured(dataclasses.replace(recipe, key=ARMOR), tmp_path)
    assert words[-len(recipe.wanted) :] == list(recipe.wanted)


def test_the_example_of_ubuntu_is_built_by_mmdebstrap() -> None:
    recipe = parse((EXAMPLES / "ubuntu.toml").read_text(), "ubuntu.toml", EXAMPLES)
    assert type(find(recipe.builder)).__name__ == "DebBuilder"
