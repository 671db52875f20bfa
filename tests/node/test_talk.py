# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from rookery import codec
from rookery.errors import ErrorKind, ErrorRecord, RookeryError
from rookery.node import talk
from rookery.node.talk import Head, Line, problem
from rookery.wire import routes
from rookery.wire.facts import Facts
from rookery.wire.orders import Answer, Hello, Welcome, Word
from rookery.wire.relay import Ask
from rookery.wire.report import Report, Step
from tests.node.answering import Answering, Keeping, serving

FACTS = Facts("x86_64", "bios", 1, "cpu", 1 << 30, "6.1", "0.1.0")
WELCOME = Welcome("n01", "session", 3600, 1.7e9)


@pytest.fixture
def server() -> Iterator[Answering]:
    yield from serving(Answering())


def test_hello_shows_the_token(server: Answering) -> None:
    server.body = codec.dumps(WELCOME).encode()
    hello = Hello("token", "ab" * 16, FACTS)
    assert Head(server.url).hello(hello) == WELCOME
    ((method, path, credential, body),) = server.asked
    assert (method, path, credential) == ("POST", routes.HELLO, "")
    assert codec.loads(Hello, body) == hello


def test_report_shows_the_credential(server: Answering) -> None:
    server.body = codec.dumps(Answer(Word.STOP_SEEDING)).encode()
    answer = Head(server.url, "session").report(Report("ab" * 16, 1, Step.FETCH))
    assert answer.word is Word.STOP_SEEDING
    assert server.asked[0][:3] == ("POST", routes.REPORT, "Bearer session")


def test_a_problem_is_the_heads_own_record(server: Answering) -> None:
    server.status = 409
    server.body = json.dumps(
        {"title": "no version", "status": 409, "kind": "conflict", "details": "d", "hint": "deploy", "detail": "x"}
    ).encode()
    with pytest.raises(RookeryError) as caught:
        Head(server.url, "session").orders()
    assert caught.value.record == ErrorRecord(ErrorKind.CONFLICT, "no version", "d", "deploy")
    assert talk.none_yet(caught.value.record)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"<html>", ErrorKind.UNAUTHORIZED),
        (502, b"", ErrorKind.UNAVAILABLE),
        (404, b"[]", ErrorKind.NOT_FOUND),
        (418, b'{"title": "tea", "kind": "no such kind"}', ErrorKind.FAILED),
        (503, b'{"title": 7, "details": null}', ErrorKind.UNAVAILABLE),
    ],
)
def test_what_is_no_problem_json_is_its_status(status: int, body: bytes, kind: ErrorKind) -> None:
    assert problem(status, body, "GET /x").kind is kind


def test_orders_that_make_no_sense_are_refused(server: Answering) -> None:
    server.body = b'{"node": 3}'
    with pytest.raises(RookeryError, match="head's orders") as caught:
        Head(server.url, "session").orders()
    assert caught.value.kind is ErrorKind.INVALID


def test_a_head_that_breaks_off(server: Answering) -> None:
    server.body, server.length = b"abc", 10
    with pytest.raises(RookeryError, match="does not answer") as caught:
        Head(server.url).get("/x")
    assert caught.value.kind is ErrorKind.UNAVAILABLE


def test_a_head_that_is_not_there(server: Answering) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(RookeryError, match="does not answer") as caught:
        Head(server.url).get("/x")
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "rookery serve" in caught.value.record.hint


def test_too_large(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "MOST_ANSWER", 10)
    server.body = b"x" * 11
    with pytest.raises(RookeryError, match="too large"):
        Head(server.url).get("/x")


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    yield from serving(Keeping())


ASK = Ask(8473, 0, 10)


def test_a_line_is_one_connection(keeping: Keeping) -> None:
    head, line = Head(keeping.url), Line()
    for _ in range(3):
        assert head.place("a" * 64, ASK, line).seconds == 0.3
    assert keeping.connections == 1
    keeping.status = 404
    with pytest.raises(RookeryError):
        head.place("a" * 64, ASK, line)
    keeping.status = 200
    head.place("a" * 64, ASK, line)
    assert keeping.connections == 1, "an answer is an answer"
    line.close()
    head.place("a" * 64, ASK, line)
    assert keeping.connections == 2
    line.close()
    for number in (3, 4):
        head.place("a" * 64, ASK)
        assert keeping.connections == number
    assert len(keeping.asked) == 8


def test_a_line_that_the_head_hung_up(keeping: Keeping) -> None:
    head, line = Head(keeping.url), Line()
    keeping.drop = True
    for number in (1, 2, 3):
        assert head.place("a" * 64, ASK, line).seconds == 0.3
        assert (keeping.connections, len(keeping.asked)) == (number, number)
    line.close()


def test_what_breaks_off_is_not_kept(keeping: Keeping) -> None:
    head, line = Head(keeping.url), Line()
    head.place("a" * 64, ASK, line)
    keeping.drop, keeping.length = True, 1000
    with pytest.raises(RookeryError, match="does not answer"):
        head.place("a" * 64, ASK, line)
    assert len(keeping.asked) == 2, "an ask that came through is not asked twice"
    keeping.drop, keeping.length = False, -1
    assert head.place("a" * 64, ASK, line).seconds == 0.3
    line.close()


def test_a_head_that_went_away_with_the_line(keeping: Keeping) -> None:
    head, line = Head(keeping.url), Line()
    keeping.drop = True
    head.place("a" * 64, ASK, line)
    keeping.shutdown()
    keeping.server_close()
    with pytest.raises(RookeryError, match="does not answer") as caught:
        head.place("a" * 64, ASK, line)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
