# SPDX-License-Identifier: Apache-2.0
"""Versions from the command line, against a real head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# The first start packs the agent, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(600)


def publish(operate: Any, path: Path, data: bytes, name: str) -> str:
    path.write_bytes(data)
    done = operate("publish", str(path), "--as", name, "--json")
    assert done.code == 0, done.err
    return str(json.loads(done.out)["version"])


def test_history_rollback_and_gc(operate: Any, tmp_path: Path) -> None:
    one, two, three = (publish(operate, tmp_path / "data", data, "base") for data in (b"1", b"22", b"333"))
    shown = operate("image", "history", "base").out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == [three[:12], two[:12], one[:12]]
    assert "(latest)" in shown[2]
    assert "other data" in shown[1]
    assert len(operate("image", "history", "base", "--limit", "1").out.splitlines()) == 2

    back = operate("image", "rollback", "base")
    assert (back.code, back.out.startswith(f"base:latest is version {two[:12]}")) == (0, True)
    assert json.loads(operate("image", "rollback", "base", "--to", one[:8], "--json").out)["version"]["id"] == one
    nothing = operate("image", "rollback", "base")
    assert (nothing.code, "nothing to go back to" in nothing.err, "--to VERSION" in nothing.err) == (4, True, True)
    assert operate("image", "rollback", "base", "--tag", "stable").code == 3

    # 'publish' made tickets for all of them.
    kept = json.loads(operate("image", "gc", "--dry-run", "--json").out)
    assert kept["going"] == []
    assert {item["reason"] for item in kept["staying"]} == {"tagged latest", "somebody holds a ticket for it"}


def test_a_version_and_a_tag_in_either_order(operate: Any, tmp_path: Path) -> None:
    one, two = (publish(operate, tmp_path / "data", data, "turned") for data in (b"one", b"two"))

    def meant() -> dict[str, str]:
        versions = json.loads(operate("image", "history", "turned", "--json").out)["entries"]
        return {tag: item["version"]["id"] for item in versions for tag in item["version"]["tags"]}

    for words, expected in (
        ((one[:8], "stable"), {"latest": two, "stable": one}),  # a tag that is new
        ((two[:12], "stable"), {"latest": two, "stable": two}),  # one that is there
        (("stable", one), {"latest": two, "stable": one}),
        (("old", "latest"), {"latest": two, "stable": one, "old": two}),
        (("old", "stable"), {"latest": two, "stable": one, "old": one}),
    ):
        done = operate("image", "tag", "turned", *words)
        assert done.code == 0, done.err
        assert meant() == expected
    assert operate("image", "tag", "turned", "0" * 8, "stable").code == 0  # no version has that id: it is a name
    assert operate("image", "tag", "turned", "new", "none").code == 3
    # Words that are there in the place of the version, and none in the tag's, are no misspelling.
    wrong = operate("image", "tag", "turned", "stable", "latst")
    assert (wrong.code, "no version 'latst'" in wrong.err, "try: perhaps latest; " in wrong.err) == (3, True, True)
    assert "latst" not in meant()


def test_setting_a_tag_says_what_was_made_and_untag_takes_it_away(operate: Any, tmp_path: Path) -> None:
    one, two = (publish(operate, tmp_path / "data", data, "told") for data in (b"tag one", b"tag two"))
    assert operate("image", "tag", "told", "stable", one[:12]).out == f"told:stable is new: version {one[:12]}\n"
    moved = operate("image", "tag", "told", "stable", "latest").out
    assert moved == f"told:stable is version {two[:12]}; it was {one[:12]}\n"
    assert operate("image", "tag", "told", "stable", "latest").out == f"told:stable is version {two[:12]}\n"

    asked = operate("image", "untag", "told", "stable")
    assert (asked.code, f"remove the tag told:stable of version {two[:12]}?" in asked.err) == (2, True)
    done = operate("image", "untag", "told", "stable", "-y")
    assert (done.code, done.out) == (0, f"told:stable is gone; it was version {two[:12]}\n")
    gone = operate("image", "untag", "told", "stable", "-y")
    assert (gone.code, "has no tag 'stable'" in gone.err) == (3, True)
    assert operate("image", "show", "told:latest").code == 0


def test_what_is_not_there_is_told_with_what_is(operate: Any, tmp_path: Path) -> None:
    publish(operate, tmp_path / "data", b"hints", "hinted")
    history = "'rookery image history hinted' shows its versions"
    for argv in (
        ("show", "hinted@deadbeef"),
        ("show", "hinted@nothex"),
        ("rollback", "hinted", "--to", "nope"),
        ("rm", "hinted", "--version", "zzz"),
        ("rollback", "hinted", "--tag", "nope"),
    ):
        done = operate("image", *argv)
        assert (done.code, history in done.err) == (3, True), done
    single = operate("image", "rollback", "hinted")
    assert (single.code, "VERSION" in single.err, "has this one version only" in single.err) == (4, False, True)
    near = operate("image", "show", "hintde")
    assert (near.code, "try: perhaps hinted; there are " in near.err) == (3, True)
    assert "perhaps latest; its tags are latest" in operate("image", "show", "hinted:latst").err
    for words, code in ((("show", ""), 2), (("show", ":latest"), 3), (("history", ""), 2), (("rm", "", "-y"), 2)):
        empty = operate("image", *words)
        assert (empty.code, "an image needs a name" in empty.err) == (code, True), empty


def test_what_stays_has_a_size_and_a_date(operate: Any, tmp_path: Path) -> None:
    publish(operate, tmp_path / "data", b"12345", "staying")
    (line,) = [line for line in operate("image", "gc", "--dry-run").out.splitlines() if line.startswith("staying ")]
    assert " 5 B  20" in line


def test_verify_all_of_nothing(place: Any, rookery: Any) -> None:
    with place.serving():
        rookery.at(place.directory)
        done = rookery("image", "verify", "--all")
    assert (done.code, done.err) == (0, "no images yet: there is nothing to verify\n")


def test_gc_asks_first(operate: Any, running: Any, tmp_path: Path) -> None:
    from rookery.api.types import JobState, Publish
    from rookery.cli.connection import connect

    with connect(running.directory) as client:
        for data in (b"old", b"new"):
            (tmp_path / "file").write_bytes(data)
            job = client.publish(Publish(str(tmp_path / "file"), "unasked"))
            while job.ended_at is None:
                job = client.job(job.id, after=job.revision, wait=10)
            assert job.state is JobState.DONE
    asked = operate("image", "gc")
    assert (asked.code, "Nobody is there to answer" in asked.err, " goes" in asked.out) == (2, True, True)
    assert len(json.loads(operate("image", "history", "unasked", "--json").out)["entries"]) == 2
    done = operate("image", "gc", "-y")
    assert (done.code, "removed 1 version" in done.out) == (0, True)
    assert "nothing to remove" in operate("image", "gc").err


def test_verify_all(operate: Any, running: Any, tmp_path: Path) -> None:
    publish(operate, tmp_path / "good", b"good", "good")
    version = publish(operate, tmp_path / "bad", b"bad!", "bad")
    assert operate("image", "verify", "--all").code == 0
    (blob,) = json.loads(operate("image", "show", f"bad@{version}", "--json").out)["version"]["blobs"]
    path = running.directory / "blobs" / blob["sha256"]
    path.chmod(0o600)
    path.write_bytes(b"BAD!")
    done = operate("image", "verify", "--all")
    assert done.code == 8
    assert "1 of " in done.err
    assert "is damaged: its bytes have another digest" in done.err
    assert f"bad@{version[:12]} is damaged" in done.out
    good = [line for line in done.out.splitlines() if line.startswith("good@")]
    assert good[0].endswith("is as it was published")
    for words in ((), ("base", "--all")):
        assert operate("image", "verify", *words).code == 2


def test_diff(operate: Any, tmp_path: Path) -> None:
    place = tmp_path / "tree"
    (place / "etc").mkdir(parents=True)
    (place / "etc" / "motd").write_bytes(b"hello")
    (place / "big").write_bytes(bytes(range(256)) * 8000)
    assert operate("publish", str(place), "--as", "tree", "--tag", "one").code == 0
    (place / "etc" / "motd").write_bytes(b"HELLO")
    for number in range(60):
        (place / f"new-{number}").touch()
    assert operate("publish", str(place), "--as", "tree", "--tag", "two").code == 0
    shown = operate("image", "diff", "tree:one", "tree:two")
    assert shown.code == 0, shown.err
    assert "packages: 0 added, 0 removed, 0 changed" in shown.out
    assert "files: 60 added, 0 removed, 1 changed" in shown.out
    (line,) = [line for line in shown.out.splitlines() if "/etc/motd" in line]
    assert line.split() == ["~", "/etc/motd", "content", "-rw-r--r--", "0:0", "5", "-rw-r--r--", "0:0", "5"]
    assert "and 11 more; --limit 0 shows all" in shown.out
    whole = json.loads(operate("image", "diff", "tree:one", "tree:two", "--json").out)
    assert (len(whole["files"]), whole["files_added"]) == (61, 60)
    # The archive moved a little; what is in the old one is not sent again.
    assert 0 < whole["transfer"] < whole["size"]
    packages = operate("image", "diff", "tree:one", "tree:two", "--packages").out
    assert "files:" not in packages
    back = json.loads(operate("image", "diff", "tree:two", "tree:one", "--files", "--json").out)
    assert (back["files_removed"], back["files_changed"]) == (60, 1)
    assert operate("image", "diff", "tree:one", "none").code == 3
