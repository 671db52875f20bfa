# SPDX-License-Identifier: Apache-2.0
"""The archives of deb packages that a recipe's build uses: those it names, or else those that this head itself uses.

Whoever runs the head has already said, for apt, which archive is near and allowed; asking again would only be a second
place to be wrong. Formats: sources.list(5), one-line and deb822.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import keys
from rookery.head.build.installed import release_values
from rookery.head.build.recipe import Recipe
from rookery.run import run, which

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)")
# Only how to reach an archive and how to judge its age; all else of the head's apt has no place in an image's build.
_ACQUIRE = re.compile(
    r"Acquire::(?:(?:http|https)::[^\"]*|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|Max-FutureTime)\s+\"[^\"]*\";"
)


@dataclass(frozen=True)
class Archive:
    """One archive of binary packages. signed_by: path of a keyring, or an armored key as deb822 writes it
    (`deb822_key`); may be empty."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    options: dict[str, str] = field(default_factory=dict)

    def stanza(self) -> str:
        """As a deb822 stanza."""
        fields = {
            "Types": "deb",
            "URIs": " ".join(self.uris),
            "Suites": " ".join(self.suites),
            **self.options,
        }
        if self.components:
            fields["Components"] = " ".join(self.components)
        if self.signed_by:
            fields["Signed-By"] = self.signed_by
        return "".join(f"{name}: {value}\n" for name, value in fields.items())


@dataclass(frozen=True)
class Family:
    """A distribution of deb packages. components: its usual ones. archive: its address for an architecture (as in
    `uname -m`). keyring: where its package `keyring_package` puts the keys of it. Empty: mmdebstrap knows them."""

    components: tuple[str, ...]
    archive: dict[str, str] = field(default_factory=dict)
    keyring: str = ""
    keyring_package: str = ""


FAMILIES = {
    "debian": Family(("main",)),
    "ubuntu": Family(
        ("main", "universe"),
        {"x86_64": "http://archive.ubuntu.com/ubuntu", "aarch64": "http://ports.ubuntu.com/ubuntu-ports"},
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "ubuntu-keyring",
    ),
}


def components(recipe: Recipe) -> tuple[str, ...]:
    """The archive areas that a recipe uses."""
    return recipe.components or FAMILIES[recipe.distribution].components


def of_recipe(recipe: Recipe) -> tuple[Archive, ...]:
    """The archives of the recipe's distribution; empty: those that mmdebstrap itself knows for the suite.

    Raises RookeryError `missing` when a keyring is not installed, `invalid` for a key of no archive, and as
    keys.armored.
    """
    family = FAMILIES[recipe.distribution]
    suites = (recipe.suite, f"{recipe.suite}-updates", f"{recipe.suite}-security")
    found: tuple[Archive, ...] = ()
    if recipe.mirror:
        found = (Archive((recipe.mirror,), (recipe.suite,), components(recipe)),)
    elif own := own_archives(recipe.distribution, recipe.suite, components(recipe)):
        found = own
    elif family.archive:
        found = (Archive((family.archive[recipe.architecture],), suites, components(recipe)),)
    if recipe.key and not found:
        raise RookeryError(
            f"'key' is given, and the recipe does not say which archive of {recipe.distribution} it signs",
            kind=ErrorKind.INVALID,
            hint="add 'mirror', or leave 'key' out: mmdebstrap knows the keys of the distribution's own archive",
        )
    if recipe.key:
        signed_by = deb822_key(keys.armored(recipe.key, f"of {recipe.distribution}"))
        return tuple(replace(archive, signed_by=signed_by) for archive in found)
    return tuple(replace(archive, signed_by=archive.signed_by or _keyring(recipe)) for archive in found)


def further(recipe: Recipe) -> dict[str, Archive]:
    """The recipe's further repositories: name -> archive. Raises as `of_recipe`."""
    return {
        one.name: Archive(
            (one.url,),
            one.suites or (recipe.suite,),
            () if any(suite.endswith("/") for suite in one.suites) else one.components or ("main",),
            deb822_key(keys.armored(one.key, f"of the repository {one.name}")) if one.key else "",
            {"Trusted": "yes"} if one.trusted else {},
        )
        for one in recipe.repositories
    }


