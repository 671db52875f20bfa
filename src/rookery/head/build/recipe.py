# SPDX-License-Identifier: Apache-2.0
"""The recipe: what an image is made of, as a person writes it (TOML) and as the builders get it (`Recipe`).

Every fault is reported with file, line and what is expected there; docs/reference has all keys.
"""

from __future__ import annotations

import difflib
import platform
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.lines import TomlLines

ARCHITECTURES = ("x86_64", "aarch64")
MOST_TEXT = 1 << 20  # bytes of a recipe
MOST_SOURCE = 64 << 20  # bytes of one source file
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_PACKAGE = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@+._:=/~*-]{0,255}")
_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_-]{0,31})?")
_MIRROR = re.compile(r"(https?|file|copy)://?[^\s]+")


@dataclass(frozen=True)
class RecipeFile:
    """A file to put into the root. path: absolute, in the root. mode: permission bits. owner: `user` or `user:group`,
    names or numbers of the image."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root:root"


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    distribution: which builder makes it (`debian`). suite: its release (`bookworm`). architecture: as in `uname -m`.
    kernel: the package that brings the kernel. packages: further packages. mirror: base URL of the package archive,
    None for what this head itself uses. components: archive areas. commands: shell commands, run in the root after
    packages and files are in. exclude: path patterns that packages may not install; keep: exceptions to those.
    """

    distribution: str
    suite: str
    kernel: str
    architecture: str
    packages: tuple[str, ...] = ()
    mirror: str | None = None
    components: tuple[str, ...] = ("main",)
    commands: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    files: tuple[RecipeFile, ...] = ()


_KEYS = tuple(Recipe.__dataclass_fields__)
_FILE_KEYS = ("path", "content", "source", "mode", "owner")


def parse(text: str, path: str, base: Path) -> Recipe:
    """The recipe in TOML `text`. `path` names it in errors; `source` files are looked up from the directory `base`.

    Raises RookeryError `invalid` (its message starts with `PATH:LINE:`) or `too-large`.
    """
    if len(text) > MOST_TEXT:
        raise RookeryError(f"{path}: a recipe has at most {MOST_TEXT} characters", kind=ErrorKind.TOO_LARGE)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        place, what = (f"{path}:{found[2]}", found[1]) if found else (f"{path}:{text.count(chr(10)) + 1}", str(error))
        raise RookeryError(
            f"{place}: {what}", kind=ErrorKind.INVALID, hint="a recipe is TOML: key = value, texts in double quotes"
        ) from error
    return _Reader(path, base, TomlLines(text)).recipe(data)


