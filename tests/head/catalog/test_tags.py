# SPDX-License-Identifier: Apache-2.0
"""What tags meant before, and going back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alembic import command
from sqlalchemy import text

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import schema
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.database import Database
from rookery.head.catalog.rows import Version

Make = Callable[..., Version]


@pytest.fixture
def three(catalog: Catalog, make_version: Make) -> tuple[str, str, str]:
    """Ids of three versions that `latest` meant one after the other."""
    made = [make_version("base", content, at) for content, at in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    for version in made:
        catalog.add_version(version)
    one, two, three = (version.id for version in made)
    return one, two, three


def test_each_rollback_goes_one_further_back(catalog: Catalog, three: tuple[str, str, str]) -> None:
    one, two, last = three
    assert catalog.roll_back("base", "latest") == (last, two)
    assert catalog.resolve("base").id == two
    assert catalog.roll_back("base", "latest") == (two, one)
    with pytest.raises(RookeryError, match="nothing to go back to") as caught:
        catalog.roll_back("base", "latest")
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "--to" in caught.value.record.hint
    assert catalog.resolve("base").id == one
    assert [(move.version, move.undone) for move in catalog.tag_moves("base")] == [
        (one, False),
        (two, True),
        (last, True),
    ]


def test_after_a_rollback_the_next_move_counts_from_there(catalog: Catalog, three: tuple[str, str, str]) -> None:
    one, two, last = three
    catalog.roll_back("base", "latest", to=one)
    catalog.tag("base", "latest", last)
    catalog.tag("base", "latest", last)  # again is no move
    assert catalog.roll_back("base", "latest") == (last, one)
    assert two not in {move.version for move in catalog.tag_moves("base") if not move.undone}


def test_to_a_version_that_it_never_meant(catalog: Catalog, three: tuple[str, str, str]) -> None:
    one, two, last = three
    catalog.tag("base", "stable", one)
    assert catalog.roll_back("base", "stable", to=two) == (one, two)
    assert catalog.roll_back("base", "stable") == (two, one)
    assert catalog.resolve("base").id == last
    with pytest.raises(RookeryError, match="already"):
        catalog.roll_back("base", "stable", to=one)


def test_a_removed_version_is_nothing_to_go_back_to(catalog: Catalog, three: tuple[str, str, str]) -> None:
    one, two, last = three
    catalog.remove_version(two)
    assert catalog.roll_back("base", "latest") == (last, one)


def test_a_tag_that_is_not_there(catalog: Catalog, three: tuple[str, str, str]) -> None:
    with pytest.raises(RookeryError, match="no tag 'stable'") as caught:
        catalog.roll_back("base", "stable")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(RookeryError, match="no tag"):
        catalog.roll_back("none", "latest")


def test_tags_of_an_older_release_are_their_first_moves(url: str) -> None:
    database = Database(url)
    with database.writing() as connection:
        command.upgrade(schema._config(connection), "0003")
        connection.execute(text("INSERT INTO images VALUES ('base')"))
        row = "INSERT INTO versions (image, id, kind, published_at, size, manifest, recipe, packages)"
        connection.execute(text(f"{row} VALUES ('base', 'aa', 'file', 7.5, 1, '{{}}', '', '{{}}')"))
        connection.execute(text("INSERT INTO tags VALUES ('base', 'stable', 'aa')"))
    database.close()
    catalog = Catalog.open(url)
    try:
        (move,) = catalog.tag_moves("base")
    finally:
        catalog.close()
    assert (move.tag, move.version, move.at, move.undone) == ("stable", "aa", 7.5, False)
