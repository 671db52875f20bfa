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
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.lines import Place, TomlLines

ARCHITECTURES = ("x86_64", "aarch64")
MOST_TEXT = 1 << 20  # bytes of a recipe
MOST_SOURCE = 64 << 20  # bytes of one source file
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_PACKAGE = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@+._:=/~*-]{0,255}")
_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_-]{0,31})?")
_SUITE = re.compile(r"(\./|/|[A-Za-z0-9][A-Za-z0-9._/-]{0,127})")  # with a slash at its end: a flat repository
_MIRROR = re.compile(r"(https?|file|copy)://?[^\s]+")
_PROXY = re.compile(r"https?://[^\s\"]+")
_CONTAINER = re.compile(r"(oci:[^\s:]+(:[^\s:]+)?|(oci|docker)-archive:[^\s:]+(:[^\s]+)?|docker://[^\s/]\S*)")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*([:@][A-Za-z0-9][A-Za-z0-9._-]*)?")
_ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True)
class RecipeFile:
    """A file to put into the root. path: absolute, in the root. mode: permission bits. owner: `user` or `user:group`,
    names or numbers of the image."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root:root"


@dataclass(frozen=True)
class Repository:
    """A further archive of packages. name: as the image's package tool will know it. url: its address. key: the public
    key that signs it, as armored text or as an absolute path; empty: the distribution's own. trusted: taken unsigned.
    suites, components: of a deb archive; suites that end with a slash are directories of a flat one."""

    name: str
    url: str
    key: str = ""
    trusted: bool = False
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ()


@dataclass(frozen=True)
class IdentityRules:
    """What a recipe changes about what is taken out of an image (identity.py): absolute path patterns. keep: stays all
    the same. remove: goes as well."""

    keep: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """The most that a container or an archive may hold: entries, and bytes: of its files
    when unpacked, and of the archives that they come in, decompressed."""

    entries: int = 2_000_000
    bytes: int = 64 << 30


@dataclass(frozen=True)
class Recipe:
    """What an image is made of: one source, and what is added to it.

    The sources: a package list (`distribution`, `suite`, `kernel`), or one of `container`, `archive`, `from_image`.

    distribution: which builder makes it (`debian`). suite: its release (`bookworm`, `9`). architecture: as in
    `uname -m`. kernel: the package that brings the kernel. packages: further packages. mirror: base URL of the package
    archive, None for what this head itself uses. key: what signs the mirror, as Repository.key. components: archive
    areas, empty for the distribution's usual ones. repositories: further archives. groups: of packages, as rpm
    repositories define them. proxy: URL through which archives are reached, empty for what this head itself uses.
    container: `oci:PATH:TAG`, `docker-archive:PATH` or `docker://REFERENCE`, paths absolute. archive: absolute path of
    a tree or a tarball on the head. from_image: reference of another image. commands: shell commands, run in the root
    after packages and files are in. exclude: path patterns that packages may not install; keep: exceptions to those.
    identity: what is taken out at the end. limits: of what is unpacked.
    """

    distribution: str = ""
    suite: str = ""
    kernel: str = ""
    architecture: str = field(default_factory=platform.machine)
    packages: tuple[str, ...] = ()
    mirror: str | None = None
    components: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    files: tuple[RecipeFile, ...] = ()
    key: str = ""
    repositories: tuple[Repository, ...] = ()
    groups: tuple[str, ...] = ()
    proxy: str = ""
    container: str = ""
    archive: str = ""
    from_image: str = ""
    identity: IdentityRules = IdentityRules()
    limits: Limits = Limits()

    @property
    def builder(self) -> str:
        """Which builder makes it: the distribution's name, or the kind of its source."""
        others = {"container": self.container, "archive": self.archive, "from": self.from_image}
        return next((name for name, value in others.items() if value), self.distribution)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All packages, the kernel's first."""
        return (*([self.kernel] if self.kernel else []), *self.packages)


