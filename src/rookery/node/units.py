# SPDX-License-Identifier: Apache-2.0
"""The systemd units by which the agent lives on beside the image: text only (systemd.unit(5), systemd.exec(5)).

They lie in /run/systemd/system, so nothing of ours is in the image and nothing stays after the next boot.
"""

from __future__ import annotations

from rookery.node.places import AGENT, BLOBS, STATE
from rookery.wire.orders import SeedPolicy

READY = "rookery-ready.service"
SEED = "rookery-seed.service"
WANTED_BY = "default.target.wants"


def ready() -> str:
    """The unit that reports `ready`. It runs in the image's root, to ask the image's systemctl; the agent's Python is
    started through the loader that came with it, so that the image's C library does not matter."""
    return f"""[Unit]
Description=Rookery: tell the head that this node is ready
DefaultDependencies=no
After=default.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=exec
ExecStart={AGENT}/ready
Restart=on-failure
RestartSec=5
Nice=10
"""


def seed(policy: SeedPolicy) -> str:
    """The unit that goes on giving, within `policy`: its own root, no right that it does not need, and last in line for
    processor and disk."""
    return f"""[Unit]
Description=Rookery: give the image to other machines
After=network.target

[Service]
Type=exec
RootDirectory={AGENT}
MountAPIVFS=yes
BindReadOnlyPaths={BLOBS}
BindPaths={STATE}
ExecStart=/init seed
Restart=on-failure
RestartSec=5
Slice=-.slice
CPUWeight=1
CPUQuota={policy.cpu}%
MemoryMax={policy.memory}
Nice=19
CPUSchedulingPolicy=idle
IOSchedulingClass=idle
OOMScoreAdjust=500
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
"""
