# SPDX-License-Identifier: Apache-2.0
"""Every test of the catalog runs on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from rookery import run
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Version
from rookery.wire.manifest import Blob, Manifest, Role, SignedManifest, VersionKind, payload_of, version_id


def _program(name: str) -> Path:
    """A server program of PostgreSQL: Debian keeps them outside the path, one directory for each release."""
    releases = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = releases[-1] if releases else run.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: apt install postgresql")
    return found


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The directory of a running server's Unix socket; user `rookery`, no password."""
    directory = Path(tempfile.mkdtemp(prefix="rookery-pg-", dir="/tmp"))  # a socket's path has 107 characters at most
    become: list[str] = []
    try:
        if os.geteuid() == 0:  # the server refuses to run as root
            become = ["runuser", "-u", "postgres", "--"]
            account = pwd.getpwnam("postgres")
            os.chown(directory, account.pw_uid, account.pw_gid)
        data = directory / "data"
        initdb, postgres = _program("initdb"), _program("postgres")
        run.run([*become, initdb, "-D", data, "-U", "rookery", "-A", "trust", "-E", "UTF8", "--no-sync"], cwd=directory)
        options = {
            "listen_addresses": "",
            "fsync": "off",
            "max_connections": "120",
            "dynamic_shared_memory_type": "mmap",
        }
        settings = [f"--{name}={value}" for name, value in options.items()]
        log = directory / "log"
        with (
            log.open("wb") as output,
            run.spawn(
                [*become, postgres, "-D", data, "-k", directory, *settings], stderr=output, cwd=directory
            ) as server,
        ):
            _wait_until_ready(directory, log, server.poll)
            yield str(directory)
            # Ending its group sends SIGTERM, on which it would wait for connections that a failed test left open.
            run.run([*become, _program("pg_ctl"), "-D", data, "-m", "fast", "-w", "stop"], cwd=directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(directory: Path, log: Path, ended: Callable[[], int | None]) -> None:
    for _ in range(300):
        try:
            psycopg.connect(host=str(directory), user="rookery", dbname="postgres").close()
        except psycopg.OperationalError:
            if ended() is not None:
                break
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'catalog.sqlite'}"
        return
    host, name = request.getfixturevalue("postgresql"), f"t{uuid.uuid4().hex}"
    with psycopg.connect(host=host, user="rookery", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        yield f"postgresql://rookery@/{name}?host={host}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = Catalog.open(url)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def make_version() -> Callable[..., Version]:
    """make_version("base", "content", at=1.0): a file version whose id follows from its content."""

    def make(image: str, content: str, at: float = 1.0, tags: tuple[str, ...] = ()) -> Version:
        blob = Blob(Role.DATA, "data", len(content), hashlib.sha256(content.encode()).hexdigest())
        number = version_id(VersionKind.FILE, (blob,))
        manifest = Manifest(number, VersionKind.FILE, image, int(at), (blob,))
        signed = SignedManifest(base64.b64encode(payload_of(manifest)).decode(), "0" * 64, "0" * 128)
        return Version(number, image, VersionKind.FILE, at, len(content), signed, tags, "recipe", {"bash": "5.2-1"})

    return make
