# SPDX-License-Identifier: Apache-2.0
"""One way to SQLite and PostgreSQL: engine, transactions, and the database's errors in our words."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rookery.errors import ErrorKind, RookeryError

T = TypeVar("T")
BUSY_SECONDS = 30
POOL = 10
OVERFLOW = 30
ATTEMPTS = 5
EXPECTED_URL = "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
# SQLSTATE (PostgreSQL, appendix A): serialization failure, deadlock detected.
_AGAIN = frozenset({"40001", "40P01"})
_FULL = frozenset({"53100"})
# Any number, the same in every head: who holds it is the only one that writes events (see write_events) or migrates.
EVENTS_LOCK = 0x726F6F6B01
SCHEMA_LOCK = 0x726F6F6B02


class Database:
    """An engine with one rule: reading sees one snapshot, writing is one transaction that happens whole or not at all.

    Thread-safe. On SQLite the writers of this process wait in a queue of their own, since SQLite lets waiting
    connections try again at random, which starves some of forty threads; other processes are waited for 30 s.
    """

    def __init__(self, url: str) -> None:
        self.url = normalize_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _engine(self.url)
        self._queue = threading.Lock()
        self._reader = self.engine.execution_options() if self.sqlite else _snapshot(self.engine)
        self._writer = self.engine.execution_options(rookery_write=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which all statements see the same state of the database."""
        with in_our_words(), self._reader.begin() as connection:
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction. It may run again when another writer was in the way, so it must not have effects
        outside the connection."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.writing() as connection:
                    return work(connection)
            except DBAPIError as error:
                if attempt == ATTEMPTS or not _worth_another(error):
                    raise translated(error) from error
            time.sleep(random.uniform(0, 0.02 * attempt))  # noqa: S311 - spreads writers, is no secret
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a writing transaction; errors of the database come out as they are."""
        with contextlib.ExitStack() as stack:
            if self.sqlite:
                stack.enter_context(self._queue)
            try:
                connection = stack.enter_context(self._writer.begin())
            except PoolTimeout as error:
                raise translated(error) from error
            yield connection

    def lock(self, connection: Connection, number: int) -> None:
        """Hold lock `number` until the transaction ends. On SQLite a writing transaction is alone anyway."""
        if not self.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def normalize_url(url: str) -> URL:
    """The URL with the driver that we use. Raises RookeryError `invalid` for a database that we do not run on."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RookeryError(
            f"the database URL {url[:200]!r} cannot be read", kind=ErrorKind.INVALID, hint=EXPECTED_URL
        ) from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise RookeryError(f"no catalog on {parsed.drivername}", kind=ErrorKind.INVALID, hint=EXPECTED_URL)
    if parsed.database in (None, "", ":memory:"):
        raise RookeryError("the catalog needs a file, not memory", kind=ErrorKind.INVALID, hint=EXPECTED_URL)
    return parsed.set(drivername="sqlite")


@contextlib.contextmanager
def in_our_words() -> Iterator[None]:
    """Raise what the database raises as RookeryError."""
    try:
        yield
    except SQLAlchemyError as error:
        raise translated(error) from error


def storable(text: str) -> bool:
    """Whether every database can hold `text`, or compare with it: no NUL (PostgreSQL), no halves of surrogate pairs."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def translated(error: SQLAlchemyError) -> RookeryError:
    """The RookeryError for a database's error."""
    cause = getattr(error, "orig", None)
    words = str(cause or error).strip().splitlines() or [type(error).__name__]
    if "disk is full" in words[0] or getattr(cause, "sqlstate", None) in _FULL:
        return RookeryError(
            f"no space left for the catalog: {words[0]}", kind=ErrorKind.NO_SPACE, hint="free some space"
        )
    if isinstance(error, IntegrityError):
        return RookeryError("this clashes with what is in the catalog", kind=ErrorKind.CONFLICT, details=words[0])
    if isinstance(error, DataError):
        return RookeryError(f"the catalog cannot hold this: {words[0]}", kind=ErrorKind.INVALID)
    if isinstance(error, DBAPIError | PoolTimeout):
        return RookeryError(
            f"the catalog's database does not answer as it should: {words[0]}",
            kind=ErrorKind.UNAVAILABLE,
            details="\n".join(words[1:]),
            hint="see that the database server runs, or that the file is there and may be written",
        )
    return RookeryError(f"the catalog failed: {words[0]}", kind=ErrorKind.INTERNAL)


def _worth_another(error: DBAPIError) -> bool:
    # A unique value that another transaction took between our look and our write: the second look finds it and says so.
    return isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", None) in _AGAIN


def _snapshot(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_engine(
                url,
                pool_size=POOL,
                max_overflow=OVERFLOW,
                pool_timeout=BUSY_SECONDS,
                connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            )
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        # As SQLite's busy timeout: without it, a head that hangs in a transaction would hang all others for ever.
        options = {} if "options" in url.query else {"options": f"-c lock_timeout={BUSY_SECONDS}s"}
        return create_engine(
            url,
            pool_size=POOL,
            max_overflow=OVERFLOW,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=True,
            connect_args=options,
        )
    except (NoSuchModuleError, ImportError) as error:
        raise RookeryError(
            f"the database driver for {url.get_backend_name()} is not installed",
            kind=ErrorKind.MISSING,
            details=str(error),
            hint="pip install '.[postgresql]' in a clone of rookery",
        ) from error


def _prepare_sqlite(connection: object, _record: object) -> None:
    # Python's sqlite3 begins transactions where it likes; with isolation_level None it leaves that to _begin_sqlite.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as reader and then wants to write fails at once when another wrote in between.
    writes = connection.get_execution_options().get("rookery_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
