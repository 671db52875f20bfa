# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog import database as database_module
from rookery.head.catalog import schema
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.database import Database, normalize_url
from rookery.head.catalog.models import Base
from rookery.head.catalog.rows import Credential, Node
from rookery.wire.report import NodeState


def _database_of_release_one(url: str) -> None:
    """A database as the first revision left it, with something in it."""
    database = Database(url)
    with database.writing() as connection:
        command.upgrade(schema._config(connection), "0001")
        connection.execute(
            text(
                "INSERT INTO nodes (id, name, attributes, image, mode, kernel_arguments, state, state_since, may_seed)"
                " VALUES (1, 'n1', '{\"groups\": \"gpu\"}', 'base:x', 'ram', '', 'ready', 5.5, :may)"
            ),
            {"may": True},
        )
        connection.execute(text("INSERT INTO macs VALUES ('52:54:00:00:00:01', 1, 0)"))
        connection.execute(text("INSERT INTO memberships VALUES ('gpu', 1)"))
    database.close()


def _columns(url: str) -> set[str]:
    database = Database(url)
    try:
        return {column["name"] for column in inspect(database.engine).get_columns("nodes")}
    finally:
        database.close()


def test_migrations_make_the_tables_of_the_models(url: str) -> None:
    Catalog.open(url).close()
    database = Database(url)
    try:
        with database.reading() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, Base.metadata) == []
            assert context.get_current_heads() == (schema.revisions()[-1],)
    finally:
        database.close()


def test_a_database_of_an_older_release_is_upgraded(url: str) -> None:
    _database_of_release_one(url)
    assert "facts" not in _columns(url)
    catalog = Catalog.open(url)
    try:
        assert catalog.nodes() == (
            Node(
                "n1",
                macs=("52:54:00:00:00:01",),
                attributes={"groups": "gpu"},
                image="base:x",
                state=NodeState.READY,
                state_since=5.5,
            ),
        )
        assert catalog.group("gpu") == ("n1",)
        catalog.add_nodes([Node("n2")])
        catalog.add_credential(Credential("a" * 64, "session", "n2", 1.0))
        assert catalog.events() == ()
    finally:
        catalog.close()


def test_sqlite_is_copied_before_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "c%d.sqlite"
    url = f"sqlite:///{path}"
    _database_of_release_one(url)
    os.chmod(path, 0o600)
    Catalog.open(url).close()
    copy = tmp_path / "c%d.sqlite.before-0004"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert _columns(f"sqlite:///{copy}") == _columns(url) - {"report", "facts"}
    Catalog.open(url).close()
    assert [found.name for found in tmp_path.glob("*before*")] == [copy.name]
    # The copy can be put back, and goes the same way without touching the first copy.
    path.write_bytes(copy.read_bytes())
    for part in ("-wal", "-shm"):
        path.with_name(path.name + part).unlink(missing_ok=True)
    kept = copy.read_bytes()
    Catalog.open(url).close()
    assert copy.read_bytes() == kept
    assert (tmp_path / "c%d.sqlite.before-0004.2").exists()


def test_a_new_database_is_not_copied(tmp_path: Path) -> None:
    Catalog.open(f"sqlite:///{tmp_path / 'c.sqlite'}").close()
    assert not list(tmp_path.glob("*before*"))


def test_an_upgrade_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _database_of_release_one(url)
    real = command.upgrade

    def half(config: object, revision: str) -> None:
        real(config, revision)  # type: ignore[arg-type]
        raise OSError("power cut")

    monkeypatch.setattr(command, "upgrade", half)
    with pytest.raises(OSError, match="power cut"):
        Catalog.open(url)
    assert "facts" not in _columns(url)
    monkeypatch.undo()
    Catalog.open(url).close()
    assert "facts" in _columns(url)


def test_a_newer_database_is_refused(url: str) -> None:
    Catalog.open(url).close()
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    for _ in range(2):
        with pytest.raises(RookeryError) as caught:
            Catalog.open(url)
        assert caught.value.kind is ErrorKind.CONFLICT
        assert "newer release" in caught.value.record.message
        assert "9999" in caught.value.record.message
        assert caught.value.record.hint


