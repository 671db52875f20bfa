# SPDX-License-Identifier: Apache-2.0
"""Settling: what makes the image's root this node and no other. Looked at (`look`), then planned purely (`plan`)."""

from __future__ import annotations

import hashlib
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from rookery import acls
from rookery.node import network, units
from rookery.node.action import Action, Kind
from rookery.node.inside import inside
from rookery.node.network import Lease
from rookery.node.places import AGENT, HANDOVER
from rookery.wire.facts import Facts
from rookery.wire.manifest import Manifest
from rookery.wire.orders import Orders
from rookery.wire.report import Step

_INITS = ("/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_UNIT_DIRECTORIES = ("/usr/lib/systemd/system", "/lib/systemd/system")
_SYSTEM = "/etc/systemd/system"
_NETWORKD = "systemd-networkd.service"
# Elliptic keys only: an RSA key takes seconds of a slow processor, at each boot, and no client of today needs it.
HOST_KEYS = {"ed25519": "/etc/ssh/ssh_host_ed25519_key", "ecdsa": "/etc/ssh/ssh_host_ecdsa_key"}


@dataclass(frozen=True)
class Image:
    """What settling must know of an image. init: path of its init, or empty. systemd: whether that is systemd.
    networkd: `enabled`, `present` or empty; network_manager, ifupdown: whether they are there and enabled.
    resolv_link: whether /etc/resolv.conf is a symbolic link (somebody in the image owns it). ssh: whether it has
    ssh-keygen and sshd. host_key: whether it has SSH host keys. lists: whether it brings access control lists."""

    init: str = ""
    systemd: bool = False
    networkd: str = ""
    network_manager: bool = False
    ifupdown: bool = False
    resolv_link: bool = False
    ssh: bool = False
    host_key: bool = False
    lists: bool = False


def look(root: Path) -> Image:
    """Look at the image mounted at `root`."""
    init = next((path for path in _INITS if _is_file(root, path)), "")
    return Image(
        init=init,
        systemd="systemd" in inside(root, init).name if init else False,
        networkd=("enabled" if _enabled(root, _NETWORKD) else "present" if _has_unit(root, _NETWORKD) else ""),
        network_manager=_enabled(root, "NetworkManager.service"),
        ifupdown=_is_file(root, "/sbin/ifup") and _enabled(root, "networking.service"),
        resolv_link=(root / "etc/resolv.conf").is_symlink(),
        ssh=_is_file(root, "/usr/sbin/sshd") and _is_file(root, "/usr/bin/ssh-keygen"),
        lists=_is_file(root, f"/{acls.FILE}"),
        host_key=any(inside(root, "/etc/ssh").glob("ssh_host_*_key")),
    )


def plan(
    orders: Orders, manifest: Manifest, lease: Lease | None, facts: Facts | None, image: Image
) -> tuple[Action, ...]:
    """The steps settle and switch."""
    lists = Action(Step.SETTLE, Kind.RESTORE_LISTS, f"/{acls.FILE}", "a squashfs cannot hold access control lists")
    return (
        *((lists,) if image.lists else ()),
        _write("/etc/hostname", f"{orders.node}\n", "the name that the head knows this machine by"),
        _write("/etc/hosts", _hosts(orders), "the cluster's names, without asking anybody"),
        _write("/etc/machine-id", _machine_id(lease, facts), "of this machine, the same at each boot"),
        _write("/etc/rookery-release", _release(orders, manifest), "says which image, version and build is running"),
        *(_network(lease, image) if lease else ()),
        *_ssh(orders, image),
        *(
            Action(Step.SETTLE, Kind.WRITE, file.path, "ordered by the head", file.content, file.mode)
            for file in orders.files
        ),
        *_leave(orders, image),
    )


def _write(path: str, text: str, reason: str, mode: int = 0o644) -> Action:
    return Action(Step.SETTLE, Kind.WRITE, path, reason, text, mode)


def _hosts(orders: Orders) -> str:
    own = [] if any(orders.node in line.split()[1:] for line in orders.hosts) else [f"127.0.1.1\t{orders.node}"]
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", *own, *orders.hosts]
    return "".join(f"{line}\n" for line in lines)


def _machine_id(lease: Lease | None, facts: Facts | None) -> str:
    """32 hex digits from what is this machine's own: the system UUID, else the card's address. Empty (systemd makes a
    random one) where there is neither. An id inside an image would be the same on every node."""
    own = (facts.uuid if facts else "") or (lease.mac if lease else "")
    return f"{hashlib.sha256(f'rookery machine-id {own}'.encode()).hexdigest()[:32]}\n" if own else ""


def _release(orders: Orders, manifest: Manifest) -> str:
    """os-release(5)'s form: shells, systemd's EnvironmentFile= and the parsers of os-release read it."""
    values = {
        "NODE": orders.node,
        "IMAGE": orders.image,
        "VERSION": manifest.version,
        "BUILT": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(manifest.created)),
        "MODE": orders.mode,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _network(lease: Lease, image: Image) -> tuple[Action, ...]:
    """Who looks after the boot card in the running system. It keeps the address that it has: everything that is
    connected (the swarm, a network root) stays connected."""
    resolver = network.resolv_conf(lease)
    names: tuple[Action, ...] = ()
    if resolver and not image.resolv_link and not image.network_manager:
        names = (_write("/etc/resolv.conf", resolver, "the name servers that DHCP told"),)
    if image.network_manager:
        path = "/etc/NetworkManager/system-connections/rookery.nmconnection"
        return (*names, _write(path, _nmconnection(lease), "NetworkManager looks after the network", 0o600))
    if image.networkd:
        why = "systemd-networkd looks after the network"
        if image.networkd == "present":
            why = "nothing else in the image would keep the address, so systemd-networkd does"
        return (*names, _write("/etc/systemd/network/05-rookery.network", _networkd(lease), why), *_enable(image))
    if image.ifupdown:
        path = "/etc/network/interfaces.d/rookery"
        text = f"auto {lease.interface}\niface {lease.interface} inet dhcp\n"
        return (*names, _write(path, text, "ifupdown looks after the network"))
    return names


def _enable(image: Image) -> tuple[Action, ...]:
    """What `systemctl enable systemd-networkd` does."""
    if image.networkd == "enabled":
        return ()
    links = {
        f"multi-user.target.wants/{_NETWORKD}": _NETWORKD,
        "dbus-org.freedesktop.network1.service": _NETWORKD,
        "sockets.target.wants/systemd-networkd.socket": "systemd-networkd.socket",
        "network-online.target.wants/systemd-networkd-wait-online.service": "systemd-networkd-wait-online.service",
    }
    return tuple(
        Action(Step.SETTLE, Kind.LINK, f"{_SYSTEM}/{name}", f"starts {unit}", f"{_UNIT_DIRECTORIES[1]}/{unit}")
        for name, unit in links.items()
    )


def _networkd(lease: Lease) -> str:
    # The MAC, not its number, is this client's identity to the DHCP server, as it was for the firmware and the agent:
    # the server then gives the same address again. systemd.network(5).
    return f"""[Match]
MACAddress={lease.mac}
Type=ether

[Network]
DHCP=ipv4
KeepConfiguration=yes

[DHCPv4]
ClientIdentifier=mac
UseHostname=no
"""


def _nmconnection(lease: Lease) -> str:
    return f"""[connection]
id=rookery
type=ethernet
autoconnect-priority=100

[ethernet]
mac-address={lease.mac}

[ipv4]
method=auto
dhcp-client-id=mac

[ipv6]
method=auto
"""


def _ssh(orders: Orders, image: Image) -> tuple[Action, ...]:
    keys: tuple[Action, ...] = ()
    if image.ssh and not image.host_key:
        keys = tuple(
            Action(Step.SETTLE, Kind.MAKE_HOST_KEY, path, "this machine's SSH identity", kind)
            for kind, path in HOST_KEYS.items()
        )
    if not orders.authorized_keys:
        return keys
    lines = "".join(f"{line}\n" for line in orders.authorized_keys)
    return (*keys, _write("/root/.ssh/authorized_keys", lines, "who may log in as root", 0o600))


def _leave(orders: Orders, image: Image) -> tuple[Action, ...]:
    keep = Action(Step.SWITCH, Kind.KEEP_AGENT, str(AGENT), "the agent goes on beside the image")
    word = Action(Step.SWITCH, Kind.HAND_OVER, str(HANDOVER), "what the agent must know afterwards", mode=0o600)
    written = [
        Action(Step.SWITCH, Kind.WRITE_UNIT, units.READY, "tells the head when the image's init is done", units.ready())
    ]
    if orders.seed.enabled:
        text = units.seed(orders.seed)
        written.append(Action(Step.SWITCH, Kind.WRITE_UNIT, units.SEED, "gives the image to other machines", text))
    switch = Action(Step.SWITCH, Kind.SWITCH, image.init or "/sbin/init", "the image takes over")
    return (keep, word, *(written if image.systemd else ()), switch)


def _is_file(root: Path, path: str) -> bool:
    return inside(root, path).is_file()


def _has_unit(root: Path, name: str) -> bool:
    return any(_is_file(root, f"{directory}/{name}") for directory in _UNIT_DIRECTORIES)


def _enabled(root: Path, name: str) -> bool:
    if not _has_unit(root, name):
        return False
    # Only the link itself counts: what it names is a path in the image, which leads nowhere from here.
    return any((path / name).is_symlink() for path in inside(root, _SYSTEM).glob("*.wants"))
