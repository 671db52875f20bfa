# SPDX-License-Identifier: Apache-2.0
"""What the package databases inside a root say is installed."""

from __future__ import annotations

from pathlib import Path

from rookery.run import run, which

_RPM = ("usr/lib/sysimage/rpm", "var/lib/rpm")


def packages(root: Path, place: str = "") -> dict[str, str]:
    """Name -> version of every installed package, from dpkg's database or rpm's; empty where there is neither, or where
    this host lacks the program that reads it. place: where rpm's database is in this root, when that is known."""
    if (root / "var/lib/dpkg/status").is_file() and which("dpkg-query"):
        form = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
        said = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", f"--showformat={form}"], check=False)
        found = (line.split("\t") for line in sorted(said.stdout.splitlines()))
        return {name: version for state, name, version in found if state.strip().endswith("i")}
    for directory in (place,) if place else _RPM:
        if (root / directory).is_dir() and which("rpm"):
            form = "%{NAME}\t%{EVR}\n"
            said = run(["rpm", f"--dbpath={root / directory}", "--query", "--all", "--queryformat", form], check=False)
            pairs = (line.partition("\t") for line in sorted(said.stdout.splitlines()))
            # rpm keeps the keys that it trusts as packages of this name.
            if found_here := {name: version for name, tab, version in pairs if tab and name != "gpg-pubkey"}:
                return found_here
    return {}