def deb822_key(armor: str) -> str:
    """An armored key as the value of a field: apt reads it from there, and the image needs no file for it."""
    return "\n" + "\n".join(f" {line or '.'}" for line in armor.splitlines())


def _keyring(recipe: Recipe) -> str:
    family = FAMILIES[recipe.distribution]
    if family.keyring and not Path(family.keyring).is_file():
        raise RookeryError(
            f"the keys of {recipe.distribution}'s archive are not on this machine ({family.keyring})",
            kind=ErrorKind.MISSING,
            hint=f"install its package {family.keyring_package}, or name the key in the recipe's 'key'",
        )
    return family.keyring


def own_archives(
    distribution: str, suite: str, components: Iterable[str], etc: Path = Path("/etc")
) -> tuple[Archive, ...]:
    """The archives of this head that carry `suite`, its updates and its security fixes, in `components`.

    Empty when this head runs another distribution or release. Archives of others (their suites or components have other
    names) are left out: the recipe does not ask for them. A component that the head itself does not use is expected in
    the archives that have its first one, since whoever mirrors `main` has `non-free-firmware` beside it.
    """
    if not _is_same(distribution, suite, etc / "os-release"):
        return ()
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    asked = tuple(components)
    archives = read_archives(etc / "apt")
    unused = set(asked).difference(*(archive.components for archive in archives if suite in archive.suites))
    found = []
    for archive in archives:
        suites = tuple(name for name in archive.suites if name in wanted)
        first = asked[0] in archive.components
        areas = tuple(name for name in asked if name in archive.components or (first and name in unused))
        if suites and areas:
            found.append(Archive(archive.uris, suites, areas, archive.signed_by, archive.options))
    return tuple(found) if any(suite in archive.suites for archive in found) else ()


def read_archives(apt: Path) -> tuple[Archive, ...]:
    """Everything enabled in `sources.list` and `sources.list.d` below `apt`, in apt's order."""
    found: list[Archive] = []
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            found += parse_deb822(path.read_text())
        elif path.suffix == ".list":
            found += parse_one_line(path.read_text())
    return tuple(found)


def parse_deb822(text: str) -> list[Archive]:
    """The enabled binary archives of a `.sources` text."""
    found = []
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", plain):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t") and name:
                fields[name] += f"\n{line}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        options = {"Trusted": fields["trusted"]} if "trusted" in fields else {}
        found.append(
            Archive(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
                options,
            )
        )
    return found


def parse_one_line(text: str) -> list[Archive]:
    """The binary archives of a `.list` text."""
    found = []
    for line in text.splitlines():
        entry = _ONE_LINE.fullmatch(line.split("#")[0].strip())
        if entry is None:
            continue
        words = dict(word.partition("=")[::2] for word in (entry["options"] or "").split())
        options = {"Trusted": words["trusted"]} if "trusted" in words else {}
        found.append(
            Archive(
                (entry["uri"],),
                (entry["suite"],),
                tuple(entry["components"].split()),
                words.get("signed-by", ""),
                options,
            )
        )
    return found


def acquire_settings(proxy: str = "") -> tuple[str, ...]:
    """How this head's apt reaches archives (proxy, certificates, retries), as lines of apt.conf(5).

    proxy: URL of a proxy to take in the place of the head's own.
    """
    said = run(["apt-config", "dump"]).stdout.splitlines() if which("apt-config") is not None else []
    lines = tuple(line for line in said if _ACQUIRE.fullmatch(line.strip()))
    if not proxy:
        return lines
    own = tuple(f'Acquire::{scheme}::Proxy "{proxy}";' for scheme in ("http", "https"))
    return (*(line for line in lines if "::proxy" not in line.lower()), *own)


def _is_same(distribution: str, suite: str, os_release: Path) -> bool:
    try:
        values = release_values(os_release.read_text())
    except OSError:
        return False
    return values.get("ID") == distribution and values.get("VERSION_CODENAME") == suite