class _Reader:
    """Takes values out of the parsed TOML and says where the wrong ones stand."""

    def __init__(self, path: str, base: Path, lines: TomlLines) -> None:
        self._path, self._base, self._lines = path, base, lines

    def recipe(self, data: Mapping[str, object]) -> Recipe:
        self._known(data, _KEYS, ())
        architecture = self._text(data, ("architecture",), platform.machine())
        if architecture not in ARCHITECTURES:
            self._fail(("architecture",), architecture, "is not a known architecture", " or ".join(ARCHITECTURES))
        mirror = self._text(data, ("mirror",), "")
        if mirror and not _MIRROR.fullmatch(mirror):
            self._fail(("mirror",), mirror, "is not an archive's address", "a URL as in 'http://mirror.example/debian'")
        return Recipe(
            distribution=self._word(data, "distribution", "the distribution's name, as in 'debian'"),
            suite=self._word(data, "suite", "a release of the distribution, as in 'bookworm'"),
            kernel=self._package(("kernel",), self._text(data, ("kernel",))),
            architecture=architecture,
            packages=tuple(self._package(("packages",), item) for item in self._texts(data, "packages")),
            mirror=mirror or None,
            components=self._texts(data, "components", _is_word, "an archive area, as in 'main'") or ("main",),
            commands=self._texts(data, "commands", _is_command, "a shell command"),
            exclude=self._texts(data, "exclude", _is_absolute, "an absolute path pattern, as in '/usr/share/man/*'"),
            keep=self._texts(data, "keep", _is_absolute, "an absolute path pattern, as in '/usr/share/man/man1/*'"),
            files=self._files(data),
        )

    def _files(self, data: Mapping[str, object]) -> tuple[RecipeFile, ...]:
        tables = data.get("files", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fail(("files",), None, "files is not a list of tables", "a table [[files]] for each file")
        found = tuple(self._file(table, index) for index, table in enumerate(tables))
        for index, file in enumerate(found):
            if any(other.path == file.path for other in found[:index]):
                self._fail(("files", index, "path"), file.path, "is given twice", "one [[files]] for each path")
        return found

    def _file(self, table: Mapping[str, object], index: int) -> RecipeFile:
        at = ("files", index)
        self._known(table, _FILE_KEYS, at)
        path = self._text(table, (*at, "path"))
        if not _is_absolute(path) or path != str(PurePosixPath(path)) or path == "/":
            self._fail((*at, "path"), path, "is not a place in the root", "an absolute path without '..' or '//'")
        mode = self._text(table, (*at, "mode"), "0644")
        if not _MODE.fullmatch(mode):
            self._fail((*at, "mode"), mode, "is not a file mode", 'octal digits in quotes, as in "0644"')
        owner = self._text(table, (*at, "owner"), "root:root")
        if not _OWNER.fullmatch(owner):
            self._fail((*at, "owner"), owner, "is not an owner", "'user' or 'user:group'")
        if ("content" in table) == ("source" in table):
            self._fail((*at, "path"), path, "needs its content once", "either 'content' or 'source'")
        if "content" in table:
            content = self._text(table, (*at, "content"), "").encode()
        else:
            content = self._source(table, (*at, "source"))
        return RecipeFile(path, content, int(mode, 8), owner)

    def _source(self, table: Mapping[str, object], at: tuple[str | int, ...]) -> bytes:
        name = self._text(table, at)
        source = self._base / name
        try:
            if source.stat().st_size > MOST_SOURCE:
                self._fail(at, name, "is too large", f"a file of at most {MOST_SOURCE} bytes")
            return source.read_bytes()
        except OSError as error:
            self._fail(at, name, f"cannot be read ({error.strerror})", f"a file below {self._base}")

    def _known(self, table: Mapping[str, object], known: tuple[str, ...], at: tuple[str | int, ...]) -> None:
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                expected = f"{close[0]!r}, perhaps" if close else f"one of {', '.join(known)}"
                self._fail((*at, key), key, "is not a key of a recipe" if not at else "is not a key here", expected)

    def _word(self, data: Mapping[str, object], key: str, expected: str) -> str:
        text = self._text(data, (key,))
        if not _is_word(text):
            self._fail((key,), text, f"is not a {key}", expected)
        return text

    def _package(self, at: tuple[str | int, ...], text: str) -> str:
        if not _PACKAGE.fullmatch(text):
            self._fail(at, text, "is not a package name", "a name as in 'openssh-server', one an entry")
        return text

    def _text(self, table: Mapping[str, object], at: tuple[str | int, ...], default: str | None = None) -> str:
        key = str(at[-1])
        if key not in table:
            if default is not None:
                return default
            self._fail(at[:-1], None, f"the key {key!r} is missing", f'{key} = "..."')
        value = table[key]
        if not isinstance(value, str):
            self._fail(at, None, f"{key} is {_named(value)}", "a text in double quotes")
        if not value.strip() and default is None:
            self._fail(at, None, f"{key} is empty", "a text")
        if "\0" in value:
            self._fail(at, None, f"{key} has a zero byte in it", "a text")
        return value

    def _texts(
        self,
        data: Mapping[str, object],
        key: str,
        check: Callable[[str], bool] = bool,
        expected: str = "a text",
    ) -> tuple[str, ...]:
        values = data.get(key, [])
        if not isinstance(values, list):
            self._fail((key,), None, f"{key} is {_named(values)}", f'a list of texts: {key} = ["..."]')
        for value in values:
            if not isinstance(value, str):
                self._fail((key,), value, f"in {key} is {_named(value)}", "a text in double quotes")
            if "\0" in value or not check(value):
                self._fail((key,), value, f"does not belong in {key}", expected)
        return tuple(values)

    def _fail(self, at: tuple[str | int, ...], value: object, fault: str, expected: str) -> NoReturn:
        shown = f"{str(value)[:80]!r} {fault}" if value is not None else fault
        line = self._lines.find(at, value if isinstance(value, str) else None)
        raise RookeryError(f"{self._path}:{line}: {shown}", kind=ErrorKind.INVALID, hint=f"expected: {expected}")


def _named(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a text" if isinstance(value, str) else "a date")


def _is_word(text: str) -> bool:
    return bool(_WORD.fullmatch(text))


def _is_command(text: str) -> bool:
    return bool(text.strip())


def _is_absolute(text: str) -> bool:
    return text.startswith("/") and ".." not in text.split("/") and "\n" not in text
