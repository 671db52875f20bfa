# SPDX-License-Identifier: Apache-2.0
"""Other people's programs against a running head: curl, wget, aria2, Transmission, qBittorrent, with an nginx mirror,
and in one swarm with `rookery fetch`. Every program on a host of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from lab.swarm.measure import traffic
from rookery import run
from rookery.api.files import OfferedFile
from rookery.api.types import NewTicket, Ticket
from rookery.cli.connection import connect
from rookery.cli.foreign import ClientKind, command
from rookery.head.build.image import BuiltImage
from rookery.head.catalog.catalog import Catalog
from rookery.head.config import Paths, load
from rookery.head.progress import silent
from rookery.head.publish.publish import Publisher
from rookery.head.publish.site import SiteKey
from rookery.head.publish.store import BlobStore
from rookery.head.swarm.torrent import make_torrent
from tests.cli.conftest import copy_of

# The first test of a run may have to wait until an agent is packed.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADDRESS = "10.81.0.1"
SIZES = {"root.squashfs": 8_000_000, "kernel": 1_500_000, "drivers.cpio": 300_000}
MBIT = 1_000_000
PATIENCE = 60.0
QUIET = ["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--disable-ipv6=true"]

NGINX = """\
user root;
daemon off;
pid nginx.pid;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log {log};
  default_type application/octet-stream;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server {{ listen 80; root {root}; }}
}}
"""


def wait_until(true: Callable[[], object], what: str, log: Path | None = None) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"{what}\n{log.read_text()[-3000:] if log and log.exists() else ''}"
        time.sleep(0.05)


def older(root: bytes) -> bytes:
    """What an earlier version had: something else in two places, and something more."""
    return root[:2_000_000] + b"another" * 1000 + root[2_007_000:6_000_000] + b"and more" + root[6_000_000:]


class Site:
    """A head on a host, with one image in two versions, and other hosts as they are needed."""

    def __init__(self, place: Any, room: netns.Room, content: dict[str, bytes]) -> None:
        self.place, self.room, self.content = place, room, content
        self.host = room.host(f"{ADDRESS}/24")
        self.paths = Paths(place.directory)
        self._number = 1
        self.stack = contextlib.ExitStack()

    def ticket(self, what: str = "base") -> Ticket:
        with connect(self.place.directory) as client:
            return client.ticket(NewTicket(what))

    def file(self, name: str = "root.squashfs") -> OfferedFile:
        return next(file for file in self.ticket().offer.files if file.name == name)

    def call(self, *words: str, code: int = 0) -> str:
        done = self.place.process(*words)
        assert done.code == code, done.stderr
        return str(done.stdout)

    def new_host(self) -> netns.Host:
        self._number += 1
        return self.room.host(f"10.81.0.{self._number}/24")

    def run(self, host: netns.Host, words: list[str], to: Path, code: int = 0) -> str:
        """Run a program on a host in a directory, to its end."""
        to.mkdir(exist_ok=True)
        done = run.run([*host.inside, *words], cwd=to, check=False, timeout=PATIENCE, env={"HOME": str(to)})
        assert done.code == code, f"{words}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def start(self, host: netns.Host, words: list[str], to: Path) -> run.Child:
        """Run one until the test ends; what it says is in `to/log`."""
        to.mkdir(exist_ok=True)
        sink = self.stack.enter_context((to / "log").open("ab"))
        env = {"HOME": str(to), "TMPDIR": str(to)}
        return self.stack.enter_context(self.room.process(host, words, stdout=sink, stderr=sink, env=env))

    def fetch(self, host: netns.Host, to: Path, *more: str) -> run.Child:
        """A `rookery fetch` of the image."""
        words = [sys.executable, "-m", "rookery.cli", "fetch", self.ticket().url, "--to", str(to / "image")]
        return self.start(host, [*words, "--stats", str(to / "stats"), *more], to)

    def is_whole(self, directory: Path, *names: str) -> bool:
        return all(
            (directory / name).is_file() and (directory / name).read_bytes() == self.content[name]
            for name in names or ("root.squashfs",)
        )

    def sent(self) -> int:
        """Bytes that the head's seeder gave since it was started."""
        with connect(self.place.directory) as client:
            return sum(given.sent for given in client.head().seeding)


