# SPDX-License-Identifier: Apache-2.0
"""What is installed in a root: names and versions out of its package database, and which distribution it is."""

from __future__ import annotations

import threading
from pathlib import Path

from rookery.head.build import inside, rooted
from rookery.head.build.inside import Surroundings
from rookery.run import run, which

MOST_RELEASE = 1 << 16  # bytes of an os-release file
_DPKG = "var/lib/dpkg/status"
_RPM = ("usr/lib/sysimage/rpm", "var/lib/rpm")


def packages(root: Path, place: str = "", cancel: threading.Event | None = None) -> dict[str, str]:
    """Name -> version of all packages in a root, sorted by name; empty where it has no database that is known.

    dpkg's database is text. rpm's, whose form changes, is read by this host's rpm, or else by the root's own. place:
    where rpm's is in this root, when that is known. Raises RookeryError `cancelled`.
    """
    if text := _text(root, _DPKG, 1 << 28):
        return dict(sorted(_dpkg(text)))
    words = ["rpm", "--query", "--all", "--queryformat", r"%{NAME}\t%{EVR}\n"]
    for name in (place,) if place else _RPM:
        if (directory := rooted.directory(root, name)) and which("rpm"):
            said = run([*words, f"--dbpath={directory}"], check=False, cancel=cancel).stdout
            if found := _rpm(said):
                return found
    if inside.has_program(root, "rpm"):
        return _rpm(inside.execute(root, words, Surroundings(), cancel or threading.Event()).stdout)
    return {}


def _rpm(text: str) -> dict[str, str]:
    # rpm keeps the keys that it trusts as packages of this name.
    pairs = [line.partition("\t") for line in text.splitlines() if "\t" in line]
    return dict(sorted((name, version) for name, _, version in pairs if name != "gpg-pubkey"))


def _dpkg(text: str) -> list[tuple[str, str]]:
    found = []
    for stanza in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in stanza.splitlines() if line[:1] not in (" ", "\t", ""))
        if fields.get("Status", "").endswith(" installed"):
            found.append((fields["Package"], fields.get("Version", "")))
    return found


def os_release(root: Path) -> dict[str, str]:
    """The values of a root's os-release(5); empty when it has none."""
    return release_values(
        _text(root, "usr/lib/os-release", MOST_RELEASE) or _text(root, "etc/os-release", MOST_RELEASE)
    )


def release_values(text: str) -> dict[str, str]:
    """The values of an os-release(5), which is shell syntax; those that are read here are plain or quoted words."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            values[name.strip()] = value.strip().strip("\"'")
    return values


def _text(root: Path, name: str, most: int) -> str:
    """A file of the root; empty when there is none."""
    found = rooted.file(root, name)
    if found is None:
        return ""
    with found.open("rb") as file:
        return file.read(most).decode(errors="replace")
