# SPDX-License-Identifier: Apache-2.0
"""A real head (`rookery serve` as a process, DHCP off, on loopback), and the command line against it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rookery import run
from rookery.cli import main as cli
from rookery.cli.connection import connect
from rookery.errors import RookeryError
from tests.ports import free_port

PACKING_SECONDS = 300  # the first start packs the agent, on a busy machine perhaps beside three others


def words(*more: str) -> list[str]:
    return [sys.executable, "-m", "rookery.cli", *more]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A head's directory, and commands that name it."""

    directory: Path

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    def process(self, *more: str) -> run.Completed:
        return run.run(words(*more, "--dir", str(self.directory)), check=False, timeout=120)

    @contextlib.contextmanager
    def serving(self) -> Iterator[run.Child]:
        with (
            self.log.open("ab") as sink,
            run.spawn(words("serve", "--dir", str(self.directory)), stdout=sink, stderr=sink, grace=20) as child,
        ):
            self.wait(child)
            yield child

    def wait(self, child: run.Child) -> None:
        until = time.monotonic() + PACKING_SECONDS
        while time.monotonic() < until and child.poll() is None:
            try:
                with connect(self.directory) as client:
                    client.head()
                return
            except RookeryError:
                time.sleep(0.1)
        pytest.fail(self.log.read_text())


@pytest.fixture(scope="session")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head's directory whose agent is packed already: copies of it start quickly."""
    place = Place(tmp_path_factory.mktemp("cooked") / "head")
    ports = ("--port", str(free_port()), "--swarm-port", str(free_port()), "--relay-port", str(free_port()))
    done = place.process("init", "--address", "127.0.0.1", *ports)
    assert done.code == 0, done.stderr
    with place.serving() as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    return place.directory


def copy_of(cooked: Path, directory: Path) -> Place:
    shutil.copytree(cooked, directory)
    config = directory / "rookery.toml"
    ports = r"(?m)^(port|swarm_port|relay_port) = \d+"
    text = re.sub(ports, lambda found: f"{found[1]} = {free_port()}", config.read_text())
    config.write_text(text)
    return Place(directory)


@pytest.fixture
def place(cooked: Path, tmp_path: Path) -> Place:
    """A head of one's own, not running."""
    return copy_of(cooked, tmp_path / "head")


@pytest.fixture(scope="module")
def running(cooked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A running head for all tests of a module."""
    place = copy_of(cooked, tmp_path_factory.mktemp("running") / "head")
    with place.serving():
        yield place


@pytest.fixture(scope="module")
def sites(cooked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Place]]:
    """Two running heads of different sites. The second one packs an agent of its own: the site's key is in it."""
    here = tmp_path_factory.mktemp("sites")
    one, two = copy_of(cooked, here / "one"), Place(here / "two")
    ports = ("--port", str(free_port()), "--swarm-port", str(free_port()), "--relay-port", str(free_port()))
    assert two.process("init", "--address", "127.0.0.1", *ports).code == 0
    with one.serving(), two.serving():
        yield one, two


class Rookery:
    """The command line in this process: main() with its error handler, as the script calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *argv: str) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["rookery", *argv])
        before = signal.getsignal(signal.SIGTERM)
        self._capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = self._capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    def at(self, directory: Path) -> None:
        self._monkeypatch.setenv("ROOKERY_DIR", str(directory))


@pytest.fixture
def rookery(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rookery:
    for name in ("ROOKERY_DIR", "ROOKERY_HEAD", "ROOKERY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return Rookery(monkeypatch, capsys)


@pytest.fixture
def operate(rookery: Rookery, running: Place) -> Rookery:
    """The command line against the module's running head."""
    rookery.at(running.directory)
    return rookery
