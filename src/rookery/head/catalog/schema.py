# SPDX-License-Identifier: Apache-2.0
"""Which tables the database has, and how an older release's become this one's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from rookery.errors import ErrorKind, RookeryError
from rookery.files import sync_directory
from rookery.head.catalog.database import SCHEMA_LOCK, Database, in_our_words
from rookery.log import logger

log = logger(__name__)
# Alembic keeps the migration that is under way in module variables: one thread at a time, whatever the database.
_ALEMBIC = threading.Lock()


def upgrade(database: Database) -> None:
    """Create the tables, or bring those of an older release to this one's, in one transaction.

    An SQLite file is copied to `FILE.before-REVISION` first. Raises RookeryError `conflict` for a database of a newer
    release or of another program, and changes nothing then.
    """
    with _ALEMBIC, in_our_words(), database.writing() as connection:
        database.lock(connection, SCHEMA_LOCK)
        config = _config(connection)
        scripts = ScriptDirectory.from_config(config)
        current = _current(connection, scripts)
        newest = scripts.get_current_head() or ""
        if current == newest:
            return
        if current and database.sqlite and database.url.database:
            copy = _copy(Path(database.url.database), newest)
            log.info("the catalog was copied to %s before its upgrade from %s to %s", copy, current, newest)
        command.upgrade(config, "head")


def revisions() -> tuple[str, ...]:
    """All revisions that this release knows, oldest first."""
    scripts = ScriptDirectory.from_config(_config(None))
    return tuple(reversed([script.revision for script in scripts.walk_revisions()]))


def _config(connection: Connection | None) -> Config:
    config = Config()
    # Options of a Config are interpolated, so a '%' in the path would be taken for a variable.
    location = str(resources.files("rookery.head.catalog") / "migrations").replace("%", "%%")
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection, scripts: ScriptDirectory) -> str:
    """The database's revision, empty when it has no tables at all."""
    found = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in scripts.walk_revisions()}
    if unknown := sorted(set(found) - known):
        raise RookeryError(
            f"the catalog is of a newer release: its revision is {unknown[0]}, this release knows {max(known)} at most",
            kind=ErrorKind.CONFLICT,
            hint="install the release that wrote it, or restore the copy that was made before its upgrade",
        )
    if not found and (tables := inspect(connection).get_table_names()):
        raise RookeryError(
            f"the database is not a catalog: it has tables of another program ({', '.join(sorted(tables)[:5])})",
            kind=ErrorKind.CONFLICT,
            hint="give the catalog an empty database",
        )
    return found[0] if found else ""


def _copy(path: Path, revision: str) -> Path:
    """A consistent copy beside `path`; an earlier copy of the same name is kept."""
    base = path.with_name(f"{path.name}.before-{revision}")
    target, number = base, 1
    while target.exists():
        number += 1
        target = base.with_name(f"{base.name}.{number}")
    part = target.with_name(f".{target.name}.part")
    try:
        # Not a copy of the file: the newest pages may still be in its write-ahead log.
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
        os.chmod(part, path.stat().st_mode & 0o777)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    sync_directory(path.parent)
    return target