def no_way(host: netns.Host, port: int) -> None:
    """No way from this host to a port. Without one to the head's relay our node has no chain, and does with BitTorrent
    alone; without one to its seeder it has the chain alone."""
    run.run(["ip", "-n", host.namespace, "rule", "add", "ipproto", "tcp", "dport", str(port), "prohibit"])


@pytest.fixture(scope="module")
def room() -> Iterator[netns.Room]:
    with netns.room() as made:
        yield made


@pytest.fixture(scope="module")
def running_site(cooked: Path, tmp_path_factory: pytest.TempPathFactory, room: netns.Room) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("others")
    place = copy_of(cooked, directory / "head")
    paths = Paths(place.directory)
    paths.config.write_text(re.sub(r'(?m)^address = "[^"]*"', f'address = "{ADDRESS}"', paths.config.read_text()))
    content = {name: os.urandom(size) for name, size in SIZES.items()}
    catalog = Catalog.open(f"sqlite:///{paths.database}")
    publisher = Publisher(BlobStore(paths.blobs), SiteKey.load(paths), catalog, make_torrent)
    for tag, version in (("older", content | {"root.squashfs": older(content["root.squashfs"])}), ("latest", content)):
        parts = [directory / name for name in version]
        for path in parts:
            path.write_bytes(version[path.name])
        built = BuiltImage(*parts, kernel_release="6.1.0", architecture="x86_64", packages={})
        publisher.image("base", built, "", tag, silent, threading.Event())
    catalog.close()
    site = Site(place, room, content)
    argv = [sys.executable, "-m", "rookery.cli", "serve", "--dir", str(place.directory)]
    with place.log.open("ab") as sink, room.process(site.host, argv, stdout=sink, stderr=sink) as child:
        place.wait(child)
        yield site


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        running_site.stack = stack
        yield running_site
    running_site.room.shape(running_site.host, 0)
    for mirror in json.loads(running_site.call("mirror", "list", "--json"))["mirrors"]:
        running_site.call("mirror", "rm", mirror["name"], "-y")


def words_of(site: Site, kind: ClientKind) -> list[str]:
    """The command that `rookery ticket` prints, as a shell would take it."""
    return ["sh", "-c", command(kind, site.ticket())]


def test_curl_and_wget_fetch_a_version_and_go_on_where_they_were(site: Site, tmp_path: Path) -> None:
    host, to = site.new_host(), tmp_path / "curl"
    to.mkdir()
    (to / "root.squashfs").write_bytes(site.content["root.squashfs"][:3_000_001])
    site.run(host, words_of(site, ClientKind.CURL), to)
    assert site.is_whole(to, *SIZES)
    to = tmp_path / "wget"
    to.mkdir()
    (to / "root.squashfs").write_bytes(site.content["root.squashfs"][:3_000_001])
    site.run(host, words_of(site, ClientKind.WGET), to)
    assert site.is_whole(to, *SIZES)


def test_curl_asks_for_parts_and_for_changes(site: Site, tmp_path: Path) -> None:
    host, file, content = site.new_host(), site.file(), site.content["root.squashfs"]
    curl = ["curl", "-sS", "--fail", "-w", "%{http_code} %{size_download}", "-o", "out"]
    assert site.run(host, [*curl, "-r", "1000-1999", file.url], tmp_path).startswith("206 1000")
    assert (tmp_path / "out").read_bytes() == content[1000:2000]
    etags = ["--etag-save", "etag", "--etag-compare", "etag"]
    (tmp_path / "etag").touch()
    assert site.run(host, [*curl, *etags, file.url], tmp_path).startswith(f"200 {len(content)}")
    assert (tmp_path / "etag").read_text().strip() == f'"{file.sha256}"'
    assert site.run(host, [*curl, *etags, file.url], tmp_path).startswith("304 0")
    said = site.run(host, ["curl", "-sSI", file.url], tmp_path).lower()
    assert "200 ok" in said
    assert f"content-length: {len(content)}" in said
    assert f"{file.sha256}" in said
    # By a tag, with the ticket as a password; without one, the answer says what is needed.
    plain, _, secret = file.url.partition("?ticket=")
    tagged = re.sub(r"/base/[0-9a-f]{64}/", "/base/latest/", plain)
    assert site.run(host, [*curl, "-L", "-u", f"me:{secret}", tagged], tmp_path).startswith("200")
    assert (tmp_path / "out").read_bytes() == content
    assert site.run(host, ["curl", "-sS", plain, "-w", "%{http_code}"], tmp_path).endswith("401")


