# SPDX-License-Identifier: Apache-2.0
"""Makes a root nobody's: what would be one machine's identity, secret or history does not travel in an image.

The same removals make an image reproducible: what is random or of the hour of the build is gone, and times are set.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rookery.head.build.recipe import IdentityRules

_RECORDS_BEFORE = tuple(f"etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid"))

# Relative to the root; the last part and those before it may be patterns (fnmatch). A directory goes with all in it.
# docs/reference/identity.md says the same to people, with reasons; a test holds the two together.
REMOVED = (
    # who a machine is, and what proves it: made anew on every node
    *(
        "etc/hostname",
        "etc/rookery-release",
        "etc/mailname",
        "etc/hostid",
        "var/lib/dbus/machine-id",
        "etc/popularity-contest.conf",
    ),
    *("etc/ssh/ssh_host_*", "root/.ssh/id_*", "etc/krb5.keytab", "etc/munge/munge.key"),
    *("etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"),
    *("etc/iscsi/initiatorname.iscsi", "etc/nvme/host*", "var/lib/systemd/credential.secret"),
    *("etc/salt/minion_id", "etc/salt/pki/minion", "etc/puppetlabs/puppet/ssl", "var/lib/puppet/ssl"),
    *("var/lib/cloud/instance", "var/lib/cloud/instances", "var/lib/cloud/data", "var/lib/samba/private/secrets.tdb"),
    # random seeds: the same one on a thousand machines is none
    *("var/lib/systemd/random-seed", "var/lib/urandom/*", "var/lib/random-seed"),
    *("boot/loader/random-seed", "boot/efi/loader/random-seed", "efi/loader/random-seed"),
    # the devices of one machine
    *("etc/udev/rules.d/70-persistent-*.rules", "etc/udev/rules.d/75-persistent-*.rules"),
    *("etc/lvm/devices/system.devices", "etc/lvm/archive/*", "etc/lvm/backup/*"),
    *("etc/multipath/bindings", "etc/multipath/wwids", "var/lib/systemd/backlight/*", "var/lib/systemd/rfkill/*"),
    # leases
    *("var/lib/dhcp/*", "var/lib/dhclient/*", "var/lib/dhcpcd/*", "var/db/dhcpcd/*", "var/lib/NetworkManager/*"),
    *("var/lib/wicked/*", "var/lib/systemd/network/*", "var/lib/misc/dnsmasq.leases"),
    # history
    *_RECORDS_BEFORE,
    *("etc/.pwd.lock", "var/lib/ucf/*.[0-9]", "var/lib/logrotate/status", "var/lib/logrotate.status"),
    *("root/.*_history", "root/.lesshst", "root/.viminfo", "root/.cache"),
    *("home/*/.*_history", "home/*/.lesshst", "home/*/.viminfo", "home/*/.cache"),
    *(
        "var/lib/systemd/timers/*",
        "var/lib/systemd/timesync/*",
        "var/lib/systemd/coredump/*",
        "var/lib/systemd/pstore/*",
    ),
    *("var/crash/*", "var/spool/mail/*", "var/spool/anacron/*", "var/lib/sudo/lectured/*", "var/lib/sudo/ts/*"),
    *("var/lib/chrony/drift", "var/lib/ntp/ntp.drift", "var/lib/ntpsec/ntp.drift", "var/lib/sss/db/*"),
    # caches, made again where they are missed
    *("var/cache/ldconfig/aux-cache", "var/cache/fontconfig/*", "var/cache/man/*"),
    *("var/lib/plocate/plocate.db", "var/lib/mlocate/mlocate.db"),
    *("var/cache/apt/*", "var/lib/apt/lists/*", "var/cache/dnf/*", "var/cache/libdnf5/*", "var/cache/yum/*"),
    *("var/cache/zypp/*",),
    # scratch
    *("run/*", "tmp/*", "tmp/.[!.]*", "var/tmp/*", "var/tmp/.[!.]*"),
)
_LOGS = "var/log"


def neutralise(tree: Path, rules: IdentityRules | None = None) -> None:
    """Take everything out of the root `tree` that must not travel. Needs nothing of the image to run.

    rules: what a recipe wants to keep all the same, and what else is to go.
    """
    rules = rules or IdentityRules()
    keep = tuple(pattern.strip("/") for pattern in rules.keep)
    remove(tree, [*REMOVED, *(pattern.strip("/") for pattern in rules.remove)], keep)
    for path in _below(tree / _LOGS):
        # Programs expect their directories, and make their files again.
        if not stat.S_ISDIR(os.lstat(path).st_mode) and not _kept(tree, path, keep):
            os.unlink(path)
    for path in _below(tree):
        # Python's own compiler does not give the same bytes twice, and the cache is made again where it is missed.
        if os.path.basename(path) == b"__pycache__" and stat.S_ISDIR(os.lstat(path).st_mode):
            _take(tree, path, keep)
    resolver, machine_id = tree / "etc/resolv.conf", tree / "etc/machine-id"
    if stat.S_ISREG(_mode(resolver)) and not _kept(tree, os.fsencode(resolver), keep):
        resolver.unlink()  # the head's own, lent to the build
    # Empty, not absent: systemd then makes an id at boot without taking it for a first boot, which would ask questions
    # on the console and preset all units (machine-id(5), "First Boot Semantics").
    if stat.S_ISDIR(_mode(tree / "etc")) and not _kept(tree, os.fsencode(machine_id), keep):
        machine_id.unlink(missing_ok=True)
        machine_id.touch()
        machine_id.chmod(0o444)


def settle_times(tree: Path, started: float) -> int:
    """Give what the build made or touched (since `started`, seconds since 1970) one time; returns it, in seconds.

    It is the time of the newest file that came in a package, so it depends on nothing but those. Directories get it
    always: theirs tells only in which order files arrived. systemd's stamps say that nothing in /usr is newer than what
    is in /etc and /var, which is true of an image and saves every boot the update services (systemd.unit(5),
    ConditionNeedsUpdate=).
    """
    for stamp in ("etc/.updated", "var/.updated"):
        if stat.S_ISDIR(_mode((tree / stamp).parent)):
            (tree / stamp).unlink(missing_ok=True)
            (tree / stamp).touch(0o644)
            os.utime(tree / stamp, (started, started))
    paths = [os.fsencode(tree), *_below(tree)]
    states = [os.lstat(path) for path in paths]
    packaged = [int(state.st_mtime) for state in states if stat.S_ISREG(state.st_mode) and state.st_mtime < started - 1]
    epoch = max(packaged, default=0)
    for path, state in zip(paths, states, strict=True):
        when = epoch if stat.S_ISDIR(state.st_mode) or state.st_mtime > epoch else int(state.st_mtime)
        if state.st_mtime_ns != when * 10**9:  # in a layer above another image, each change costs a copy
            os.utime(path, (when, when), follow_symlinks=False)
    return epoch


def remove(tree: Path, patterns: Iterable[str], keep: Sequence[str] = ()) -> None:
    """Remove what matches, never leaving `tree`: a symbolic link is removed itself and never followed.

    patterns: relative to the tree, part by part (`var/lib/dhcp/*`). keep: patterns of what stays, with what is above
    and below it; relative to the tree, a `*` there also stands for a slash.
    """
    for pattern in patterns:
        for path in _matching(os.fsencode(tree), pattern.split("/")):
            _take(tree, path, keep)


def _take(tree: Path, path: bytes, keep: Sequence[str]) -> bool:
    """Remove what is at `path`; a directory stays when something in it does. Returns whether it is gone."""
    if _kept(tree, path, keep):
        return False
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return True
    if not keep:
        shutil.rmtree(path)
        return True
    gone = [_take(tree, os.path.join(path, name), keep) for name in os.listdir(path)]
    if all(gone):
        os.rmdir(path)
    return all(gone)


def _kept(tree: Path, path: bytes, keep: Sequence[str]) -> bool:
    name = os.fsdecode(os.path.relpath(path, os.fsencode(tree)))
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*") for pattern in keep)


def _matching(directory: bytes, parts: list[str]) -> list[bytes]:
    if not stat.S_ISDIR(_mode(directory)):
        return []
    first, *rest = parts
    names = [name for name in os.listdir(directory) if fnmatch.fnmatchcase(os.fsdecode(name), first)]
    found = [os.path.join(directory, name) for name in sorted(names)]
    return found if not rest else [below for path in found for below in _matching(path, rest)]


def _below(directory: Path) -> Iterator[bytes]:
    """Everything below, a directory before what is in it; what is removed meanwhile is not visited."""
    if stat.S_ISDIR(_mode(directory)):
        for parent, names, others in os.walk(os.fsencode(directory)):
            for name in sorted([*names, *others]):
                yield os.path.join(parent, name)


def _mode(path: Path | bytes) -> int:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
