# SPDX-License-Identifier: Apache-2.0
"""mmdebstrap: progress from what it says, failures in the recipe's terms, what it is told."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import deb
from rookery.head.build.recipe import Recipe, RecipeFile
from rookery.head.progress import Progress, silent
from rookery.run import Completed, RunError, run

RECIPE = Recipe("debian", "bookworm", "linux-image-cloud-amd64", "x86_64")
# As mmdebstrap 1.3.5 --verbose says it, shortened.
OUTPUT = """\
I: chroot architecture amd64 is equal to the host's architecture
I: running apt-get update...
Get:1 http://mirror.example/debian bookworm InRelease [151 kB]
Fetched 9415 kB in 1s (12.0 MB/s)
I: downloading packages with apt...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.example/debian bookworm/main amd64 gcc-12-base amd64 12.2.0-14+deb12u1 [37.6 kB]
Get:2 http://mirror.example/debian bookworm/main amd64 libc6 amd64 2.36-9+deb12u14 [2761 kB]
I: extracting archives...
I: installing essential packages...
Preparing to unpack .../gcc-12-base_12.2.0-14+deb12u1_amd64.deb ...
Unpacking gcc-12-base:amd64 (12.2.0-14+deb12u1) ...
Setting up gcc-12-base:amd64 (12.2.0-14+deb12u1) ...
Unpacking libc6:amd64 (2.36-9+deb12u14) ...
Setting up libc6:amd64 (2.36-9+deb12u14) ...
I: installing remaining packages inside the chroot...
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Unpacking less (590-2.1) ...
Setting up less (590-2.1) ...
rookery-step: command 0
I: cleaning package lists and apt cache...
I: success in 26.9938 seconds
"""


def fed(text: str) -> tuple[deb._Meter, list[Progress]]:
    told: list[Progress] = []
    meter = deb._Meter(told.append)
    for line in text.splitlines():
        meter.line(line)
    return meter, told


def test_progress_follows_the_tools() -> None:
    _, told = fed(OUTPUT)
    last = {progress.stage: (progress.done, progress.total) for progress in told}
    assert list(last) == [
        "starting", "reading package lists", "downloading", "unpacking the base", "installing the base",
        "installing packages", "running the recipe's commands", "cleaning up",
    ]  # fmt: skip
    assert last["downloading"] == (2, 2)
    assert last["installing the base"] == (4, 4)
    assert last["installing packages"] == (2, 2)
    assert [progress.line for progress in told] == OUTPUT.splitlines()


def explained(text: str, recipe: Recipe = RECIPE) -> RookeryError:
    meter, _ = fed(text)
    return deb._explained(recipe, meter, RunError("mmdebstrap failed", Completed(("mmdebstrap",), 1, text, "")))


def test_a_package_that_is_not_there_is_named() -> None:
    error = explained("E: Unable to locate package lesss\nE: Package 'vimm' has no installation candidate\n")
    assert str(error) == "no package lesss, vimm in debian bookworm (main)"
    assert error.kind is ErrorKind.INVALID


def test_an_archive_that_cannot_be_reached() -> None:
    error = explained("E: Failed to fetch http://m.example/x  Temporary failure resolving 'm.example'\n")
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "'mirror'" in error.record.hint


def test_a_command_that_failed_is_shown() -> None:
    recipe = dataclasses.replace(RECIPE, commands=("true", "systemctl enable nothing"))
    text = OUTPUT + "rookery-step: command 1\nFailed to enable unit\nE: setup failed: E: run_hooks() failed\n"
    error = explained(text, recipe)
    assert "'systemctl enable nothing'" in str(error)
    assert "Failed to enable unit" in error.record.details


def test_anything_else_keeps_its_own_words() -> None:
    error = explained("dpkg: error processing package foo (--configure):\nE: mmdebstrap failed to run\n")
    assert "dpkg: error processing package foo" in str(error)


@pytest.mark.parametrize("name", ["Less", "less;reboot", "less more", "-o", "a"])
def test_names_that_are_no_packages_are_refused(name: str) -> None:
    with pytest.raises(RookeryError) as caught:
        deb.DebBuilder().check(dataclasses.replace(RECIPE, packages=(name,)))
    assert repr(name) in str(caught.value)


def test_hooks_write_files_inside_the_root_and_quote_everything(tmp_path: Path) -> None:
    """Run for real, with a shell in the place of chroot: what arrives is what the recipe says, byte for byte."""
    root, scratch, tools = tmp_path / "root dir", tmp_path / "scratch dir", tmp_path / "tools"
    for directory in (root, scratch, tools):
        directory.mkdir()
    recipe = dataclasses.replace(
        RECIPE,
        files=(RecipeFile(f'{root}/a dir/it\'s "$HOME"', b"\x00$(id)\n", 0o640, "0:0"),),
        commands=(f"printf %s 'it'\"'s\" > {shlex.quote(str(root))}/said",),
    )
    (tools / "chroot").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tools / "chroot").chmod(0o755)
    for hook in deb._hooks(recipe, scratch):
        run(["sh", "-ec", hook, "sh", root], env={"PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"})
    written = root / "a dir" / 'it\'s "$HOME"'
    assert written.read_bytes() == b"\x00$(id)\n"
    assert written.stat().st_mode & 0o7777 == 0o640
    assert (root / "said").read_text() == "it's"


def test_a_recipes_mirror_comes_before_the_heads_own(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, mirror="http://mirror.example/debian")
    assert deb._command(recipe, tmp_path / "tree", tmp_path)[-3:] == [
        "bookworm",
        tmp_path / "tree",
        "http://mirror.example/debian",
    ]


def test_passwords_of_the_heads_archives_do_not_travel(tmp_path: Path) -> None:
    lists = tmp_path / "etc/apt/sources.list.d"
    lists.mkdir(parents=True)
    (lists / "debian.sources").write_text("Types: deb\nURIs: https://me:secret@m.example/debian\nSuites: bookworm\n")
    deb._clean_sources(tmp_path)
    assert "secret" not in (lists / "debian.sources").read_text()
    assert "https://m.example/debian" in (lists / "debian.sources").read_text()


def test_silence_is_fine() -> None:
    deb._Meter(silent).line("")