def test_aria2_fetches_by_url_metalink_and_torrent(site: Site, tmp_path: Path) -> None:
    host, file = site.new_host(), site.file()
    by_url = ["aria2c", *QUIET, "-x4", "-s4", "-k1M", f"--checksum=sha-256={file.sha256}", file.url]
    said = site.run(host, by_url, tmp_path / "url")
    assert "checksum" in said.lower() or "(OK)" in said
    assert site.is_whole(tmp_path / "url")
    site.run(host, words_of(site, ClientKind.ARIA2), tmp_path / "metalink")
    assert site.is_whole(tmp_path / "metalink", *SIZES)
    before = site.sent()
    site.run(host, ["aria2c", *QUIET, "--follow-torrent=mem", "--seed-time=0", file.torrent], tmp_path / "torrent")
    assert site.is_whole(tmp_path / "torrent")
    assert site.sent() - before >= SIZES["root.squashfs"], "it came by the swarm: a torrent names no URL of the head"


def test_aria2_finds_a_damaged_part_by_the_metalink(site: Site, tmp_path: Path) -> None:
    host, to = site.new_host(), tmp_path / "damaged"
    to.mkdir()
    content = bytearray(site.content["root.squashfs"])
    content[5_000_000] ^= 1
    (to / "root.squashfs").write_bytes(bytes(content))
    again = ["--check-integrity=true", "--follow-metalink=mem", "--follow-torrent=mem", "--seed-time=0"]
    site.run(host, ["aria2c", *QUIET, *again, site.file().metalink], to)
    assert site.is_whole(to)


def test_other_clients_and_our_node_are_one_swarm(site: Site, tmp_path: Path) -> None:
    site.room.shape(site.host, 8 * MBIT)
    ours = site.new_host()
    # With a way to the head's relay our node would need nobody.
    no_way(ours, load(site.paths.directory).network.relay_port)
    before = site.sent()
    fetching = site.fetch(ours, tmp_path / "ours", "--seed", "300")
    theirs = {name: site.new_host() for name in ("aria2c", "transmission-cli", "qbittorrent-nox")}
    for name, host in theirs.items():
        (tmp_path / name).mkdir()
        start_client(site, host, name, tmp_path / name)
    log = tmp_path / "ours" / "log"
    wait_until(lambda: site.is_whole(tmp_path / "ours" / "image", *SIZES), "our node has it", log)
    for name in theirs:
        wait_until(lambda there=tmp_path / name: site.is_whole(there), f"{name} has it", tmp_path / name / "log")
    fetching.send_signal(signal.SIGINT)  # the seeding ends, and the account is written
    assert fetching.wait(PATIENCE) == 0
    stats = json.loads((tmp_path / "ours" / "stats").read_text())
    assert set(stats["peers"]) <= {host.address for host in theirs.values()}
    assert sum(stats["peers"].values()) > 0, "from them to us"
    assert stats["bytes_sent"] > 0, "from us to them: nobody else is there"
    assert stats["hash_failures"] == 0
    assert site.sent() - before < 3 * SIZES["root.squashfs"], "four takers, and they gave to each other"


def test_nodes_that_the_chain_fed_give_to_other_clients(site: Site, tmp_path: Path) -> None:
    root = SIZES["root.squashfs"]
    ours = {name: site.new_host() for name in ("one", "two")}
    network = load(site.paths.directory).network
    before, fetching = site.sent(), {}
    for name, host in ours.items():
        no_way(host, network.swarm_port)
        fetching[name] = site.fetch(host, tmp_path / name, "--seed", "300")
    for name in ours:
        there = tmp_path / name
        wait_until(lambda there=there: site.is_whole(there / "image", *SIZES), f"{name} has it", there / "log")
    by_chain = site.sent() - before
    # From now on the head alone would need minutes.
    site.room.shape(site.host, MBIT)
    sent = {host: traffic(host).sent for host in (site.host, *ours.values())}
    theirs = {name: site.new_host() for name in ("aria2c", "transmission-cli", "qbittorrent-nox")}
    for name, host in theirs.items():
        (tmp_path / name).mkdir()
        start_client(site, host, name, tmp_path / name, metalink=True)
    for name in theirs:
        wait_until(lambda there=tmp_path / name: site.is_whole(there), f"{name} has it", tmp_path / name / "log")
    of_head, of_one, of_two = (traffic(host).sent - bytes_before for host, bytes_before in sent.items())
    assert of_one + of_two > 3 * root / 2, "most of what the three took, who gave to each other as well"
    assert of_head < root // 2, "with everything that it says beside"
    for child in fetching.values():
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 0
    one, two = (json.loads((tmp_path / name / "stats").read_text()) for name in ours)
    assert one["bytes_from_head_swarm"] + two["bytes_from_head_swarm"] == by_chain, "there was no other way"
    assert one["bytes_from_peers"] + two["bytes_from_peers"] == 2 * root - by_chain