def test_a_database_of_another_program_is_refused(url: str) -> None:
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE django_session (id INTEGER)"))
    database.close()
    with pytest.raises(RookeryError) as caught:
        Catalog.open(url)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "django_session" in caught.value.record.message
    database = Database(url)
    assert inspect(database.engine).get_table_names() == ["django_session"]
    database.close()


def test_two_heads_may_open_a_new_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(Catalog.open, [url] * 4))
    opened[0].add_nodes([Node("n1")])
    assert [catalog.node("n1").name for catalog in opened] == ["n1"] * 4
    for catalog in opened:
        catalog.close()


def test_other_processes_are_waited_for(url: str) -> None:
    """Three processes that find an empty database and write to it, as heads beside each other do."""
    program = (
        "import sys\n"
        "from rookery.head.catalog.catalog import Catalog\n"
        "catalog = Catalog.open(sys.argv[1])\n"
        "for number in range(100): catalog.add_event('head', 'kind', str(number))\n"
    )
    with ThreadPoolExecutor(3) as pool:
        for child in [pool.submit(run.run, [sys.executable, "-c", program, url]) for _ in range(3)]:
            child.result()
    catalog = Catalog.open(url)
    try:
        assert len(catalog.events()) == 300
    finally:
        catalog.close()


def test_a_database_that_stays_locked_is_told_and_not_waited_for_without_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog.open(url).close()
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 1)
    holder, catalog = Database(url), Catalog.open(url)
    try:
        with holder.writing() as connection:
            holder.lock(connection, database_module.EVENTS_LOCK)
            with pytest.raises(RookeryError) as caught:
                catalog.add_event("head", "kind", "message")
            assert caught.value.kind is ErrorKind.UNAVAILABLE
        catalog.add_event("head", "kind", "message")
    finally:
        holder.close()
        catalog.close()


def test_only_one_head_upgrades(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 1)
    other = Database(url)
    try:
        with other.writing() as connection:
            other.lock(connection, database_module.SCHEMA_LOCK)
            with pytest.raises(RookeryError) as caught:
                Catalog.open(url)
            assert caught.value.kind is ErrorKind.UNAVAILABLE
        Catalog.open(url).close()
    finally:
        other.close()


def test_a_reader_sees_one_state(url: str) -> None:
    catalog, reader = Catalog.open(url), Database(url)
    try:
        with reader.reading() as connection:
            assert connection.execute(text("SELECT count(*) FROM nodes")).scalar() == 0
            catalog.add_nodes([Node("n1", macs=("52:54:00:00:00:01",))])
            assert connection.execute(text("SELECT count(*) FROM macs")).scalar() == 0
        with reader.reading() as connection:
            assert connection.execute(text("SELECT count(*) FROM macs")).scalar() == 1
    finally:
        catalog.close()
        reader.close()


def test_sqlite_keeps_its_rules(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    catalog = Catalog.open(f"sqlite:///{path}")
    with catalog._database.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    catalog.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rubbish", ErrorKind.INVALID),
        ("", ErrorKind.INVALID),
        ("mysql://u@h/d", ErrorKind.INVALID),
        ("postgresql+nodriver://u@h/d", ErrorKind.INVALID),
        ("sqlite://", ErrorKind.INVALID),
        ("sqlite:///:memory:", ErrorKind.INVALID),
        ("sqlite:////nonexistent/c.sqlite", ErrorKind.UNAVAILABLE),
        ("postgresql://u@/d?host=/nonexistent", ErrorKind.UNAVAILABLE),
    ],
)
def test_urls_that_lead_nowhere(url: str, kind: ErrorKind) -> None:
    with pytest.raises(RookeryError) as caught:
        Catalog.open(url)
    assert caught.value.kind is kind
    assert caught.value.record.hint


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"this is a letter, not a database" * 100)
    with pytest.raises(RookeryError) as caught:
        Catalog.open(f"sqlite:///{path}")
    assert "not a database" in caught.value.record.message
    assert path.read_bytes().startswith(b"this is a letter")


@pytest.mark.parametrize("name", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_goes_through_psycopg_3(name: str) -> None:
    url = normalize_url(f"{name}://user:secret@host/db?sslmode=require")
    assert url.render_as_string(hide_password=False) == "postgresql+psycopg://user:secret@host/db?sslmode=require"
