# SPDX-License-Identifier: Apache-2.0
"""Where a key stands in a TOML text: the standard library's reader keeps no positions.

Reads only what is needed for that (TOML 1.0: tables, keys, strings, brackets), of text that has parsed already.
"""

from __future__ import annotations

import re
from collections import Counter

Place = tuple[str | int, ...]

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_ARRAY_TABLE = re.compile(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]\s*(#.*)?$")
_KEY = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+)\s*=""")
_TOKEN = re.compile(r'"{3}|\'{3}|"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*|[\[\]{}]')


class TomlLines:
    """Line numbers (from 1) of a TOML text's keys."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._at: dict[Place, int] = {}
        self._scan()

    def find(self, place: Place, value: str | None = None) -> int:
        """The line of the key at `place` (`("files", 1, "mode")`), or of the nearest thing around it that is known.

        With `value`: the first line from there on, within the key's own lines, that has this text.
        """
        while place and place not in self._at:
            place = place[:-1]
        first = self._at.get(place, 1)
        if value:
            later = [line for line in self._at.values() if line > first]
            for number in range(first, min(later, default=len(self._lines) + 1)):
                if value in self._lines[number - 1]:
                    return number
        return first

    def _scan(self) -> None:
        table: Place = ()
        counts: Counter[str] = Counter()
        depth, quote = 0, ""
        for number, line in enumerate(self._lines, 1):
            if depth == 0 and not quote:
                if found := _ARRAY_TABLE.match(line):
                    name = _bare(found[1])
                    table = (name, counts[name])
                    counts[name] += 1
                    self._at.setdefault((name,), number)
                    self._at[table] = number
                    continue
                if found := _TABLE.match(line):
                    table = (_bare(found[1]),)
                    self._at.setdefault(table, number)
                    continue
                if found := _KEY.match(line):
                    self._at.setdefault((*table, _bare(found[1])), number)
            depth, quote = _after(line, depth, quote)


def _bare(key: str) -> str:
    return key.strip("\"'")


def _after(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Bracket depth and open multi-line quote at the end of `line`."""
    position = 0
    while position < len(line):
        if quote:
            end = line.find(quote, position)
            if end < 0:
                return depth, quote
            position, quote = end + 3, ""
            continue
        token = _TOKEN.search(line, position)
        if token is None:
            break
        position = token.end()
        if token[0] in ('"""', "'''"):
            quote = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
    return depth, quote
