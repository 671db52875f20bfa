# SPDX-License-Identifier: Apache-2.0
from typing import Any

import libtorrent as lt
import pytest

from rookery.relay.frames import BACKGROUND
from rookery.wire import engine


def test_every_setting_is_named_once_and_explained() -> None:
    for group in (engine.COMMON + engine.HEAD, engine.COMMON + engine.NODE):
        names = [setting.name for setting in group]
        assert len(set(names)) == len(names)
        assert all(len(setting.why) > 5 for setting in group)


@pytest.mark.parametrize("settings", [engine.head_settings("127.0.0.1", 0), engine.node_settings("127.0.0.1", 0)])
def test_libtorrent_takes_every_setting(settings: Any) -> None:
    known: Any = lt.default_settings()
    # libtorrent only logs a setting that it does not know.
    assert set(settings) <= set(known)
    assert {name: type(known[name]) for name in settings} == {name: type(value) for name, value in settings.items()}
    taken: Any = lt.session(settings).get_settings()
    assert {name: taken[name] for name in settings} == settings


def test_most_settings_differ_from_libtorrents_own() -> None:
    known: Any = lt.default_settings()
    same = [one.name for one in engine.COMMON + engine.HEAD + engine.NODE if known[one.name] == one.value]
    assert same == ["strict_end_game_mode"], "listed because it was measured, though it is the default"


def test_what_a_swarm_sends_is_background_traffic() -> None:
    assert engine.node_settings()["peer_dscp"] == engine.head_settings("10.0.0.1", 8471)["peer_dscp"] == BACKGROUND


def test_rates_and_addresses_get_in() -> None:
    assert engine.head_settings("10.0.0.1", 8471, 5)["upload_rate_limit"] == 5
    assert engine.head_settings("fd00::1", 8471)["listen_interfaces"] == "[fd00::1]:8471"
    assert engine.node_settings()["listen_interfaces"] == f"0.0.0.0:{engine.NODE_PORT}"


def test_more_requests_wait_at_nodes_than_at_the_head() -> None:
    head, node = engine.head_settings("127.0.0.1", 0), engine.node_settings("127.0.0.1", 0)
    allowed = "max_allowed_in_request_queue"
    assert int(node[allowed]) > int(head[allowed]) >= int(head["max_out_request_queue"])
