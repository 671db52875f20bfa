# SPDX-License-Identifier: Apache-2.0
"""The documentation against the tree and the command line: links lead somewhere, commands and options exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from rookery.cli.main import app

TOP = Path(__file__).resolve().parents[1]
LICENCE = "<!-- SPDX-License-Identifier: Apache-2.0 -->"
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *(TOP / "src").rglob("*.md")])
DOCS = [page for page in PAGES if page.is_relative_to(TOP / "docs") or page.parent == TOP]
ROOT = typer.main.get_command(app)
_FENCE = re.compile(r"^\s*(```|~~~)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)|!\[[^\]]*\]\(([^()\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"^(\$ )?(\.venv/bin/)?rookery\s")
_END = re.compile(r"[;&|<>()]+")  # a token that ends a shell command


class NoSuchCommandError(ValueError):
    """A command line that the program would not take."""


@dataclass(frozen=True)
class Line:
    page: Path
    number: int
    text: str
    fenced: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(TOP)}:{self.number}"


def lines_of(page: Path) -> Iterator[Line]:
    fenced = False
    for number, text in enumerate(page.read_text().splitlines(), 1):
        if _FENCE.match(text):
            fenced = not fenced
        else:
            yield Line(page, number, text, fenced)


def links() -> list[tuple[Line, str]]:
    return [
        (line, first or second)
        for page in PAGES
        for line in lines_of(page)
        if not line.fenced
        for first, second in _LINK.findall(_SPAN.sub(lambda found: "" if "](" in found[0] else found[0], line.text))
        if not re.match(r"[a-z]+:", first or second)
    ]


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as forges make them."""
    found: dict[str, int] = {}
    every = set()
    for line in lines_of(page):
        if not line.fenced and (heading := re.match(r"#{1,6}\s+(.*?)\s*#*$", line.text)):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            count = found.get(slug, 0)
            found[slug] = count + 1
            every.add(f"{slug}-{count}" if count else slug)
    return every


def commands() -> list[tuple[Line, str, bool]]:
    """(where, command, whether it is whole) of every `rookery …`: lines of fenced blocks, and spans in the text."""
    found = []
    for page in DOCS:
        for line in lines_of(page):
            if line.fenced and _COMMAND.match(line.text):
                found.append((line, _COMMAND.sub("", line.text), True))
            elif not line.fenced:
                spans = [span for span in _SPAN.findall(line.text) if _COMMAND.match(span)]
                found += [(line, _COMMAND.sub("", span), False) for span in spans]
    return found


def words_of(text: str) -> list[str]:
    """The words of the first shell command in a line, without comment, pipe and redirection."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "", True
    words: list[str] = []
    for word in lexer:
        if word.startswith("#") or _END.fullmatch(word):
            break
        words.append(word)
    return words


def check(words: list[str], whole: bool) -> None:
    """Raise NoSuchCommandError unless `words` are a command with options that it has; nothing is run.

    whole: no argument may be missing either.
    """
    command: Any = ROOT
    path = ["rookery"]
    while True:
        context = command.context_class(command, info_name=path[-1])
        try:
            given, rest, _order = command.make_parser(context).parse_args(list(words))
        except Exception as error:
            raise NoSuchCommandError(f"{' '.join(path)}: {error}") from error
        if not hasattr(command, "commands"):
            break
        if not rest:
            if whole and not given:
                raise NoSuchCommandError(f"{' '.join(path)}: a command is missing")
            return
        if not whole and re.fullmatch(r"[A-Z]+|…", rest[0]):
            return  # stands for any
        if rest[0] not in command.commands:
            raise NoSuchCommandError(f"{' '.join(path)}: there is no command {rest[0]!r}")
        path.append(rest[0])
        command, words = command.commands[rest[0]], rest[1:]
    if rest:
        raise NoSuchCommandError(f"{' '.join(path)}: too many arguments: {' '.join(rest)}")
    missing = [p.name for p in command.params if p.required and not given.get(p.name)]
    if whole and missing and not given.get("help"):
        raise NoSuchCommandError(f"{' '.join(path)}: missing {', '.join(missing)}")


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(TOP)))
def test_every_page_has_the_licence_line_and_one_title(page: Path) -> None:
    assert page.read_text().splitlines()[0] == LICENCE
    titles = [line.text for line in lines_of(page) if not line.fenced and line.text.startswith("# ")]
    assert len(titles) == 1


def test_every_relative_link_leads_somewhere() -> None:
    assert len(links()) > 30
    broken = []
    for line, target in links():
        path, _, fragment = target.partition("#")
        there = (line.page.parent / unquote(path)).resolve() if path else line.page
        if not there.exists():
            broken.append(f"{line}: {target}: no such file")
        elif not there.is_relative_to(TOP):
            broken.append(f"{line}: {target}: outside of the repository")
        elif fragment and fragment not in anchors(there):
            broken.append(f"{line}: {target}: no such heading")
    assert not broken, "\n".join(broken)


def test_every_page_is_in_the_index() -> None:
    index = TOP / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for line, target in links() if line.page == index}
    missing = [
        str(page.relative_to(TOP))
        for page in DOCS
        if page.is_relative_to(TOP / "docs") and page != index and page not in linked and page.parent not in linked
    ]
    assert not missing


def test_every_command_line_names_what_there_is() -> None:
    found = commands()
    assert len([line for line, _, whole in found if whole]) > 40
    wrong = []
    for line, text, whole in found:
        try:
            check(words_of(text), whole)
        except NoSuchCommandError as error:
            wrong.append(f"{line}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "image nonsense base",
        "image",
        "node add n1 --mack 52:54:00:12:34:56",
        "deploy n1",
        "deploy n1 n2 --image base",
        "serve --dir",
        "watch n1 --until-ready --nonsense",
    ],
)
def test_what_the_program_would_not_take_is_found(text: str) -> None:
    with pytest.raises(NoSuchCommandError):
        check(words_of(text), whole=True)


@pytest.mark.parametrize(
    "text",
    [
        "serve &                             # or something else",
        "node add n[001-100]!n003,@gpu --macs-from macs.csv --set image=base --set groups=a,b",
        "fetch 'http://10.0.0.1:8470/fetch/models@3f2a9c01?ticket=…&key=…' --to /data --stats s.json | tee log",
        "deploy n[1-3] --image bookworm:89548bfa05f0 -y >log 2>&1",
        "--install-completion",
        "watch",
    ],
)
def test_what_the_program_takes_is_no_fault(text: str) -> None:
    check(words_of(text), whole=True)