def start_client(site: Site, host: netns.Host, program: str, to: Path, metalink: bool = False) -> None:
    """Fetch the root by its torrent, or, where the program can, by its metalink, and go on giving."""
    torrent = site.file().torrent
    if program == "aria2c":
        more = [f"--dir={to}", "--follow-metalink=mem", "--follow-torrent=mem", "--seed-ratio=0.0"]
        site.start(host, ["aria2c", *QUIET, *more, site.file().metalink if metalink else torrent], to)
    elif program == "transmission-cli":
        line = command(ClientKind.TRANSMISSION, site.ticket())
        site.start(host, ["sh", "-c", f"cd {shlex.quote(str(to))} && {line}"], to)
    else:
        home = to / "home" / "qBittorrent" / "config"
        home.mkdir(parents=True)
        (home / "qBittorrent.conf").write_text(
            "[LegalNotice]\nAccepted=true\n[BitTorrent]\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\n"
            "[Preferences]\nWebUI\\Enabled=false\n"
        )
        words = ["qbittorrent-nox", f"--profile={to / 'home'}", f"--save-path={to}", "--skip-dialog=true", torrent]
        site.start(host, words, to)


def mirror(site: Site, directory: Path, damage: bool = False) -> tuple[str, Path]:
    """nginx on a host with a copy of the version; its URL, and the log of what it was asked."""
    host, offer = site.new_host(), site.ticket().offer
    there = directory / "www" / "images" / offer.image / offer.version
    there.mkdir(parents=True)
    for name, data in site.content.items():
        (there / name).write_bytes(data[:-1] + bytes([data[-1] ^ damage]))
    return serve(site, host, directory)


def serve(site: Site, host: netns.Host, directory: Path) -> tuple[str, Path]:
    """nginx on a host for what lies in `directory/www`; the URL of its `images`, and the log of what it was asked."""
    root, log = directory / "www", directory / "access.log"
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(log=log, root=root))
    site.start(host, ["nginx", "-p", str(directory), "-c", str(configuration), "-e", "stderr"], directory)
    connected = [*host.inside, "curl", "-s", "-o", "/dev/null", f"http://{host.address}/"]
    wait_until(lambda: run.run(connected, check=False).code == 0, "nginx answers", directory / "log")
    return f"http://{host.address}/images", log


def given(log: Path, address: str) -> int:
    """Bytes that nginx gave to a host."""
    sizes = re.findall(rf'(?m)^{re.escape(address)} .*" 20[06] (\d+) ', log.read_text())
    return sum(map(int, sizes))


