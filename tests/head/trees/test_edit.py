# SPDX-License-Identifier: Apache-2.0
"""Editing one file of a tree with a real (scripted) editor, and paths that want to lead out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.trees import beneath
from rookery.head.trees.edit import edit

pytestmark = pytest.mark.system


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("etc/deep", "usr/lib", "root"):
        (root / name).mkdir(parents=True)
    (root / "etc/motd").write_text("hello\n")
    (tmp_path / "secret").write_text("outside\n")
    return root


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that adds a line to the file that it is given."""
    program = tmp_path / "editor"
    program.write_text('#!/bin/sh\necho "$1" >> "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", f"{program} 'a line'")
    return program


def test_owner_mode_and_attributes_stay(root: Path, editor: Path) -> None:
    path = root / "etc/motd"
    os.chown(path, 1, 4)
    path.chmod(0o4750)
    os.setxattr(path, "user.colour", b"green")
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    assert edit(root, "/etc/motd") == "/etc/motd"
    found = path.stat()
    assert path.read_text() == "hello\na line\n"
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1, 4, 0o4750)
    assert os.getxattr(path, "user.colour") == b"green"
    assert os.getxattr(path, "security.capability")[:4] == bytes.fromhex("01000002")
    assert [entry.name for entry in (root / "etc").iterdir() if entry.name.startswith(".")] == []


def test_a_new_file(root: Path, editor: Path) -> None:
    assert edit(root, "etc/new") == "/etc/new"
    found = (root / "etc/new").stat()
    assert ((root / "etc/new").read_text(), found.st_mode & 0o7777, found.st_uid) == ("a line\n", 0o644, 0)


def test_links_count_as_inside_the_image(root: Path, editor: Path) -> None:
    (root / "usr/lib/real").write_text("")
    (root / "etc/link").symlink_to("/usr/lib/real")
    (root / "etc/by").symlink_to("../etc/link")
    assert edit(root, "/etc/by") == "/usr/lib/real"
    assert (root / "usr/lib/real").read_text() == "a line\n"
    assert (root / "etc/by").is_symlink()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("../secret", ErrorKind.INVALID),
        ("/etc/../../secret", ErrorKind.INVALID),
        ("/etc/climbs", ErrorKind.INVALID),
        ("/etc/up/secret", ErrorKind.INVALID),
        ("/etc/outside", ErrorKind.NOT_FOUND),  # its target counts as inside, and is not there
        ("/etc/round", ErrorKind.INVALID),
        ("/etc", ErrorKind.INVALID),
        ("/", ErrorKind.INVALID),
        ("", ErrorKind.INVALID),
        ("/etc/deep/..", ErrorKind.INVALID),
        ("/etc/motd/x", ErrorKind.NOT_FOUND),
        ("/nothing/here", ErrorKind.NOT_FOUND),
        ("/etc/pipe", ErrorKind.INVALID),
    ],
)
def test_paths_that_are_refused(root: Path, editor: Path, tmp_path: Path, path: str, kind: ErrorKind) -> None:
    (root / "etc/climbs").symlink_to("../../secret")
    (root / "etc/up").symlink_to("../..")
    (root / "etc/outside").symlink_to(tmp_path / "secret")
    (root / "etc/round").symlink_to("round")
    os.mkfifo(root / "etc/pipe")
    with pytest.raises(RookeryError) as raised:
        edit(root, path)
    assert raised.value.kind is kind
    assert (tmp_path / "secret").read_text() == "outside\n"


def test_without_a_change_nothing_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (root / "etc/motd").stat()
    monkeypatch.setenv("VISUAL", "true")
    assert edit(root, "/etc/motd") == ""
    assert (root / "etc/motd").stat().st_ino == before.st_ino
    assert edit(root, "/etc/none") == ""
    assert not (root / "etc/none").exists()


def test_an_editor_that_fails_or_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, kind in (("false", ErrorKind.FAILED), ("no-such-editor", ErrorKind.MISSING)):
        monkeypatch.setenv("VISUAL", program)
        with pytest.raises(RookeryError) as raised:
            edit(root, "/etc/motd")
        assert raised.value.kind is kind
    assert (root / "etc/motd").read_text() == "hello\n"


def test_the_last_part_may_be_a_link(root: Path) -> None:
    (root / "etc/resolv.conf").symlink_to("/run/nowhere/stub")
    with beneath.place(root, "etc/resolv.conf", follow=False) as at:
        assert (at.name, at.shown) == ("resolv.conf", "/etc/resolv.conf")
    with pytest.raises(RookeryError), beneath.place(root, "etc/resolv.conf"):
        pass
