# SPDX-License-Identifier: Apache-2.0
"""The commands with which other programs fetch what a ticket is for, ready to paste."""

from __future__ import annotations

import shlex
from enum import StrEnum

from rookery.api.types import Ticket
from rookery.errors import ErrorKind, RookeryError


class ClientKind(StrEnum):
    """A program that can fetch."""

    ROOKERY = "rookery"
    ARIA2 = "aria2"
    CURL = "curl"
    TRANSMISSION = "transmission"
    QBITTORRENT = "qbittorrent"
    WGET = "wget"
    URLS = "urls"


def command(kind: ClientKind, ticket: Ticket) -> str:
    """The command, which fetches into the working directory and goes on where it was when it is called again; for
    `urls` a URL a line. Raises RookeryError `invalid` for a BitTorrent client and a version without torrents."""
    offer = ticket.offer
    files = [file.url for file in offer.files]
    if kind is ClientKind.URLS:
        every = [url for file in offer.files for url in (file.url, file.torrent, file.metalink) if url]
        return "\n".join([*every, offer.metalink])
    torrents = [file.torrent for file in offer.files if file.torrent]
    if kind in (ClientKind.TRANSMISSION, ClientKind.QBITTORRENT) and not torrents:
        raise RookeryError(
            f"nothing of {offer.image} is carried by the swarm", kind=ErrorKind.INVALID, hint="use --for curl"
        )
    if kind is ClientKind.TRANSMISSION:
        return _transmission(torrents[0])
    words = {
        ClientKind.ROOKERY: ["rookery", "fetch", ticket.url, "--to", "."],
        # Both the file and its pieces are checked; without a torrent file left behind, and without seeding for ever.
        ClientKind.ARIA2: ["aria2c", "--follow-metalink=mem", "--follow-torrent=mem", "--seed-time=0", offer.metalink],
        ClientKind.CURL: ["curl", "-fL", "-C", "-", "--remote-name-all", *files],
        ClientKind.WGET: ["wget", "-c", "--content-disposition", *files],
        ClientKind.QBITTORRENT: ["qbittorrent-nox", "--save-path=.", *torrents],
    }
    return shlex.join(words[kind])


def _transmission(torrent: str) -> str:
    """transmission-cli takes no URL, and cannot be told without a file to do without uTP, which head and nodes do not
    speak: with it, Transmission 3.00 waits for ever. It does not ask a router to open a port either (-M)."""
    return (
        'place=$(mktemp -d) && printf \'{"utp-enabled": false}\' >"$place/settings.json" && '
        f'curl -fsSL -o "$place/torrent" {shlex.quote(torrent)} && '
        'transmission-cli -M -g "$place" -w . "$place/torrent"'
    )
