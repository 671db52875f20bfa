# SPDX-License-Identifier: Apache-2.0
"""The reference pages name everything that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from rookery import codec
from rookery.api import routes
from rookery.cli.main import EXIT_CODES, app
from rookery.errors import ErrorKind
from rookery.head.config import Config

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"
EVERYWHERE = {"--dir", "--head", "--token", "--help", "-h"}


def sections() -> dict[str, str]:
    parts = re.split(r"(?m)^### `rookery (.*)`$", (PAGES / "cli.md").read_text())
    return {re.sub(r" [A-Z\[].*", "", title): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def commands(group: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, f"{path}{name} ")
        else:
            found[path + name] = command
    return found


def test_every_command_option_and_example() -> None:
    known = sections()
    there = commands(typer.main.get_command(app))
    assert set(known) == set(there)
    for name, command in there.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                for option in set(parameter.opts) - EVERYWHERE:
                    assert f"`{option}" in known[name], f"{name} {option}"
        for line in command.epilog.split("\n\n")[1:]:
            assert line.strip().replace("\\[", "[") in known[name]


def test_every_exit_code() -> None:
    text = (PAGES / "cli.md").read_text()
    for code in EXIT_CODES.values():
        assert f"\n| {code} | " in text


def test_every_route_and_kind_of_error() -> None:
    text = (PAGES / "api.md").read_text()
    for name, path in vars(routes).items():
        if name.isupper() and name != "PREFIX":
            assert f" {path}`" in text, path
    for kind in ErrorKind:
        assert f"`{kind}`" in text


@pytest.mark.parametrize("table", vars(Config()))
def test_every_key_of_the_configuration_with_its_default(table: str) -> None:
    text = (PAGES / "configuration.md").read_text()
    section = text.split(f"## `[{table}]`\n")[1].split("\n## ")[0]
    for key, default in vars(getattr(Config(), table)).items():
        found = re.search(rf"(?m)^\| `{key}` \| (.*?) \|", section)
        assert found, key
        if default not in ("", ()):
            shown = found[1].strip("`")
            assert shown in (str(default), f'"{default}"', codec.dumps(default)), key
