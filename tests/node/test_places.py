# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from rookery.head.boot import agent
from rookery.node import places


def test_head_and_node_agree_on_places() -> None:
    assert str(places.AGENT) == agent.AGENT
    assert str(places.SITE_KEY) == f"/{agent.SITE_KEY}"
    assert str(places.NEW_ROOT)[1:] in agent.DIRECTORIES
    assert str(places.RUN)[1:] in agent.DIRECTORIES
