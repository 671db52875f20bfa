# SPDX-License-Identifier: Apache-2.0
"""Whatever comes in, the answer is a problem with words, and nothing has changed."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rookery.api import routes
from rookery.api.types import MOST_CHANGES, MOST_NODES
from rookery.wire import routes as wire

if TYPE_CHECKING:
    from conftest import RunningHead

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
POSTS = [
    ("POST", routes.NODES),
    ("PATCH", routes.NODES),
    ("POST", routes.DEPLOY),
    ("POST", routes.STOP_SEEDING),
    ("POST", routes.BUILDS),
    ("POST", routes.PUBLICATIONS),
    ("POST", routes.VERIFICATIONS),
    ("POST", routes.TREES),
    ("POST", routes.TREE_PUBLICATIONS),
    ("POST", routes.CAPTURES),
    ("POST", routes.TICKETS),
    ("POST", routes.TAGS.format(name="base")),
    ("POST", wire.HELLO),
]
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(head: RunningHead, method: str, path: str, content: bytes) -> dict[str, Any]:
    answer = head.ask(method, path, head.token, content)
    assert 400 <= answer.status_code < 500, (path, content, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    return problem


@MANY
@given(which=st.sampled_from(POSTS), value=JSON)
def test_any_json(lasting_head: RunningHead, which: tuple[str, str], value: object) -> None:
    refused(lasting_head, *which, json.dumps(value).encode())


@MANY
@given(which=st.sampled_from(POSTS), content=st.binary(max_size=200))
def test_any_bytes(lasting_head: RunningHead, which: tuple[str, str], content: bytes) -> None:
    refused(lasting_head, *which, content)


@MANY
@given(
    path=st.sampled_from([wire.SCRIPT, wire.ANNOUNCE + "/x", wire.FETCH + "/x", routes.NODES, routes.EVENTS]),
    query=st.text(alphabet=string.printable.replace("#", ""), max_size=100),
)
def test_any_query(lasting_head: RunningHead, path: str, query: str) -> None:
    answer = lasting_head.get(f"{path}?{quote(query, safe='=&%')}", lasting_head.token)
    assert answer.status_code < 500


@pytest.mark.parametrize(
    ("method", "path", "value", "named"),
    [
        ("POST", routes.NODES, {"nodes": "n1", "more": 1}, "more"),
        ("POST", routes.NODES, {"nodes": 7}, "nodes"),
        ("POST", routes.NODES, {}, "nodes"),
        ("POST", routes.NODES, {"nodes": "n1", "machines": [{"node": "n1", "macs": 7}]}, "machines[0].macs"),
        ("POST", routes.NODES, {"nodes": "n1", "machines": [{"node": "n1"}] * (MOST_NODES + 1)}, "items"),
        ("PATCH", routes.NODES, {"nodes": "n1", "settings": {str(n): "" for n in range(MOST_CHANGES + 1)}}, "entries"),
        ("PATCH", routes.NODES, {"nodes": "n" * 10_000, "settings": {}}, "characters"),
        ("POST", routes.TICKETS, {"image": "base", "seconds": 1}, "seconds"),
        ("POST", routes.PUBLICATIONS, {"source": "/etc/passwd", "name": "../../x"}, "plain name"),
        ("POST", routes.BUILDS, {"name": "base", "recipe": "x" * (2 << 20)}, "characters"),
    ],
)
def test_limits_are_named(lasting_head: RunningHead, method: str, path: str, value: object, named: str) -> None:
    problem = refused(lasting_head, method, path, json.dumps(value).encode())
    assert named in problem["title"]


def test_a_body_beyond_the_limit(lasting_head: RunningHead) -> None:
    assert refused(lasting_head, "POST", wire.REPORT, b"x" * (300 << 10))["kind"] == "too-large"
    assert refused(lasting_head, "POST", routes.NODES, b"x" * (9 << 20))["kind"] == "too-large"


def test_deep_nesting(lasting_head: RunningHead) -> None:
    assert refused(lasting_head, "POST", routes.NODES, b"[" * 100_000)["kind"] == "invalid"


@pytest.mark.parametrize(
    "query", ["wait=61", "wait=-1", "wait=nan", "after=x", "after=-1", "limit=0", "limit=1001", "subject=" + "x" * 300]
)
def test_query_limits(lasting_head: RunningHead, query: str) -> None:
    answer = lasting_head.get(f"{routes.EVENTS}?{query}", lasting_head.token)
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid")
    assert query.split("=")[0] in answer.json()["title"]


def test_nothing_came_of_all_this(lasting_head: RunningHead) -> None:
    assert lasting_head.operator.nodes().nodes == ()
    assert lasting_head.operator.images().images == ()
    assert lasting_head.operator.jobs().jobs == ()
