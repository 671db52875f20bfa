# SPDX-License-Identifier: Apache-2.0
"""The head sends once and the switch copies: udpcast and uftp.

Receivers wait before the clock starts; the clock starts with the sender, as its announcing is part of its time. Both
are given the rate of the links, which an administrator has to know (and must lower for the slowest).
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import ClassVar

from lab import netns
from lab.swarm.others_race import Other, Race, Taker, grown

_UDPCAST_PORT = 9000
_MEETING = ("--interface", netns.DEVICE, "--mcast-rdv-address", "224.0.0.1", "--nokbd", "--no-progress")
_UFTP_PORT = 1044


class Udpcast(Other):
    """udp-sender MEETING --file FILE --full-duplex --min-receivers N --max-bitrate 97% --rexmit-hello-interval 100.

    On a node: udp-receiver MEETING --file COPY. MEETING: --interface eth0 --mcast-rdv-address 224.0.0.1 --nokbd
    --no-progress. Without that address the receivers look for a broadcast address on the card and, where it has none
    (ip-address(8) sets none), never hear the sender.
    """

    name = "udpcast"
    programs: ClassVar = {"udp-sender": "udpcast", "udp-receiver": "udpcast"}
    share = 97  # percent of the rate, headers counted

    def serve(self, race: Race) -> None:
        """Hold the sender."""
        words = ["--full-duplex", "--min-receivers", str(len(race.nodes)), "--rexmit-hello-interval", "100"]
        rate = str(self.rate * self.share // 100)
        sender = ["udp-sender", *_MEETING, "--file", str(race.file), *words, "--max-bitrate", rate]
        race.held(race.head, sender, "udp-sender")

    def take(self, race: Race, number: int) -> Taker:
        """A receiver, waiting."""
        copy, name = race.copy(number), f"udp-receiver{number}"
        child = race.start(race.nodes[number], ["udp-receiver", *_MEETING, "--file", copy], name)
        race.listening(child, _UDPCAST_PORT, name)
        return Taker(child, race.log(name), copy, grown(copy, race.size))


class Uftp(Other):
    """uftp -R 95% -I eth0 -H NODES -r 0.05 -B 4194304 FILE, with the nodes named so that it does not wait for others.

    On a node: uftpd -d -q -I eth0 -U ID -D DIRECTORY -B 4194304 -s HOOK; the hook runs when the file is whole.
    """

    name = "uftp"
    programs: ClassVar = {"uftp": "uftp", "uftpd": "uftp"}
    share = 95  # percent of the rate, headers not counted
    _BUFFER = "4194304"

    def serve(self, race: Race) -> None:
        """Hold the sender."""
        nodes = ",".join(_identity(node) for node in race.nodes)
        rate = str(self.rate * self.share // 100 // 1000)
        words = ["-R", rate, "-I", netns.DEVICE, "-H", nodes, "-r", "0.05", "-B", self._BUFFER]
        race.held(race.head, ["uftp", *words, race.file], "uftp")

    def take(self, race: Race, number: int) -> Taker:
        """A receiver, waiting."""
        node, copy, name = race.nodes[number], race.copy(number), f"uftpd{number}"
        hook, made = race.hook(number)
        words = ["-I", netns.DEVICE, "-U", _identity(node), "-D", str(copy.parent), "-B", self._BUFFER, "-s", str(hook)]
        child = race.start(node, ["uftpd", "-d", "-q", *words], name)
        race.listening(child, _UFTP_PORT, name)
        return Taker(child, race.log(name), copy, made.exists)


def _identity(node: netns.Host) -> str:
    return f"0x{int(IPv4Address(node.address)):08X}"
