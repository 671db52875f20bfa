# SPDX-License-Identifier: Apache-2.0
"""BitTorrent with other people's clients, all with opentracker on the head: aria2, transmission, libtorrent.

The torrent is public, v1, with pieces of 256 KiB, and lies on the nodes before the start; so does its hash in
opentracker's whitelist, without which Debian's build serves nobody.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar
from xml.sax.saxutils import escape

import libtorrent as lt

from lab import netns
from lab.swarm.others_plain import serve_http
from lab.swarm.others_race import Other, Race, Taker, python
from rookery.run import run

PIECE = 256 * 1024
_TRACKER_PORT = 6969
_OPENTRACKER = {"opentracker": "opentracker"}


class Torrent(Other):
    """What all of them share: a torrent, a seed of the client itself, and opentracker.

    opentracker -i HEAD -p 6969 -d DIRECTORY -w whitelist -u nobody.
    """

    def client(self, race: Race, host: netns.Host, place: Path, name: str, hook: Path | None) -> list[str]:
        """The words that run the client: on the head without a hook, where `place` holds the file already."""
        raise NotImplementedError

    def serve(self, race: Race) -> None:
        """Start the tracker and the seed, and wait until the tracker knows the seed."""
        self.torrent, digest = make_torrent(race)
        _start_tracker(race, digest)
        place = race.work / "seed"
        place.mkdir()
        (place / race.file.name).symlink_to(race.file)
        words = self.client(race, race.head, place, "seed", None)
        child = race.start(race.head, words, "seed", self.environment())
        race.wait(lambda: _seeds(race, digest) > 0, "the tracker knows the seed", child, race.log("seed"))

    def environment(self) -> dict[str, str]:
        """What the client needs in its environment."""
        return {}

    def take(self, race: Race, number: int) -> Taker:
        """The client, held."""
        copy, name = race.copy(number), f"node{number}"
        hook, made = race.hook(number)
        child = race.held(race.nodes[number], self.client(race, race.nodes[number], copy.parent, name, hook), name)
        return Taker(child, race.log(name), copy, made.exists)


class Aria2(Torrent):
    """The case study's stack. On the head: aria2c OPTIONS --bt-seed-unverified=true TORRENT; on a node the same with
    --on-bt-download-complete=HOOK instead.

    OPTIONS: --no-conf --dir=PLACE --file-allocation=none --seed-ratio=0.0 (seed until ended) --bt-max-peers=0 (all)
    --bt-request-peer-speed-limit=RATE (look for more peers below it) --enable-dht=false --enable-dht6=false
    --bt-enable-lpd=false --disable-ipv6=true --async-dns=false --listen-port=6881 --disk-cache=64M, no limits.
    """

    name = "aria2 + opentracker"
    programs: ClassVar = {"aria2c": "aria2", **_OPENTRACKER}

    def client(self, race: Race, host: netns.Host, place: Path, name: str, hook: Path | None) -> list[str]:
        """aria2c, as above."""
        del race, host, name
        return [*self.options(place, hook), str(self.torrent)]

    def options(self, place: Path, hook: Path | None) -> list[str]:
        """The program and its options."""
        return [
            "aria2c",
            "--no-conf",
            f"--dir={place}",
            "--file-allocation=none",
            "--seed-ratio=0.0",
            "--bt-max-peers=0",
            f"--bt-request-peer-speed-limit={self.rate // 8}",
            "--enable-dht=false",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--disable-ipv6=true",
            "--async-dns=false",
            "--listen-port=6881",
            "--disk-cache=64M",
            "--summary-interval=0",
            "--show-console-readout=false",
            "--console-log-level=warn",
            f"--on-bt-download-complete={hook}" if hook else "--bt-seed-unverified=true",
        ]


class Metalink(Aria2):
    """aria2 and opentracker as above, and nginx: on a node aria2c OPTIONS --metalink-file=FILE.meta4, which lists the
    torrent and the file's URL. aria2 takes pieces from both. No digest is in it: the torrent's are there.
    """

    name = "aria2 + metalink"
    programs: ClassVar = {"nginx": "nginx-light", **Aria2.programs}

    def serve(self, race: Race) -> None:
        """Start nginx besides."""
        url = serve_http(race)
        super().serve(race)
        torrent = f"http://{race.head.address}/about/{self.torrent.name}"
        self._metalink = race.work / "file.meta4"
        self._metalink.write_text(
            '<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'
            f'<file name="{escape(race.file.name)}"><size>{race.size}</size>\n'
            f'<metaurl mediatype="torrent" priority="1">{escape(torrent)}</metaurl>\n'
            f'<url priority="1">{escape(url)}</url></file>\n</metalink>\n'
        )

    def client(self, race: Race, host: netns.Host, place: Path, name: str, hook: Path | None) -> list[str]:
        """aria2c with the metalink on a node, with the torrent on the head."""
        if hook is None:
            return super().client(race, host, place, name, hook)
        return [*self.options(place, hook), "--follow-torrent=mem", f"--metalink-file={self._metalink}"]


class Transmission(Torrent):
    """transmission-cli -g SETTINGS -w PLACE -et -M [-f HOOK] TORRENT on the head and on nodes.

    Settings: no limits, no DHT, no local discovery, no uTP, no port mapping, up to 200 peers, encryption not wanted.
    """

    name = "transmission"
    programs: ClassVar = {"transmission-cli": "transmission-cli", **_OPENTRACKER}
    settings: ClassVar = {
        "blocklist-enabled": False,
        "cache-size-mb": 64,
        "dht-enabled": False,
        "encryption": 0,
        "idle-seeding-limit-enabled": False,
        "lpd-enabled": False,
        "peer-limit-global": 400,
        "peer-limit-per-torrent": 200,
        "pex-enabled": True,
        "port-forwarding-enabled": False,
        "preallocation": 1,
        "ratio-limit-enabled": False,
        "rpc-enabled": False,
        "speed-limit-down-enabled": False,
        "speed-limit-up-enabled": False,
        "upload-slots-per-torrent": 14,
        "utp-enabled": False,
    }

    def client(self, race: Race, host: netns.Host, place: Path, name: str, hook: Path | None) -> list[str]:
        """transmission-cli with settings of its own."""
        del host
        home = race.work / f"{name}.settings"
        home.mkdir()
        (home / "settings.json").write_text(json.dumps(self.settings))
        finish = ["-f", str(hook)] if hook else []
        return ["transmission-cli", "-g", str(home), "-w", str(place), "-et", "-M", *finish, str(self.torrent)]


class Libtorrent(Torrent):
    """python -m lab.swarm.others_libtorrent TORRENT PLACE on the head and on nodes: a session with no setting changed.

    The process has imported its modules when the clock starts, and adds the torrent then.
    """

    name = "libtorrent defaults"
    programs: ClassVar = _OPENTRACKER

    def environment(self) -> dict[str, str]:
        """Where the module is found."""
        return python("")[1]

    def client(self, race: Race, host: netns.Host, place: Path, name: str, hook: Path | None) -> list[str]:
        """The process; on the head it does not wait."""
        del host
        words, _ = python("lab.swarm.others_libtorrent")
        gate = [str(race.gate), str(race.work / f"{name}.ready"), str(hook)] if hook else []
        return [*words, str(self.torrent), str(place), *gate]

    def take(self, race: Race, number: int) -> Taker:
        """The process, waiting at the gate by itself."""
        copy, name = race.copy(number), f"node{number}"
        hook, made = race.hook(number)
        words = self.client(race, race.nodes[number], copy.parent, name, hook)
        child = race.start(race.nodes[number], words, name, self.environment())
        race.wait((race.work / f"{name}.ready").exists, f"{name} is ready", child, race.log(name))
        return Taker(child, race.log(name), copy, made.exists)


def make_torrent(race: Race) -> tuple[Path, str]:
    """The torrent of the race's file in the run's directory `about`, and its v1 info-hash, hex."""
    maker = lt.create_torrent([lt.create_file_entry(race.file.name, race.size)], PIECE, lt.create_torrent.v1_only)
    maker.add_tracker(f"http://{race.head.address}:{_TRACKER_PORT}/announce")
    lt.set_piece_hashes(maker, str(race.file.parent), lambda _: None)
    torrent: bytes = lt.bencode(maker.generate())
    about = race.work / "about"
    about.mkdir(exist_ok=True)
    path = about / "file.torrent"
    path.write_bytes(torrent)
    return path, str(lt.load_torrent_buffer(torrent).info_hashes.v1)


def _start_tracker(race: Race, digest: str) -> None:
    # It leaves root's rights and its root directory before it reads the list: a directory that anybody can read.
    place = race.work / "tracker"
    place.mkdir(mode=0o755)
    (place / "whitelist").write_text(f"{digest}\n")
    words = ["-i", race.head.address, "-p", str(_TRACKER_PORT), "-d", str(place), "-w", "whitelist", "-u", "nobody"]
    child = race.start(race.head, ["opentracker", *words], "opentracker")
    race.listening(child, _TRACKER_PORT, "opentracker")


def _seeds(race: Race, digest: str) -> int:
    """How many complete peers the tracker knows."""
    quoted = "".join(f"%{digest[place : place + 2]}" for place in range(0, len(digest), 2))
    url = f"http://{race.head.address}:{_TRACKER_PORT}/scrape?info_hash={quoted}"
    done = run([*race.head.inside, "curl", "-sS", "--max-time", "2", url], check=False)
    _, _, after = done.stdout.partition("8:completei")
    number = after.partition("e")[0]
    return int(number) if number.isdigit() else 0