def test_a_mirror_is_a_web_seed_for_others_and_for_our_nodes(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    url, log = mirror(site, tmp_path / "mirror")
    site.call("mirror", "add", "near", url, "--priority", "1", "--location", "de")
    (listed,) = json.loads(site.call("mirror", "list", "--json"))["mirrors"]
    assert (listed["state"], listed["good"]) == ("good", 3)
    # The head is slow, so that the others have a reason.
    site.room.shape(site.host, 4 * MBIT)
    root = SIZES["root.squashfs"]
    theirs = site.new_host()
    site.run(
        theirs, ["aria2c", *QUIET, "--follow-torrent=mem", "--seed-time=0", site.file().torrent], tmp_path / "torrent"
    )
    assert site.is_whole(tmp_path / "torrent")
    assert given(log, theirs.address) > root // 2
    other = site.new_host()
    site.run(other, words_of(site, ClientKind.ARIA2), tmp_path / "metalink")
    assert site.is_whole(tmp_path / "metalink", *SIZES)
    assert given(log, other.address) > root // 2
    ours = site.new_host()
    no_way(ours, load(site.paths.directory).network.relay_port)
    child = site.fetch(ours, tmp_path / "ours")
    assert child.wait(PATIENCE) == 0, (tmp_path / "ours" / "log").read_text()
    assert site.is_whole(tmp_path / "ours" / "image", *SIZES)
    stats = json.loads((tmp_path / "ours" / "stats").read_text())
    assert given(log, ours.address) > root // 2
    assert stats["peers"][url.split("/")[2]] > root // 2
    assert stats["hash_failures"] == 0


def test_a_mirror_is_kept_current_by_differences(site: Site, tmp_path: Path) -> None:
    host, place, stats = site.new_host(), tmp_path / "mirror", tmp_path / "stats"
    place.mkdir()
    before, now = site.ticket("base:older"), site.ticket()
    images = place / "www" / "images" / "base"
    fetch = [sys.executable, "-m", "rookery.cli", "fetch"]
    site.run(host, [*fetch, before.url, "--to", str(images / before.offer.version)], tmp_path / "1")
    have = ["--have", str(images / before.offer.version), "--stats", str(stats)]
    site.run(host, [*fetch, now.url, "--to", str(images / now.offer.version), *have], tmp_path / "2")
    assert site.is_whole(images / now.offer.version, *SIZES)
    account = json.loads(stats.read_text())
    # Kernel and drivers are the same in both, so nothing of them is fetched; of the root only what was changed.
    assert 7_000 < account["bytes_from_head"] < 200_000
    assert account["bytes_filled"] == sum(SIZES.values()) - account["bytes_from_head"]
    url, log = serve(site, host, place)
    site.call("mirror", "add", "near", url)
    (listed,) = json.loads(site.call("mirror", "list", "--json"))["mirrors"]
    assert (listed["state"], listed["good"]) == ("good", 4), "two roots, a kernel, drivers"
    theirs = site.new_host()
    for what in ("base:older", "base"):
        file = next(file for file in site.ticket(what).offer.files if file.name == "root.squashfs")
        site.run(theirs, ["curl", "-sS", "--fail", "-o", "root", *file.mirrors], tmp_path / "theirs")
        assert hashlib.sha256((tmp_path / "theirs" / "root").read_bytes()).hexdigest() == file.sha256
    assert given(log, theirs.address) >= 2 * SIZES["root.squashfs"]


def test_a_mirror_that_turns_bad_cannot_do_harm(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    url, log = mirror(site, tmp_path / "mirror")
    site.call("mirror", "add", "near", url)
    file = next((tmp_path / "mirror" / "www").rglob("root.squashfs"))
    content = bytearray(site.content["root.squashfs"])
    content[-1] ^= 1
    content[4_000_000] ^= 1
    file.write_bytes(bytes(content))
    site.room.shape(site.host, 16 * MBIT)
    ours, theirs = site.new_host(), site.new_host()
    no_way(ours, load(site.paths.directory).network.relay_port)
    child = site.fetch(ours, tmp_path / "ours")
    site.run(theirs, words_of(site, ClientKind.ARIA2), tmp_path / "theirs")
    assert child.wait(PATIENCE) == 0, (tmp_path / "ours" / "log").read_text()
    assert site.is_whole(tmp_path / "theirs", *SIZES)
    assert site.is_whole(tmp_path / "ours" / "image", *SIZES)
    assert given(log, ours.address) > 0
    assert given(log, theirs.address) > 0
    site.call("mirror", "check", "near", code=8)
    assert "not those that were published" in site.call("mirror", "show", "near")
    assert site.file().mirrors == ()
    (listed,) = json.loads(site.call("mirror", "list", "--json"))["mirrors"]
    assert (listed["state"], listed["bad"]) == ("bad", 1)


def test_a_mirror_with_other_bytes_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    url, _ = mirror(site, tmp_path / "mirror", damage=True)
    done = site.place.process("mirror", "add", "near", url)
    assert done.code == 8
    assert "are not those that were published" in done.stderr or "SHA-256" in done.stderr
    assert json.loads(site.call("mirror", "list", "--json"))["mirrors"] == []
    assert site.place.process("mirror", "add", "far", "http://10.81.0.250/images").code == 6


def test_every_command_of_a_ticket_is_for_what_it_says(site: Site) -> None:
    for kind in ClientKind:
        assert command(kind, site.ticket()).count("ticket=") == {"curl": 3, "wget": 3, "urls": 8}.get(kind, 1)
    assert len(site.call("ticket", "base", "--for", "urls").split()) == 8
    assert hashlib.sha256(site.content["kernel"]).hexdigest() == site.file("kernel").sha256