_SOURCES = ("distribution", "container", "archive", "from")
_LIST_ONLY = ("suite", "mirror", "key", "components", "repositories", "groups", "exclude", "keep")
_KEYS = tuple("from" if name == "from_image" else name for name in Recipe.__dataclass_fields__)
_FILE_KEYS = ("path", "content", "source", "mode", "owner")
_REPOSITORY_KEYS = tuple(Repository.__dataclass_fields__)
_LIMIT_KEYS = tuple(Limits.__dataclass_fields__)
_IDENTITY_KEYS = tuple(IdentityRules.__dataclass_fields__)


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
        source = self._only_source(data)
        architecture = self._text(data, ("architecture",), platform.machine())
        if architecture not in ARCHITECTURES:
            self._fail(("architecture",), architecture, "is not a known architecture", " or ".join(ARCHITECTURES))
        of_list = {} if source != "distribution" else self._package_list(data)
        kernel = self._text(data, ("kernel",), None if of_list else "")
        return Recipe(
            **of_list,
            kernel=self._package(("kernel",), kernel) if kernel else "",
            architecture=architecture,
            packages=tuple(self._package(("packages",), item) for item in self._texts(data, "packages")),
            proxy=self._address(
                data, ("proxy",), _PROXY, "is not a proxy's address", "a URL as in 'http://proxy:3142'"
            ),
            container=self._container(data),
            archive=self._place(self._text(data, ("archive",), "")),
            from_image=self._address(
                data, ("from",), _REFERENCE, "is not an image", "an image that is published, as in 'base:stable'"
            ),
            commands=self._texts(data, "commands", _is_command, "a shell command"),
            files=self._files(data),
            identity=self._identity(data),
            limits=self._limits(data),
        )

    def _only_source(self, data: Mapping[str, object]) -> str:
        """Which of the sources it has; exactly one is right, and keys of package lists go with that only."""
        there = [name for name in _SOURCES if name in data]
        if not there:
            self._fail((), None, "the recipe has no source", f"one of {', '.join(_SOURCES)}")
        if len(there) > 1:
            self._fail((there[1],), None, f"{there[1]} cannot go with {there[0]}", "one source in a recipe")
        for name in _LIST_ONLY if there != ["distribution"] else ():
            if name in data:
                self._fail((name,), None, f"{name} cannot go with {there[0]}", "this key with 'distribution' only")
        if not str(data[there[0]]).strip():
            self._fail((there[0],), None, f"{there[0]} is empty", "a text")
        return there[0]

    def _package_list(self, data: Mapping[str, object]) -> dict[str, Any]:
        distribution = self._word(data, "distribution", "the distribution's name, as in 'debian'")
        if distribution in _SOURCES:
            self._fail(("distribution",), distribution, "is not a distribution", "its name, as in 'debian'")
        mirror = self._address(
            data, ("mirror",), _MIRROR, "is not an archive's address", "a URL as in 'http://mirror.example/debian'"
        )
        groups = self._texts(data, "groups", _is_word, "a group's id, as in 'core'")
        return {
            "distribution": distribution,
            "suite": self._word(data, "suite", "a release of the distribution, as in 'bookworm'"),
            "mirror": mirror or None,
            "key": self._key(data, ("key",)),
            "components": self._texts(data, "components", _is_word, "an archive area, as in 'main'"),
            "repositories": self._repositories(data),
            "groups": groups,
            "exclude": self._texts(data, "exclude", _is_absolute, "an absolute path pattern, as in '/usr/share/man/*'"),
            "keep": self._texts(data, "keep", _is_absolute, "an absolute path pattern, as in '/usr/share/man/man1/*'"),
        }

    def _container(self, data: Mapping[str, object]) -> str:
        text = self._address(
            data,
            ("container",),
            _CONTAINER,
            "is not a container",
            "'oci:PATH:TAG', 'docker-archive:PATH' or 'docker://REGISTRY/NAME:TAG'",
        )
        kind, _, rest = text.partition(":")
        if not text or kind == "docker":
            return text
        path, colon, tag = rest.partition(":")
        return f"{kind}:{self._place(path)}{colon}{tag}"

    def _repositories(self, data: Mapping[str, object]) -> tuple[Repository, ...]:
        found = tuple(self._repository(table, index) for index, table in enumerate(self._tables(data, "repositories")))
        for index, one in enumerate(found):
            if any(other.name == one.name for other in found[:index]):
                self._fail(("repositories", index, "name"), one.name, "is given twice", "a name for each repository")
        return found

    def _repository(self, table: Mapping[str, object], index: int) -> Repository:
        at = ("repositories", index)
        self._known(table, _REPOSITORY_KEYS, at)
        name = self._text(table, (*at, "name"))
        if not _is_word(name) or "/" in name:
            self._fail((*at, "name"), name, "is not a repository's name", "letters, digits, '.', '_' and '-'")
        url = self._text(table, (*at, "url"))
        if not _MIRROR.fullmatch(url):
            self._fail((*at, "url"), url, "is not an archive's address", "a URL as in 'https://mirror.example/debian'")
        trusted = table.get("trusted", False)
        if not isinstance(trusted, bool):
            self._fail((*at, "trusted"), None, f"trusted is {_named(trusted)}", "true or false")
        key = self._key(table, (*at, "key"))
        if key and trusted:
            self._fail((*at, "trusted"), None, "trusted is for a repository without a key", "either 'key' or 'trusted'")
        suites = self._texts(table, "suites", _is_suite, "a suite, as in 'bookworm-backports'", at)
        return Repository(
            name, url, key, trusted, suites, self._texts(table, "components", _is_word, "an area, as in 'main'", at)
        )

    def _key(self, table: Mapping[str, object], at: Place) -> str:
        """A public key: as it stands in the recipe, or as the path of its file."""
        text = self._text(table, at, "").strip()
        if not text or text.startswith(_ARMOR):
            return text
        if "\n" in text or "://" in text:
            expected = f"a key's text, which begins with {_ARMOR}, or the path of its file"
            self._fail(at, text.splitlines()[0], "is not a public key", expected)
        return self._place(text)

    def _identity(self, data: Mapping[str, object]) -> IdentityRules:
        table = data.get("identity", {})
        if not isinstance(table, dict):
            self._fail(("identity",), None, f"identity is {_named(table)}", "a table [identity]")
        at = ("identity",)
        self._known(table, _IDENTITY_KEYS, at)
        expected = "an absolute path pattern, as in '/etc/ssh/ssh_host_*'"
        return IdentityRules(
            self._texts(table, "keep", _is_absolute, expected, at),
            self._texts(table, "remove", _is_absolute, expected, at),
        )

    def _limits(self, data: Mapping[str, object]) -> Limits:
        table = data.get("limits", {})
        if not isinstance(table, dict):
            self._fail(("limits",), None, f"limits is {_named(table)}", "a table [limits]")
        self._known(table, _LIMIT_KEYS, ("limits",))
        for key, value in table.items():
            if type(value) is not int or value < 1:
                self._fail(("limits", key), value, "is not a limit", "a whole number, 1 or more")
        return Limits(**table)

    def _tables(self, data: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
        tables = data.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fail((key,), None, f"{key} is not a list of tables", f"a table [[{key}]] for each of them")
        return tables

    def _files(self, data: Mapping[str, object]) -> tuple[RecipeFile, ...]:
        found = tuple(self._file(table, index) for index, table in enumerate(self._tables(data, "files")))
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

    def _source(self, table: Mapping[str, object], at: Place) -> bytes:
        name = self._text(table, at)
        source = self._base / name
        try:
            if source.stat().st_size > MOST_SOURCE:
                self._fail(at, name, "is too large", f"a file of at most {MOST_SOURCE} bytes")
            return source.read_bytes()
        except OSError as error:
            self._fail(at, name, f"cannot be read ({error.strerror})", f"a file below {self._base}")

    def _known(self, table: Mapping[str, object], known: tuple[str, ...], at: Place) -> None:
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

    def _package(self, at: Place, text: str) -> str:
        if not _PACKAGE.fullmatch(text):
            self._fail(at, text, "is not a package name", "a name as in 'openssh-server', one an entry")
        return text

    def _place(self, path: str) -> str:
        """A path as it stands in the recipe, absolute; empty stays empty."""
        return str(self._base / path) if path else ""

    def _address(self, data: Mapping[str, object], at: Place, form: re.Pattern[str], fault: str, expected: str) -> str:
        text = self._text(data, at, "")
        if text and not form.fullmatch(text):
            self._fail(at, text, fault, expected)
        return text

    def _text(self, table: Mapping[str, object], at: Place, default: str | None = None) -> str:
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
        inside: Place = (),
    ) -> tuple[str, ...]:
        at = (*inside, key)
        values = data.get(key, [])
        if not isinstance(values, list):
            self._fail(at, None, f"{key} is {_named(values)}", f'a list of texts: {key} = ["..."]')
        for value in values:
            if not isinstance(value, str):
                self._fail(at, value, f"in {key} is {_named(value)}", "a text in double quotes")
            if "\0" in value or not check(value):
                self._fail(at, value, f"does not belong in {key}", expected)
        return tuple(values)

    def _fail(self, at: Place, value: object, fault: str, expected: str) -> NoReturn:
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


def _is_suite(text: str) -> bool:
    return bool(_SUITE.fullmatch(text))


def _is_command(text: str) -> bool:
    return bool(text.strip())


def _is_absolute(text: str) -> bool:
    return text.startswith("/") and ".." not in text.split("/") and "\n" not in text
