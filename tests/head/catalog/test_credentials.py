# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Credential


def _credential(number: int, kind: str = "boot", subject: str = "n1", used_by: str | None = None) -> Credential:
    return Credential(f"{number:064x}", kind, subject, float(number), used_by)


def test_credentials_come_back(catalog: Catalog) -> None:
    catalog.add_credential(_credential(1))
    assert catalog.credential(_credential(1).digest) == _credential(1)
    assert catalog.credential(_credential(2).digest) is None
    with pytest.raises(RookeryError) as caught:
        catalog.add_credential(_credential(1))
    assert caught.value.kind is ErrorKind.CONFLICT


def test_a_token_is_spent_by_one_boot(catalog: Catalog) -> None:
    catalog.add_credential(_credential(1))
    catalog.add_credential(_credential(2, kind="session"))
    boots = [f"{number % 8:032x}" for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda boot: catalog.spend(_credential(1).digest, boot), boots))
    winners = {boot for boot, good in zip(boots, won, strict=True) if good}
    assert len(winners) == 1
    assert won.count(True) == 4
    found = catalog.credential(_credential(1).digest)
    assert found is not None
    assert {found.used_by} == winners
    assert not catalog.spend(_credential(2).digest, boots[0])
    assert not catalog.spend(_credential(3).digest, boots[0])


def test_only_so_many_are_kept(catalog: Catalog) -> None:
    others = [_credential(100, subject="n2"), _credential(101, kind="session")]
    for credential in [*others, *(_credential(number) for number in range(1, 8))]:
        catalog.add_credential(credential, keep=3)
    left = [number for number in range(1, 8) if catalog.credential(_credential(number).digest)]
    assert left == [5, 6, 7]
    assert [catalog.credential(other.digest) for other in others] == others


def test_a_hello_supersedes_what_is_older(catalog: Catalog) -> None:
    token = _credential(50)
    stays = [
        token,
        _credential(51),
        _credential(1, kind="session", used_by="b" * 32),
        _credential(2, kind="session", subject="n2", used_by="a" * 32),
        _credential(3, subject="n2"),
        _credential(4, kind="ticket", subject="n1"),
    ]
    goes = [_credential(5, kind="session", used_by="a" * 32), _credential(6, kind="session"), _credential(49)]
    for credential in [*stays, *goes]:
        catalog.add_credential(credential)
    catalog.supersede(dataclasses.replace(token, used_by="b" * 32), "b" * 32)
    assert [catalog.credential(credential.digest) for credential in stays] == stays
    assert [catalog.credential(credential.digest) for credential in goes] == [None] * 3


def test_removal_and_purge(catalog: Catalog) -> None:
    for number in range(1, 7):
        catalog.add_credential(_credential(number, kind="boot" if number % 2 else "ticket", subject=f"s{number}"))
    assert catalog.remove_credentials("boot", "s1") == 1
    assert catalog.remove_credentials("boot", "s1") == 0
    assert catalog.purge(3.0) == 2
    assert catalog.remove_credentials("ticket") == 2
    assert catalog.remove_credentials("boot") == 1
