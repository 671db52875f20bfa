# SPDX-License-Identifier: Apache-2.0
import os
import sys
import time
from pathlib import Path

import pytest

from lab import netns
from rookery.errors import RookeryError
from rookery.run import run

pytestmark = pytest.mark.system

SEND = "import socket,sys;s=socket.create_connection((sys.argv[1],9));s.sendall(bytes(int(sys.argv[2])));s.close()"
TAKE = (
    "import socket,time;l=socket.create_server(('',9));print('ready',flush=True)\n"
    "s,_=l.accept();n=0;t=time.monotonic()\n"
    "while (b:=s.recv(65536)): n+=len(b)\n"
    "print(n/(time.monotonic()-t))"
)


def names() -> set[str]:
    return {path.name for path in Path("/run/netns").glob("rkroom-*")}


def test_hosts_reach_each_other_and_nothing_is_left() -> None:
    with netns.room() as lab:
        one, two = lab.host("10.77.0.1/24"), lab.host("10.77.0.2/24", "fd77::2/64")
        assert one.address == "10.77.0.1"
        run([*one.inside, "ping", "-c", "1", "-W", "2", two.address]) if netns.which("ping") else None
        made = {lab.hub, one.namespace, two.namespace}
        assert made <= names()
        sleeper = netns.spawn([*two.inside, "sleep", "1000"])
        child = sleeper.__enter__()
        time.sleep(0.2)
    assert not made & names()
    assert child.wait(5) != 0
    sleeper.__exit__(None, None, None)


def test_an_exception_leaves_nothing_either() -> None:
    made: set[str] = set()

    def fail_inside() -> None:
        with netns.room() as lab:
            made.update({lab.hub, lab.host("10.77.0.1/24").namespace})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert made
    assert not made & names()


@pytest.mark.parametrize("slow", ["sender", "taker"])
def test_a_link_is_shaped_both_ways(slow: str) -> None:
    rate = 16_000_000
    with netns.room() as lab:
        sender = lab.host("10.77.0.1/24", rate=rate if slow == "sender" else 0)
        taker = lab.host("10.77.0.2/24", rate=rate if slow == "taker" else 0)
        with lab.process(taker, [sys.executable, "-c", TAKE], stdout=-1) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            run([*sender.inside, sys.executable, "-c", SEND, taker.address, "2000000"])
            measured = float(child.stdout.readline()) * 8
    # An unshaped veth carries gigabits; the shape is what counts here, not how exact it is.
    assert measured < 2 * rate


def test_a_pulled_cable_carries_nothing_until_it_is_back() -> None:
    with netns.room() as lab:
        one, two = lab.host("10.77.0.1/24"), lab.host("10.77.0.2/24")
        knock = [*one.inside, sys.executable, "-c", SEND, two.address, "1"]
        lab.cut(two)
        with lab.process(two, [sys.executable, "-c", TAKE], stdout=-1) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert run([*one.inside, "timeout", "1", *knock[len(one.inside) :]], check=False).code != 0
            lab.cut(two, connected=True)
            run(knock)
            assert float(child.stdout.readline()) >= 0


def test_a_machine_has_a_tap_bridged_to_its_link() -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("this kernel has no tun device")
    with netns.room() as lab:
        place = lab.machine(rate=10_000_000)
        shown = run(["ip", "-n", place.namespace, "link", "show", "master", netns.BRIDGE]).stdout
        assert f" {netns.TAP}:" in shown
        assert f" {netns.DEVICE}@" in shown


def test_sweep_removes_rooms_of_the_dead_only() -> None:
    dead = f"rkroom-{9_000_000 + os.getpid()}-1-hub"  # above every process id that Linux gives
    run(["ip", "netns", "add", dead])
    try:
        with netns.room() as lab:
            assert lab.hub not in netns.sweep()
            assert lab.hub in names()
            assert dead not in names()
    finally:
        run(["ip", "netns", "del", dead], check=False)


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RookeryError, match="root"), netns.room():
        pass
