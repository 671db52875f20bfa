# SPDX-License-Identifier: Apache-2.0
"""Archives of deb packages that are not the head's own: Ubuntu's form, repositories with keys of their own, a mirror in
a directory, a proxy. Everything is built from archives that the test makes and signs."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import archives
from lab.shelf import SUITE, Shelf, shelf_of_debs
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.builder import BuildSite, BuiltTree, find
from rookery.head.build.recipe import Recipe
from rookery.head.progress import silent
from rookery.run import run

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    top = tmp_path_factory.mktemp("shelf")
    with shelf_of_debs(top) as shelf:
        yield shelf
    run(["rm", "-rf", top])


def build(recipe: Recipe, place: Path) -> BuiltTree:
    """Build the tree of a recipe in `place`/tree, as image.build does."""
    builder = find(recipe.builder)
    builder.check(recipe)
    (place / "scratch").mkdir(parents=True)
    place.chmod(0o755)
    return builder.build(recipe, BuildSite(place / "tree", place / "scratch", silent, threading.Event()))


def refused(recipe: Recipe, place: Path) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        build(recipe, place)
    assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line] == []
    run(["rm", "-rf", place])
    return caught.value


def test_an_archive_of_ubuntus_form_and_a_repository_with_its_own_key(shelf: Shelf, tmp_path: Path) -> None:
    built = build(shelf.recipe, tmp_path)
    tree = tmp_path / "tree"
    try:
        assert built.packages["site-tool"] == "1.0"
        assert built.packages["kernel-stand-in"] == "1.0"  # of the component universe, which Ubuntu has by default
        assert (tree / "root/said").read_text() == "set up\n"
        lists = {path.name: path.read_text() for path in (tree / "etc/apt/sources.list.d").iterdir()}
        assert sorted(lists) == ["0000ubuntu.sources", "site.sources"]
        assert "Components: main universe\n" in lists["0000ubuntu.sources"]
        # The keys came along: a node's apt can read both archives.
        for text, key in ((lists["0000ubuntu.sources"], shelf.ours), (lists["site.sources"], shelf.theirs)):
            assert key.armor.splitlines()[3] in text
    finally:
        run(["rm", "-rf", tree])


def test_a_proxy_is_used_and_does_not_stay(shelf: Shelf, tmp_path: Path) -> None:
    tree = tmp_path / "place/tree"
    with archives.served(shelf.top) as (url, direct), archives.proxy() as (proxy, asked):
        recipe = dataclasses.replace(
            shelf.recipe,
            mirror=f"{url}/ubuntu",
            proxy=proxy,
            repositories=(shelf.site(f"{url}/site", str(shelf.theirs.export(tmp_path / "theirs.gpg"))),),
        )
        try:
            assert build(recipe, tmp_path / "place").packages["site-tool"] == "1.0"
            # The archive's address stays, the proxy's does not, wherever one looks.
            assert holding(url, tree) != []
            assert holding(proxy.removeprefix("http://"), tree) == []
        finally:
            run(["rm", "-rf", tmp_path / "place"])
        error = refused(dataclasses.replace(recipe, packages=("site-tool", "no-such-penguin")), tmp_path / "place")
    # All was asked of the proxy: whatever the server gave, it gave to that one.
    assert f"{url}/ubuntu/dists/{SUITE}/InRelease" in asked
    assert f"{url}/site/./InRelease" in asked
    assert sorted(direct) == sorted(one.removeprefix(url) for one in asked)
    assert error.kind is ErrorKind.INVALID
    assert "no package no-such-penguin in ubuntu noble (main, universe)" in str(error)


def holding(text: str, tree: Path) -> list[str]:
    """The files below `tree`, of whatever kind, that hold a text."""
    done = run(["grep", "--recursive", "--text", "--files-with-matches", "--fixed-strings", text, tree], check=False)
    assert done.code in (0, 1), done.stderr
    return done.stdout.splitlines()


def test_a_repository_whose_key_is_another_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        shelf.recipe, repositories=(shelf.site(f"copy://{shelf.top}/site", shelf.ours.armor.strip()),)
    )
    error = refused(recipe, tmp_path / "place")
    assert error.kind is ErrorKind.CORRUPT
    assert "repository site" in str(error)
    assert "'key'" in error.record.hint


def test_a_mirror_whose_key_is_another_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    error = refused(dataclasses.replace(shelf.recipe, key=shelf.theirs.armor.strip()), tmp_path / "place")
    assert error.kind is ErrorKind.CORRUPT
    assert "the package archive of ubuntu" in str(error)


def test_a_repository_that_does_not_answer_is_named(shelf: Shelf, tmp_path: Path) -> None:
    recipe = dataclasses.replace(shelf.recipe, repositories=(shelf.site("http://127.0.0.1:1/site"),))
    error = refused(recipe, tmp_path / "place")
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "repository site (http://127.0.0.1:1/site)" in str(error)


def test_a_repository_without_what_was_asked_for(shelf: Shelf, tmp_path: Path) -> None:
    with archives.served(shelf.top) as (url, _):
        recipe = dataclasses.replace(shelf.recipe, repositories=(shelf.site(f"{url}/nothing"),))
        error = refused(recipe, tmp_path / "place")
    assert error.kind is ErrorKind.INVALID
    assert "repository site" in str(error)
    assert "'url'" in error.record.hint


def test_a_suite_that_the_archive_does_not_have(shelf: Shelf, tmp_path: Path) -> None:
    with archives.served(shelf.top) as (url, _):
        error = refused(dataclasses.replace(shelf.recipe, mirror=f"{url}/ubuntu", suite="nobel"), tmp_path / "place")
    assert error.kind is ErrorKind.INVALID, error.record.details
    assert "has no suite of that name" in str(error)
    assert "'suite'" in error.record.hint
