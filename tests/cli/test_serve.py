# SPDX-License-Identifier: Apache-2.0
"""`rookery serve` as a process: started, stopped, killed, started again, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from lab import netns
from rookery import run
from rookery.cli.connection import connect
from rookery.head.boot import loaders
from rookery.head.config import Paths, load
from rookery.wire import routes

# The first start packs the agent, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(600)
WORDS = [sys.executable, "-m", "rookery.cli"]


def test_a_head_that_was_killed_starts_as_if_nothing_was(place: Any, rookery: Any, tmp_path: Path) -> None:
    rookery.at(place.directory)
    source = tmp_path / "data.bin"
    source.write_bytes(os.urandom(500_000))
    paths = Paths(place.directory)
    with place.serving() as child:
        assert rookery("node", "add", "n[1-2]", "--set", "rack=a").code == 0
        ticket = json.loads(rookery("publish", str(source), "--as", "data", "--json").out)
        big = tmp_path / "big.bin"
        with big.open("wb") as file:
            file.truncate(4 << 30)
        with connect(place.directory) as client:
            job = run.start([*WORDS, "publish", str(big), "--dir", str(place.directory)])
            try:
                while not any(known.state == "running" for known in client.jobs().jobs):
                    assert job.poll() is None
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
            finally:
                run.end(job)
    assert paths.socket.exists()  # as a kill leaves it
    (paths.work / "left").mkdir()
    assert rookery("status").code == 6
    with place.serving():
        assert [node["name"] for node in json.loads(rookery("node", "list", "--json").out)["nodes"]] == ["n1", "n2"]
        assert [image["name"] for image in json.loads(rookery("image", "list", "--json").out)["images"]] == ["data"]
        assert rookery("fetch", ticket["url"], "--to", str(tmp_path / "there")).code == 0
        assert (tmp_path / "there" / "data.bin").read_bytes() == source.read_bytes()
        assert list(paths.work.iterdir()) == []
        assert len([path for path in paths.blobs.iterdir() if not path.suffix]) == 1  # without torrent and chunk index
    started = [event for event in _events(place) if event == "started"]
    assert len(started) == 3  # with the one that packed the agent


def _events(place: Any) -> list[str]:
    with place.serving(), connect(place.directory) as client:
        return [event.kind for event in client.events().events][:-1]


def test_the_first_start_says_what_takes_so_long(cooked: Path, place: Any) -> None:
    first = cooked.with_suffix(".log").read_text()
    assert first.index("packing the agent, once") < first.index("the head answers")
    with place.serving():
        pass
    assert "packing the agent" not in place.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_soon_and_leaves_nothing(place: Any, number: signal.Signals) -> None:
    paths = Paths(place.directory)
    with place.serving() as child, connect(place.directory) as client:
        waiting = threading.Thread(target=_wait_for_nothing, args=(client, client.events().last))
        waiting.start()  # a call under way does not keep it
        child.send_signal(number)
        assert child.wait(30) == 0
        waiting.join()
    assert not paths.socket.exists()
    with connect(place.directory) as client, pytest.raises(Exception, match="cannot be reached"):
        client.head()
    for port in (load(place.directory).network.port, load(place.directory).network.swarm_port):
        with socket.create_server(("127.0.0.1", port)):
            pass


def _wait_for_nothing(client: Any, last: int) -> None:
    with contextlib.suppress(Exception):
        client.events(last, wait=50)


def test_a_second_head_in_the_same_directory(place: Any) -> None:
    with place.serving() as child:
        second = place.process("serve")
        assert second.code == 4
        assert f"(pid {child.pid})" in second.stderr
        with connect(place.directory) as client:
            assert client.nodes().nodes == ()


@pytest.mark.parametrize("which", ["port", "swarm_port"])
def test_a_port_in_use(place: Any, which: str) -> None:
    port = getattr(load(place.directory).network, which)
    with socket.create_server(("127.0.0.1", port)):
        done = place.process("serve")
    assert done.code == 4
    assert str(port) in done.stderr
    assert "rookery.toml" in done.stderr
    if which == "port":
        assert f"(pid {os.getpid()})" in done.stderr
    assert not Paths(place.directory).socket.exists()


def test_configurations_it_does_not_start_with(place: Any) -> None:
    path = Paths(place.directory).config
    text = path.read_text()
    for wrong, code, named in (
        (text + "\n[what]\n", 2, "what"),
        (text.replace("[network]", "[network"), 2, "line"),
        (text.replace('address = "127.0.0.1"', 'address = "192.0.2.1"'), 3, "192.0.2.1"),
        (text.replace('address = "127.0.0.1"', 'interface = "rk-none"'), 3, "rk-none"),
        (text.replace('address = "127.0.0.1"', ""), 2, "network.interface"),
    ):
        path.write_text(wrong)
        done = place.process("serve")
        assert (done.code, named in done.stderr) == (code, True), done.stderr
    assert place.process("serve", "--print-unit").code == 0


def test_a_key_that_others_may_read(place: Any) -> None:
    Paths(place.directory).site_key.chmod(0o644)
    done = place.process("serve")
    assert (done.code, "chmod 600" in done.stderr) == (5, True)


def test_no_head_there(rookery: Any, tmp_path: Path) -> None:
    done = rookery("serve", "--dir", str(tmp_path))
    assert (done.code, f"rookery init --dir {tmp_path}" in done.err) == (3, True)


def test_it_tells_systemd(place: Any, tmp_path: Path) -> None:
    where = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(str(where))
        wire.settimeout(120)
        argv = [*WORDS, "serve", "--dir", str(place.directory)]
        with run.spawn(argv, env={"NOTIFY_SOCKET": str(where)}) as child:
            assert wire.recv(100) == b"READY=1"
            with connect(place.directory) as client:
                assert client.head().directory == str(place.directory)
            child.send_signal(signal.SIGTERM)
            assert wire.recv(100) == b"STOPPING=1"
            assert child.wait(30) == 0


@pytest.mark.system
@pytest.mark.parametrize(
    ("hidden", "named", "package"),
    [
        ("dnsmasq", "the program dnsmasq is not installed", "dnsmasq-base"),
        ("ipxe", "no iPXE boot loader", "the package ipxe"),
    ],
)
def test_what_is_not_installed_is_named_with_its_package(place: Any, hidden: str, named: str, package: str) -> None:
    """In a mount namespace of its own, where dnsmasq cannot be run, or no boot loader is to be seen."""
    paths = Paths(place.directory)
    text = paths.config.read_text().replace('address = "127.0.0.1"', f'interface = "{netns.BRIDGE}"')
    text = re.sub('(?m)^mode = "off"', 'mode = "full"', text)
    text = re.sub('(?m)^# range = ""', 'range = "10.79.1.9-10.79.1.20"', text)
    paths.config.write_text(text)
    assert load(place.directory).dhcp.mode == "full"
    empty = place.directory.parent / "empty"
    empty.mkdir()
    (empty / "file").touch(mode=0o644)
    if hidden == "dnsmasq":
        program = run.which("dnsmasq")
        assert program
        covers = [(empty / "file", program.resolve())]
    else:
        covers = [(empty, directory) for directory in loaders.DIRECTORIES if directory.is_dir()]
    cover = "".join(f"mount --bind {mine} {theirs} && " for mine, theirs in covers)
    with netns.room() as room:
        room.hub_address("10.79.1.1/24")
        # 'ip netns exec' gives its command a mount namespace of its own.
        for command, code in (("serve", 7), ("doctor", 1)):
            argv = [*WORDS, command, "--dir", str(place.directory)]
            script = f"mount --make-rprivate / && {cover}exec {shlex.join(argv)}"
            done = run.run([*room.in_hub, "sh", "-c", script], check=False, timeout=120)
            assert done.code == code, done.stderr
            said = " ".join((done.stdout + done.stderr).split())
            assert (named if command == "serve" else hidden) in said
            assert package in said
    assert not paths.socket.exists()


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_without_the_swarm_engine(place: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "libtorrent.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'libtorrent'\", name='libtorrent')\n"
    )
    argv = [*WORDS, command, "--dir", str(place.directory)]
    done = run.run(argv, check=False, timeout=120, env={"PYTHONPATH": str(tmp_path / "without"), "COLUMNS": "300"})
    assert done.code == {"serve": 7, "doctor": 1}[command]
    assert "libtorrent" in done.stdout + done.stderr
    assert "[head]" in done.stdout + done.stderr


def test_a_database_of_a_newer_release(place: Any) -> None:
    paths = Paths(place.directory)
    with contextlib.closing(sqlite3.connect(paths.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'r9999'")
    before = paths.database.read_bytes()
    done = place.process("serve")
    assert done.code == 4, done.stderr
    assert "newer" in done.stderr
    assert "try: " in done.stderr
    assert paths.database.read_bytes() == before


def test_the_tracker_answers_nobody_without_a_credential(place: Any, rookery: Any, tmp_path: Path) -> None:
    rookery.at(place.directory)
    source = tmp_path / "data.bin"
    source.write_bytes(os.urandom(100_000))
    with place.serving():
        ticket = json.loads(rookery("publish", str(source), "--as", "data", "--json").out)
        secret = parse_qs(urlsplit(ticket["url"]).query)["ticket"][0]
        (blob,) = json.loads(rookery("image", "show", "data", "--json").out)["version"]["blobs"]
        query = (
            f"?info_hash={quote(bytes.fromhex(blob['info_hash'])[:20])}&peer_id={'p' * 20}&port=7000&left=1&compact=1"
        )
        url = f"http://127.0.0.1:{load(place.directory).network.port}{routes.ANNOUNCE}"
        for path in ("", "/guess", f"/{secret[:-1]}"):
            with urllib.request.urlopen(url + path + query) as answer:  # a tracker refuses with status 200 (BEP 3)
                said = answer.read()
            assert b"14:failure reason" in said
            assert b"peers" not in said
        with urllib.request.urlopen(f"{url}/{secret}{query}") as answer:
            assert b"5:peers6:" in answer.read()


@pytest.mark.system
def test_a_disk_that_is_full_while_publishing(place: Any, rookery: Any, tmp_path: Path) -> None:
    rookery.at(place.directory)
    for name, size in (("small", 2_000_000), ("large", 6_000_000)):
        (tmp_path / name).write_bytes(os.urandom(size))
    blobs = Paths(place.directory).blobs
    run.run(["mount", "-t", "tmpfs", "-o", "size=4m", "rookery-test", blobs])
    try:
        with place.serving():
            assert rookery("publish", str(tmp_path / "small"), "--as", "data").code == 0
            before = sorted(blobs.iterdir())
            done = rookery("publish", str(tmp_path / "large"), "--as", "data")
            assert (done.code, "try: " in done.err) == (9, True), done.err
            assert sorted(blobs.iterdir()) == before
            (image,) = json.loads(rookery("image", "list", "--json").out)["images"]
            assert [version["tags"] for version in image["versions"]] == [["latest"]]
            assert rookery("image", "verify", "data").code == 0
    finally:
        run.run(["umount", "-l", blobs])
