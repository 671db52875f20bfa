# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.fleet.credentials import BOOT_SECONDS, BOOT_TOKENS, SESSION_SECONDS, Credentials, Kind

A, B = "a" * 32, "b" * 32


@pytest.fixture
def credentials(catalog: Catalog, clock: Callable[[], float]) -> Credentials:
    return Credentials(catalog, clock)


def _kind(call: Callable[..., object], *arguments: object) -> ErrorKind:
    with pytest.raises(RookeryError) as caught:
        call(*arguments)
    return caught.value.kind


def test_a_boot_token_becomes_a_session_once(credentials: Credentials) -> None:
    token = credentials.boot_token("n1")
    name, session = credentials.hello(token, A)
    assert name == "n1"
    found = credentials.check(session)
    assert (found.kind, found.subject, found.used_by) == (Kind.SESSION, "n1", A)
    assert _kind(credentials.hello, token, B) is ErrorKind.UNAUTHORIZED


def test_the_same_boot_may_say_hello_again(credentials: Credentials) -> None:
    """Its answer may have been lost; a session that did arrive stays good."""
    token = credentials.boot_token("n1")
    sessions = [credentials.hello(token, A)[1] for _ in range(3)]
    assert len(set(sessions)) == 3
    assert {credentials.check(session).subject for session in sessions} == {"n1"}


def test_a_new_boots_hello_ends_the_session_before_it(credentials: Credentials) -> None:
    old_token = credentials.boot_token("n1")
    _, old = credentials.hello(old_token, A)
    _, other = credentials.hello(credentials.boot_token("n2"), A)
    token = credentials.boot_token("n1")
    assert credentials.check(old).subject == "n1"  # whoever asked for a script has proved nothing
    _, new = credentials.hello(token, B)
    assert _kind(credentials.check, old) is ErrorKind.UNAUTHORIZED
    assert credentials.check(new).subject == "n1"
    assert credentials.check(other).subject == "n2"
    # Who recorded the first hello cannot play it again to push the running boot out.
    assert _kind(credentials.hello, old_token, A) is ErrorKind.UNAUTHORIZED
    assert credentials.check(new)


def test_everything_expires(credentials: Credentials, clock) -> None:
    token, ticket = credentials.boot_token("n1"), credentials.ticket("f" * 64, 60)
    spent = credentials.boot_token("n2")
    session = credentials.hello(spent, A)[1]
    clock.now += 59
    assert credentials.check(ticket).subject == "f" * 64
    clock.now += 1
    assert _kind(credentials.check, ticket) is ErrorKind.UNAUTHORIZED
    clock.now += BOOT_SECONDS - 60
    assert _kind(credentials.hello, token, A) is ErrorKind.UNAUTHORIZED
    assert _kind(credentials.hello, spent, A) is ErrorKind.UNAUTHORIZED
    clock.now += SESSION_SECONDS - BOOT_SECONDS - 1
    assert credentials.check(session)
    clock.now += 1
    assert _kind(credentials.check, session) is ErrorKind.UNAUTHORIZED


def test_what_has_expired_is_forgotten(credentials: Credentials, catalog: Catalog, clock) -> None:
    credentials.boot_token("n1")
    clock.now += 2 * 3600
    credentials.boot_token("n2")
    assert catalog.remove_credentials("boot", "n1") == 0
    assert catalog.remove_credentials("boot", "n2") == 1


def test_each_kind_is_good_for_its_own(credentials: Credentials) -> None:
    token, operator = credentials.boot_token("n1"), credentials.operator()
    session = credentials.hello(credentials.boot_token("n2"), A)[1]
    assert _kind(credentials.check, token) is ErrorKind.UNAUTHORIZED
    assert _kind(credentials.hello, session, A) is ErrorKind.UNAUTHORIZED
    assert _kind(credentials.hello, operator, A) is ErrorKind.UNAUTHORIZED
    assert credentials.require(operator, Kind.OPERATOR, Kind.SESSION).kind == Kind.OPERATOR
    assert _kind(credentials.require, session, Kind.OPERATOR) is ErrorKind.FORBIDDEN


def test_a_new_operator_token_ends_the_old_one(credentials: Credentials) -> None:
    old, new = credentials.operator(), credentials.operator()
    assert _kind(credentials.check, old) is ErrorKind.UNAUTHORIZED
    assert credentials.check(new).kind == Kind.OPERATOR


@pytest.mark.parametrize("secret", ["", "x", "x" * 257, "x" * 10**6, "\x00", "\ud800", "ä" * 43])
def test_rubbish_is_unauthorized(credentials: Credentials, secret: str) -> None:
    assert _kind(credentials.check, secret) is ErrorKind.UNAUTHORIZED
    assert _kind(credentials.hello, secret, A) is ErrorKind.UNAUTHORIZED


@pytest.mark.parametrize("boot_id", ["", "a" * 31, "a" * 33, "g" * 32, "A" * 32, "a" * 31 + "\n"])
def test_a_bad_boot_id_spends_nothing(credentials: Credentials, boot_id: str) -> None:
    token = credentials.boot_token("n1")
    assert _kind(credentials.hello, token, boot_id) is ErrorKind.INVALID
    assert credentials.hello(token, A)[0] == "n1"


def test_asking_without_end_fills_nothing(credentials: Credentials, catalog: Catalog, clock) -> None:
    tokens = []
    for _ in range(BOOT_TOKENS * 3):
        clock.now += 0.1
        tokens.append(credentials.boot_token("n1"))
    assert credentials.hello(tokens[-BOOT_TOKENS], A)
    assert catalog.remove_credentials("boot", "n1") == BOOT_TOKENS


def test_no_secret_is_stored(credentials: Credentials, tmp_path: Path) -> None:
    token = credentials.boot_token("n1")
    secrets = [token, credentials.hello(token, A)[1], credentials.ticket("f" * 64, 60), credentials.operator()]
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert dump.count('INSERT INTO "credentials"') == 4
    assert [secret for secret in secrets if secret in dump] == []
