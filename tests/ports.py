# SPDX-License-Identifier: Apache-2.0
"""Ports on loopback for servers that a test starts by number."""

import itertools
import os
import socket

# Below the range of which the kernel takes the ports of connections and of those who ask for any (ip_local_port_range):
# a port that is named here and not bound yet is given to nobody else. Each process of tests begins somewhere else.
FIRST, COUNT = 20_000, 12_000
_places = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port that nobody listens on, and another one each time."""
    for place in itertools.islice(_places, COUNT):
        port = FIRST + place % COUNT
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
