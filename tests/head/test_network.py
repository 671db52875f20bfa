# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import ipaddress
import os
import socket

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head import network
from rookery.head.config import Config, Network


def test_the_address_of_an_interface() -> None:
    assert network.address_of(Config(network=Network(interface="lo"))) == "127.0.0.1"
    assert network.address_of(Config(network=Network(interface="rk-none", address="10.0.0.1"))) == "10.0.0.1"


@pytest.mark.parametrize(("interface", "kind"), [("rk-none", ErrorKind.NOT_FOUND), ("", ErrorKind.INVALID)])
def test_no_address(interface: str, kind: ErrorKind) -> None:
    with pytest.raises(RookeryError) as raised:
        network.address_of(Config(network=Network(interface=interface)))
    assert raised.value.kind is kind
    assert "rookery.toml" in raised.value.record.hint


def test_the_usual_address_is_one_of_this_host() -> None:
    found = network.usual_address()
    assert ipaddress.IPv4Address(found)
    with network.take_port(found, 0):
        pass


def test_a_taken_port_is_refused_until_somebody_answers() -> None:
    with network.take_port("127.0.0.1", 0) as wire:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(wire.getsockname(), timeout=5)
        wire.listen()
        socket.create_connection(wire.getsockname(), timeout=5).close()


def test_answers_are_not_held_back() -> None:
    async def option() -> int:
        with network.take_port("127.0.0.1", 0) as wire:
            made = asyncio.get_running_loop().create_future()
            server = await asyncio.start_server(lambda _, writer: made.set_result(writer), sock=wire)
            async with server:
                _, mine = await asyncio.open_connection(*wire.getsockname())
                theirs = await made
                held = theirs.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                for writer in (mine, theirs):
                    writer.close()
                    await writer.wait_closed()
            return int(held)

    assert asyncio.run(option()) != 0


def test_a_port_in_use_names_by_whom() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(RookeryError) as raised:
        network.take_port("127.0.0.1", other.getsockname()[1])
    assert raised.value.kind is ErrorKind.CONFLICT
    assert f"(pid {os.getpid()})" in str(raised.value)


def test_an_address_of_nobody() -> None:
    with pytest.raises(RookeryError) as raised:
        network.take_port("192.0.2.1", 0)
    assert raised.value.kind is ErrorKind.NOT_FOUND
