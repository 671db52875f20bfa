# SPDX-License-Identifier: Apache-2.0
"""Nodes that announce themselves over HTTP, or ask for their place in the chain, as many as wanted in one process: bare
sockets, so that they cost little.

    python3 -m lab.announcers HOST:PORT announce/INFO_HASH FILE storm SECONDS
    python3 -m lab.announcers HOST:PORT chain/SHA256 FILE new|kept SECONDS CONNECTIONS

FILE has a node's credential in each line. storm: every node asks once, evenly over the time, each on a connection
of its own as libtorrent does. new, kept: so many connections at a time, each new for every question or kept; each sends
its next one when it has the answer to the last, going round the nodes. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_from_bytes

from rookery import codec
from rookery.wire import routes
from rookery.wire.relay import Ask

PATIENCE = 30.0  # s for one answer
TRIES = 3  # connections that a node of the storm tries
_END = b"\r\n\r\n"


@dataclass
class Account:
    """What happened. marks: what is in a right answer's body. answered: how many had one. wrong: with another, or none.
    retries: connections that broke and were tried again. waits: seconds from connecting to the whole answer, each.
    first_wrong: what came."""

    marks: tuple[bytes, ...]
    answered: int = 0
    wrong: int = 0
    retries: int = 0
    first_wrong: str = ""
    waits: list[float] = field(default_factory=list)

    def take(self, answer: bytes, began: float) -> None:
        """Count an answer (head and body)."""
        body = answer.partition(_END)[2]
        if answer.startswith(b"HTTP/1.1 200 ") and all(mark in body for mark in self.marks):
            self.answered += 1
            self.waits.append(time.perf_counter() - began)
        else:
            self.wrong += 1
            self.first_wrong = self.first_wrong or answer[-200:].decode(errors="replace") or "nothing"


def request(number: int, host: str, info_hash: bytes, credential: str, kept: bool = False) -> bytes:
    """The announce of node `number`, as libtorrent words it. Its port tells nodes of one address apart."""
    words = (
        f"info_hash={quote_from_bytes(info_hash)}&peer_id=-RN0100-{number:012d}&port={1024 + number}&uploaded=0"
        f"&downloaded=0&left=1000000&corrupt=0&key={number:08X}&event=started&numwant=200&compact=1&no_peer_id=1"
        "&supportcrypto=0&redundant=0"
    )
    lines = [
        f"GET {routes.ANNOUNCE}/{credential}?{words} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: rookery",
        "Accept-Encoding: gzip",
        f"Connection: {'keep-alive' if kept else 'close'}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def question(number: int, host: str, sha256: str, credential: str, kept: bool = False) -> bytes:
    """Node `number` asks for its place in the chain of a blob, as a node's own code words it."""
    body = codec.dumps(Ask(1024 + number, 0, 0)).encode()
    lines = [
        f"POST {routes.CHAIN}/{sha256} HTTP/1.1",
        f"Host: {host}",
        "Accept-Encoding: identity",
        f"Content-Length: {len(body)}",
        "Accept: application/json, application/problem+json, */*",
        f"Authorization: Bearer {credential}",
        "Content-Type: application/json",
        f"Connection: {'keep-alive' if kept else 'close'}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def one(host: str, asked: bytes, account: Account, tries: int = 1) -> None:
    """One question on a connection of its own."""
    address, _, port = host.rpartition(":")
    began = time.perf_counter()
    answer = b""
    for attempt in range(tries):
        account.retries += attempt > 0
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(address, int(port))
                writer.write(asked)
                answer = await reader.read(-1)
                writer.close()
        except OSError as error:
            answer = str(error).encode()
        if answer.startswith(b"HTTP/1.1 "):
            break
    account.take(answer, began)


async def storm(host: str, asked: list[bytes], seconds: float, account: Account) -> None:
    """Every question once, evenly over the time."""
    began, tasks = time.perf_counter(), []
    for number, words in enumerate(asked):
        if (wait := began + seconds * number / len(asked) - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(host, words, account, TRIES)))
    await asyncio.gather(*tasks)


async def steady(host: str, asked: list[bytes], seconds: float, connections: int, kept: bool, account: Account) -> None:
    """So many connections that ask without a pause."""
    until, order = time.perf_counter() + seconds, iter(range(10**12))

    async def worker() -> None:
        address, _, port = host.rpartition(":")
        while time.perf_counter() < until:
            if not kept:
                await one(host, asked[next(order) % len(asked)], account)
                continue
            reader, writer = await asyncio.open_connection(address, int(port))
            while time.perf_counter() < until:
                began = time.perf_counter()
                writer.write(asked[next(order) % len(asked)])
                head = await reader.readuntil(_END)
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                account.take(head + await reader.readexactly(length), began)
            writer.close()

    await asyncio.gather(*(worker() for _ in range(connections)))


def main(words: list[str]) -> None:
    """Ask, and print the account."""
    host, (what, _, digest), path, how, seconds = words[0], words[1].partition("/"), Path(words[2]), words[3], words[4]
    known = list(enumerate(path.read_text().split()))
    if what == "chain":
        account = Account((b'"feeds"', b'"parents"'))
        asked = [question(number, host, digest, credential, how == "kept") for number, credential in known]
    else:
        account, info_hash = Account((b"d8:completei", b"5:peers")), bytes.fromhex(digest)[:20]
        asked = [request(number, host, info_hash, credential, how == "kept") for number, credential in known]
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    if how == "storm":
        asyncio.run(storm(host, asked, float(seconds), account))
    else:
        asyncio.run(steady(host, asked, float(seconds), int(words[5]), how == "kept", account))
    took = time.perf_counter() - began
    waits = sorted(account.waits) or [0.0]
    print(
        json.dumps(
            {
                "seconds": round(took, 2),
                "answered": account.answered,
                "wrong": account.wrong,
                "first_wrong": account.first_wrong,
                "retries": account.retries,
                "median_ms": round(1e3 * waits[len(waits) // 2], 2),
                "p99_ms": round(1e3 * waits[len(waits) * 99 // 100], 2),
                "worst_ms": round(1e3 * waits[-1], 2),
                "cpu_seconds": round(time.process_time(), 2),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
