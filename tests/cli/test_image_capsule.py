# SPDX-License-Identifier: Apache-2.0
"""A capsule between two sites that are processes of their own, typed as an operator types it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rookery import run

if TYPE_CHECKING:
    from conftest import Place

# Two heads pack an agent each, since it holds the site's key.
pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def ok(place: Place, *typed: str) -> str:
    done = place.process(*typed)
    assert done.code == 0, done.stderr
    return done.stdout


def test_a_tree_goes_from_site_to_site_and_out_again(sites: tuple[Place, Place], tmp_path: Path) -> None:
    one, two = sites
    source = tmp_path / "models"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights").write_bytes(bytes(range(256)) * 4000)
    (source / "link").symlink_to("deep/weights")
    ok(one, "publish", str(source), "--as", "models", "--tag", "v3")
    version = json.loads(ok(one, "image", "show", "models:v3", "--json"))["version"]["id"]
    capsule = tmp_path / "models.capsule"
    told = ok(one, "image", "export", "models:v3", str(capsule))
    print_of_one = json.loads(ok(one, "trust", "list", "--json"))["own"]["fingerprint"]
    assert told.rstrip().endswith(f"signed by {print_of_one}")
    again = one.process("image", "export", "models:v3", str(capsule))
    assert (again.code, "is there already" in again.stderr) == (4, True)

    refused = two.process("image", "import", str(capsule))
    assert refused.code == 5
    assert print_of_one in refused.stderr
    assert "try: " in refused.stderr
    mistaken = two.process("image", "import", str(capsule), "--trust", ":".join(["0000"] * 10))
    assert (mistaken.code, "is another one" in mistaken.stderr) == (5, True)
    assert json.loads(ok(two, "image", "list", "--json"))["images"] == []

    added = ok(two, "trust", "add", str(one.directory / "site.pub"), "--as", "physics")
    assert print_of_one in added
    ok(two, "image", "import", str(capsule), "--as", "theirs", "--tag", "v3")
    shown = ok(two, "image", "show", "theirs:v3")
    assert version in shown
    assert print_of_one in shown
    assert re.search(r"(?m)^name there +models *$", shown)

    # Fetched with the second site's key, which is in the URL.
    url = json.loads(ok(two, "ticket", "theirs:v3", "--json"))["url"]
    done = run.run([sys.executable, "-m", "rookery.cli", "fetch", url, "--to", str(tmp_path / "out")], timeout=120)
    assert done.code == 0
    assert (tmp_path / "out/theirs/deep/weights").read_bytes() == (source / "deep/weights").read_bytes()
    assert (tmp_path / "out/theirs/link").readlink() == Path("deep/weights")

    assert ok(two, "trust", "rm", "physics").startswith("capsules of physics are not taken")
    assert two.process("image", "import", str(capsule), "--as", "more").code == 5
    ok(two, "image", "import", str(capsule), "--as", "more", "--trust", print_of_one)


def typed(place: Place, answer: str, *words: str) -> tuple[int, str]:
    """A command at a terminal where `answer` is typed; its exit code and what it said."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "rookery.cli", *words, "--dir", str(place.directory)]
    with (
        os.fdopen(ours, "wb", buffering=0) as keyboard,
        os.fdopen(theirs, "rb") as terminal,
        run.spawn(argv, stdin=terminal, stdout=run.PIPE, stderr=run.PIPE) as child,
    ):
        keyboard.write(f"{answer}\n".encode())
        out, err = child.communicate(timeout=120)
        return child.returncode, (out + err).decode()


def test_at_a_terminal_one_is_asked(sites: tuple[Place, Place], tmp_path: Path) -> None:
    one, two = sites
    (tmp_path / "notes").write_bytes(b"some notes")
    ok(one, "publish", str(tmp_path / "notes"), "--as", "notes")
    ok(one, "image", "export", "notes", str(tmp_path / "notes.capsule"))
    print_of_one = json.loads(ok(one, "trust", "list", "--json"))["own"]["fingerprint"]
    code, said = typed(two, "n", "image", "import", str(tmp_path / "notes.capsule"))
    assert (code, "nothing was imported" in said) == (130, True)
    assert print_of_one in said
    assert two.process("image", "show", "notes").code == 3
    code, said = typed(two, "y", "image", "import", str(tmp_path / "notes.capsule"))
    assert code == 0, said
    assert json.loads(ok(two, "image", "show", "notes", "--json"))["origin"]["fingerprint"] == print_of_one
    assert json.loads(ok(two, "trust", "list", "--json"))["keys"] == []


def test_a_flipped_byte(sites: tuple[Place, Place], tmp_path: Path) -> None:
    one, _two = sites
    (tmp_path / "data").write_bytes(bytes(300_000))
    ok(one, "publish", str(tmp_path / "data"), "--as", "data")
    capsule = tmp_path / "data.capsule"
    ok(one, "image", "export", "data", str(capsule))
    ok(one, "image", "rm", "data", "-y")
    good = capsule.read_bytes()
    capsule.write_bytes(good[:200_000] + b"\1" + good[200_001:])
    done = one.process("image", "import", str(capsule))
    assert done.code == 8
    assert "the bytes of data have another digest than was signed; nothing was imported" in done.stderr
    capsule.write_bytes(good[:200_000])
    done = one.process("image", "import", str(capsule))
    assert (done.code, "too early" in done.stderr) == (8, True)
    assert one.process("image", "show", "data").code == 3
    shutil.copy(one.directory / "site.pub", tmp_path / "own.pub")
    assert one.process("trust", "add", str(tmp_path / "own.pub"), "--as", "me").code == 4
    assert one.process("trust", "add", "nonsense", "--as", "me").code == 2


def test_from_a_head_that_goes_away_in_the_middle(place: Place, sites: tuple[Place, Place], tmp_path: Path) -> None:
    _one, two = sites
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 200)
    with place.serving() as head:
        ok(place, "publish", str(tmp_path / "large"))
        url = json.loads(ok(place, "ticket", "large", "--json"))["url"]
        fingerprint = json.loads(ok(place, "trust", "list", "--json"))["own"]["fingerprint"]
        refused = two.process("image", "import", url)
        assert (refused.code, fingerprint in refused.stderr) == (5, True)
        argv = [sys.executable, "-m", "rookery.cli", "image", "import", url, "--dir", str(two.directory)]
        with run.spawn([*argv, "--trust", fingerprint], stderr=run.PIPE) as child:
            until = time.monotonic() + 60
            while not any(path.stat().st_blocks for path in two.directory.glob("work/import-*/new/.large.part")):
                assert child.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            os.killpg(head.pid, signal.SIGKILL)
            _, said = child.communicate(timeout=400)
    assert child.returncode == 6, said.decode()
    assert "the version did not come from http://127.0.0.1:" in said.decode()
    assert "try: nothing was imported; import it again when that head answers" in said.decode()
    assert list(two.directory.glob("work/import-*")) == []
    assert two.process("image", "show", "large").code == 3
