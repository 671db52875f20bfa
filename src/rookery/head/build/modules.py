# SPDX-License-Identifier: Apache-2.0
"""Which kernel modules go together: reads depmod's tables and closes a choice over them (modules.dep(5), depmod(8))."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModuleTables:
    """What depmod wrote. Paths are relative to the modules directory (`kernel/drivers/net/virtio_net.ko`); names have
    `_` for `-` and no suffix.

    needs: path -> paths it cannot do without. soft: name -> names or aliases that should come along (`pre:`, `post:`).
    aliases: literal alias -> names. paths: name -> path.
    """

    needs: dict[str, tuple[str, ...]]
    soft: dict[str, tuple[str, ...]]
    aliases: dict[str, tuple[str, ...]]
    paths: dict[str, str]


def name_of(path: str) -> str:
    """The module's name: `kernel/fs/nls/nls_iso8859-1.ko.xz` -> `nls_iso8859_1`."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def read(modules: Path) -> ModuleTables:
    """The tables in the modules directory of one kernel (`/usr/lib/modules/RELEASE`). Raises OSError."""
    needs = parse_dep((modules / "modules.dep").read_text())
    return ModuleTables(
        needs,
        parse_softdep(_text(modules / "modules.softdep")),
        parse_alias(_text(modules / "modules.alias")),
        {name_of(path): path for path in needs},
    )


def parse_dep(text: str) -> dict[str, tuple[str, ...]]:
    """`modules.dep`: a module's path, a colon, what it needs."""
    pairs = (line.partition(":") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {path.strip(): tuple(rest.split()) for path, _, rest in pairs}


def parse_softdep(text: str) -> dict[str, tuple[str, ...]]:
    """`modules.softdep`: `softdep NAME pre: A B post: C`."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep":
            others = tuple(word.replace("-", "_") for word in words[2:] if word not in ("pre:", "post:"))
            found[words[1].replace("-", "_")] = (*found.get(words[1].replace("-", "_"), ()), *others)
    return found


def parse_alias(text: str) -> dict[str, tuple[str, ...]]:
    """The literal ones of `modules.alias` (`crypto-crc32c`, `fs-squashfs`), which soft dependencies use; those with
    wildcards speak of hardware."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias" and not set(words[1]) & set("*?["):
            alias = words[1].replace("-", "_")
            found[alias] = (*found.get(alias, ()), words[2].replace("-", "_"))
    return found


def closure(tables: ModuleTables, patterns: Iterable[str]) -> tuple[str, ...]:
    """The paths that match a pattern (fnmatch, on the path without its suffix) and everything that they need, hard or
    soft, sorted. What is built into the kernel has no path and needs none."""
    stems = {path: path.partition(".ko")[0] for path in tables.needs}
    waiting = [path for pattern in patterns for path, stem in stems.items() if fnmatch.fnmatchcase(stem, pattern)]
    chosen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in chosen or path not in tables.needs:
            continue
        chosen.add(path)
        waiting += tables.needs[path]
        for name in tables.soft.get(name_of(path), ()):
            names = (name, *tables.aliases.get(name, ()))
            waiting += [tables.paths[each] for each in names if each in tables.paths]
    return tuple(sorted(chosen))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
