# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rookery.cli.main import EXIT_CODES, app
from rookery.errors import ErrorKind

LISTINGS = (
    *("node list", "node show", "image list", "image show", "image history", "image gc", "image trees"),
    *("status", "events", "doctor", "ticket", "version"),
)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT = typer.main.get_command(app)
ALL = dict(commands(ROOT))
IDS = [" ".join(path) for path in ALL]


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_every_command_tells_what_it_does_with_examples_that_fit(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert command.help
    assert command.epilog.startswith("[bold]Examples:")
    shown = [line.strip().replace("\\[", "[") for line in command.epilog.split("\n\n")[1:]]
    assert shown
    for line in shown:
        typed = shlex.split(line)
        typed = typed[: typed.index("--")] if "--" in typed else typed  # what follows is another command's
        assert typed[: len(path) + 1] == ["rookery", *path]
        assert {word for word in typed if word.startswith("-")} <= options(command), line


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    for parameter in ALL[path].params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize("path", ALL, ids=IDS)
def test_arguments_are_written_as_the_reference_has_them(path: tuple[str, ...]) -> None:
    for parameter in ALL[path].params:
        if parameter.param_type_name == "argument":
            assert parameter.metavar, parameter.name
            assert parameter.metavar == parameter.metavar.upper()


@pytest.mark.parametrize("name", LISTINGS)
def test_every_listing_has_json(name: str) -> None:
    assert "--json" in options(ALL[tuple(name.split())])


def test_help_shows_the_examples(rookery: Any) -> None:
    done = rookery("node", "add", "--help")
    assert done.code == 0
    assert "rookery node add n[01-16] --macs-from machines.csv" in done.out
    assert "--dir" in done.out


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("argv", ["fetch", "image build", "image import", "image diff"])
def test_no_paragraph_breaks_in_the_middle_of_a_line(
    rookery: Any, monkeypatch: pytest.MonkeyPatch, argv: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = rookery(*argv.split(), "--help").out.partition("╭")[0]
    lines = [line.strip() for line in text.splitlines()]
    broken = [(one, two) for one, two in itertools.pairwise(lines) if one and two]
    assert broken
    for one, two in broken:
        assert len(one) + 1 + len(two.split()[0]) > columns - 2, one  # the next word did not fit


def test_a_flag_shows_no_type(rookery: Any) -> None:
    for argv in (("image", "rm"), ("watch",), ("serve",), ("doctor",), ("events",), ("version",)):
        lines = [line for line in rookery(*argv, "--help").out.splitlines() if "--help" not in line]
        assert not [line for line in lines if "bool" in line.lower()]


def test_commands_of_the_readme_are_there() -> None:
    assert {
        "init", "serve", "doctor", "fetch", "publish", "deploy", "status", "watch", "events", "version", "ticket",
        "dhcp snippet", "image build", "image list", "image show", "image verify", "image rm", "image tag",
        "image untag",
        "image history", "image rollback", "image gc", "image diff", "image export", "image import",
        "trust list", "trust add", "trust rm",
        "image open", "image shell", "image exec", "image edit", "image publish", "image trees", "image close",
        "image capture",
        "node add", "node set", "mirror add", "mirror list", "mirror show", "mirror check", "mirror rm",
        "node list", "node show", "node rm", "node rename", "seeding stop",
    } == set(IDS)  # fmt: skip


def test_every_kind_of_error_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(ErrorKind)
    assert 0 not in EXIT_CODES.values()
