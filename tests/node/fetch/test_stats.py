# SPDX-License-Identifier: Apache-2.0
from rookery import codec
from rookery.node.fetch.stats import FetchStats, Ledger, add, add_transfers
from rookery.wire.report import Transfer


def test_the_ledger_keeps_who_gave_what() -> None:
    ledger = Ledger(1000)
    ledger.had = 100
    ledger.block("10.0.0.1", True, 300, 0.0)
    ledger.block("10.0.0.2", False, 200, 0.1)
    ledger.block("10.0.0.2", False, 50, 0.1)
    ledger.block("10.0.0.1", False, 150, 0.2)  # another program on the head's machine is a peer like others
    ledger.http(250, 0.3)
    stats = ledger.stats(seconds=2.0, sent=7, redundant=8)
    assert (stats.bytes_from_head, stats.bytes_from_head_swarm, stats.bytes_from_head_http) == (550, 300, 250)
    assert stats.peers == {"10.0.0.1": 150, "10.0.0.2": 250}
    assert (stats.bytes_from_peers, stats.bytes_sent, stats.bytes_redundant) == (400, 7, 8)
    assert stats.bytes_had + stats.bytes_from_head + stats.bytes_from_peers - stats.bytes_failed == stats.bytes_total
    assert stats.bytes_failed == 50
    assert stats.rate == 475.0


def test_the_rate_is_that_of_the_last_seconds() -> None:
    ledger = Ledger(10**9)
    for tick in range(100):
        ledger.block("10.0.0.2", False, 1_000, tick / 10)
    assert 9_000 < ledger.rate(9.9) < 11_500
    assert ledger.rate(20.0) == 0.0
    assert ledger.transfer(5, 6, 7, 9.9) == Transfer(10**9, 5, 0, 0, 100_000, sent=6, rate=ledger.rate(9.9), peers=7)


def test_accounts_and_snapshots_add_up() -> None:
    one = FetchStats("image", 2.0, 0.5, 0.0, 10, 1, 0, 6, 4, 2, 3, {"a": 3}, 1, 1, 1, 1, 1, ("x",), 0.0)
    two = FetchStats("image", 2.0, 0.5, 0.25, 20, 0, 0, 15, 15, 0, 5, {"a": 1, "b": 4}, 0, 0, 0, 0, 0, ("w", "x"), 0.0)
    both = add([one, two])
    assert (both.seconds, both.bytes_total, both.bytes_from_head, both.bytes_from_peers) == (4.0, 30, 21, 8)
    assert both.peers == {"a": 4, "b": 4}
    assert both.banned == ("w", "x")
    assert both.rate == 29 / 4
    assert both.first_byte_seconds == 0.25
    assert codec.decode(FetchStats, codec.encode(both)) == both
    assert add([]) == FetchStats()
    assert add_transfers(Transfer(10, 10, 4, 1, 6), Transfer(5, 1, 1, 0, 0, 0, 9.0, 2)) == Transfer(
        15, 11, 5, 1, 6, 0, 9.0, 2
    )
