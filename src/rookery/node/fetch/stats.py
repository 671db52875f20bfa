# SPDX-License-Identifier: Apache-2.0
"""The account of a fetch: who gave what, exactly, and what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rookery.wire.report import Transfer

RATE_WINDOW = 3.0  # s over which the rate shown is taken


@dataclass(frozen=True)
class FetchStats:
    """What a fetch came to; `rookery fetch --stats` writes it as JSON.

    name: what was fetched, as it was published; empty for a file of a node. seconds: from the call until the file was
    there, digest checked; verify_seconds: the part of them that the digest took. first_byte_seconds: from the call
    until the first right byte; 0 when none had to come. bytes_total: the file's size. bytes_had: of it, there and right
    before, or taken from older versions; bytes_filled: the latter. All `bytes_from_*` are payload that was received:
    swarm (chain and mesh) and http are the head's two ways of giving, peers maps each other machine's address to what
    it gave. bytes_failed: those of them that were thrown away because a digest was wrong, so that had + from_head +
    from_peers - failed = total. bytes_redundant: what came twice, in none of these. bytes_sent: given to others.
    hash_failures: pieces whose digest was wrong, hash_failures_http: those of them that came from the head by HTTP.
    banned: addresses that are not asked any more because of it. rate: bytes per second over the whole time.
    """

    name: str = ""
    seconds: float = 0.0
    verify_seconds: float = 0.0
    first_byte_seconds: float = 0.0
    bytes_total: int = 0
    bytes_had: int = 0
    bytes_filled: int = 0
    bytes_from_head: int = 0
    bytes_from_head_swarm: int = 0
    bytes_from_head_http: int = 0
    bytes_from_peers: int = 0
    peers: dict[str, int] = field(default_factory=dict)
    bytes_failed: int = 0
    bytes_redundant: int = 0
    bytes_sent: int = 0
    hash_failures: int = 0
    hash_failures_http: int = 0
    banned: tuple[str, ...] = ()
    rate: float = 0.0


def add(many: Iterable[FetchStats]) -> FetchStats:
    """The sum of fetches that were made one after the other, as of an image's three blobs."""
    stats = list(many)
    peers: dict[str, int] = {}
    for one in stats:
        for address, count in one.peers.items():
            peers[address] = peers.get(address, 0) + count
    seconds = sum(one.seconds for one in stats)
    got = sum(one.bytes_from_head + one.bytes_from_peers for one in stats)
    return FetchStats(
        seconds=seconds,
        verify_seconds=sum(one.verify_seconds for one in stats),
        first_byte_seconds=next((one.first_byte_seconds for one in stats if one.first_byte_seconds), 0.0),
        bytes_total=sum(one.bytes_total for one in stats),
        bytes_had=sum(one.bytes_had for one in stats),
        bytes_filled=sum(one.bytes_filled for one in stats),
        bytes_from_head=sum(one.bytes_from_head for one in stats),
        bytes_from_head_swarm=sum(one.bytes_from_head_swarm for one in stats),
        bytes_from_head_http=sum(one.bytes_from_head_http for one in stats),
        bytes_from_peers=sum(one.bytes_from_peers for one in stats),
        peers=peers,
        bytes_failed=sum(one.bytes_failed for one in stats),
        bytes_redundant=sum(one.bytes_redundant for one in stats),
        bytes_sent=sum(one.bytes_sent for one in stats),
        hash_failures=sum(one.hash_failures for one in stats),
        hash_failures_http=sum(one.hash_failures_http for one in stats),
        banned=tuple(sorted({address for one in stats for address in one.banned})),
        rate=got / seconds if seconds else 0.0,
    )


def add_transfers(first: Transfer, second: Transfer) -> Transfer:
    """How two fetches stand together: `second` runs, `first` is over."""
    return Transfer(
        total=first.total + second.total,
        done=first.done + second.done,
        from_head=first.from_head + second.from_head,
        from_head_http=first.from_head_http + second.from_head_http,
        from_peers=first.from_peers + second.from_peers,
        had=first.had + second.had,
        sent=first.sent + second.sent,
        rate=second.rate,
        peers=second.peers,
        hash_failures=first.hash_failures + second.hash_failures,
    )


class Ledger:
    """Adds up who gave what, block by block. Not thread-safe: the fetch loop owns it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.had = 0
        self.filled = 0  # the part of it that came out of older versions
        self.head_swarm = 0
        self.head_http = 0
        self.peers: dict[str, int] = {}
        self.failures = 0
        self.failures_http = 0
        self.banned: set[str] = set()
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_bytes = 0

    @property
    def from_peers(self) -> int:
        """Bytes from other machines."""
        return sum(self.peers.values())

    def block(self, address: str, of_head: bool, size: int, now: float) -> None:
        """A block of `size` bytes came from `address` in the swarm."""
        if of_head:
            self.head_swarm += size
        else:
            self.peers[address] = self.peers.get(address, 0) + size
        self._count(size, now)

    def fill(self, size: int) -> None:
        """`size` bytes came out of older versions."""
        self.had += size
        self.filled += size

    def http(self, size: int, now: float) -> None:
        """`size` bytes of right pieces came from the head by HTTP."""
        self.head_http += size
        self._count(size, now)

    def rate(self, now: float) -> float:
        """Bytes per second, lately."""
        while self._recent and self._recent[0][0] < now - RATE_WINDOW:
            self._recent_bytes -= self._recent.popleft()[1]
        if not self._recent:
            return 0.0
        return self._recent_bytes / max(now - self._recent[0][0], 0.5)

    def transfer(self, done: int, sent: int, peers: int, now: float) -> Transfer:
        """The snapshot for reports. done: bytes of verified pieces. peers: connections."""
        return Transfer(
            total=self.total,
            done=done,
            from_head=self.head_swarm + self.head_http,
            from_head_http=self.head_http,
            from_peers=self.from_peers,
            had=self.had,
            sent=sent,
            rate=self.rate(now),
            peers=peers,
            hash_failures=self.failures,
        )

    def stats(
        self,
        *,
        seconds: float,
        verify_seconds: float = 0.0,
        first_byte_seconds: float = 0.0,
        sent: int = 0,
        redundant: int = 0,
    ) -> FetchStats:
        """The final account, when everything is there. sent, redundant: bytes."""
        got = self.head_swarm + self.head_http + self.from_peers
        return FetchStats(
            seconds=seconds,
            verify_seconds=verify_seconds,
            first_byte_seconds=first_byte_seconds,
            bytes_total=self.total,
            bytes_had=self.had,
            bytes_filled=self.filled,
            bytes_from_head=self.head_swarm + self.head_http,
            bytes_from_head_swarm=self.head_swarm,
            bytes_from_head_http=self.head_http,
            bytes_from_peers=self.from_peers,
            peers=dict(sorted(self.peers.items())),
            bytes_failed=max(self.had + got - self.total, 0),
            bytes_redundant=redundant,
            bytes_sent=sent,
            hash_failures=self.failures,
            hash_failures_http=self.failures_http,
            banned=tuple(sorted(self.banned)),
            rate=got / seconds if seconds else 0.0,
        )

    def _count(self, size: int, now: float) -> None:
        # One entry for a twentieth of a second: at 10 Gbit/s there are 70,000 blocks in one.
        if self._recent and now - self._recent[-1][0] < 0.05:
            self._recent[-1] = (self._recent[-1][0], self._recent[-1][1] + size)
        else:
            self._recent.append((now, size))
        self._recent_bytes += size
