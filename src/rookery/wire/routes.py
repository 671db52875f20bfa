# SPDX-License-Identifier: Apache-2.0
"""The head's HTTP paths that machines and nodes call. docs/PORTS.md lists them with who may call which."""

from __future__ import annotations

from urllib.parse import quote, urlencode

START = "/boot/start.ipxe"  # GET, no credential: a fixed iPXE script that leads to SCRIPT
SCRIPT = "/boot/script.ipxe"  # GET ?mac=&uuid=&arch=&firmware=: the script for exactly this machine
LOADER = "/boot/loader"  # GET LOADER/{file}: iPXE for UEFI HTTP boot
AGENT = "/boot/agent"  # GET AGENT/{sha256}: the agent cpio
KERNEL = "/boot/kernel"  # GET KERNEL/{sha256}
DRIVERS = "/boot/drivers"  # GET DRIVERS/{sha256}
HELLO = "/node/hello"  # POST Hello -> Welcome
ORDERS = "/node/orders"  # GET, credential -> Orders
REPORT = "/node/report"  # POST Report, credential -> Answer
BLOB = "/blob"  # GET BLOB/{sha256}, credential, Range (RFC 9110)
TORRENT = "/torrent"  # GET TORRENT/{sha256 of the blob}, credential -> .torrent
CHUNKS = "/chunks"  # GET CHUNKS/{sha256 of the blob}, credential -> chunk index (FORMAT.md)
ANNOUNCE = "/announce"  # GET ANNOUNCE/{credential}?info_hash=...: the tracker (BEP 3)
CHAIN = "/chain"  # POST CHAIN/{sha256 of the blob} Ask, credential -> Place
FETCH = "/fetch"  # GET FETCH/{image[:tag]}?ticket=...: FetchOffer
CAPSULE = "/capsule"  # GET CAPSULE/{image[:tag]}?ticket=...: CapsuleOffer, for another site's head
FILES = (
    "/files"  # GET FILES/{image}/{version}/{file}[.torrent|.meta4]: for clients that are not ours (head/http/files.py)
)


def announce_url(head: str, credential: str) -> str:
    """The tracker URL of one caller: `head` is the base URL, the credential stands where private trackers put it."""
    return f"{head.rstrip('/')}{ANNOUNCE}/{credential}"


def blob_url(head: str, sha256: str) -> str:
    """Where a blob's bytes are, whole or by Range."""
    return f"{head.rstrip('/')}{BLOB}/{sha256}"


def torrent_url(head: str, sha256: str) -> str:
    """Where the torrent of a blob is."""
    return f"{head.rstrip('/')}{TORRENT}/{sha256}"


def chunks_url(head: str, sha256: str) -> str:
    """Where the chunk index of a blob is."""
    return f"{head.rstrip('/')}{CHUNKS}/{sha256}"


def file_url(head: str, parts: tuple[str, ...], ticket: str = "") -> str:
    """Where a file is for clients that are not ours: `parts` are the image, the version's id and the file's name; fewer
    lead to a page that lists what is there."""
    query = f"?{urlencode({'ticket': ticket})}" if ticket else ""
    return "/".join([f"{head.rstrip('/')}{FILES}", *(quote(part, safe="") for part in parts)]) + query
