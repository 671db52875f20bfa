# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that no linter knows: sizes, names, licence lines, and what must not be committed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rookery.run import run

TOP = Path(__file__).resolve().parents[1]
SAY_NOTHING = re.compile(r"(?:^|_)(?:utils?|helpers?|common|misc|manager)(?:_|$)")


def tracked(*patterns: str) -> list[Path]:
    listed = run(["git", "-C", TOP, "ls-files", "--cached", "--others", "--exclude-standard", *patterns]).stdout.split(
        "\n"
    )
    return [TOP / name for name in listed if name and (TOP / name).is_file()]


SOURCES = tracked("src/*.py", "lab/*.py")


@pytest.mark.parametrize(
    "path", tracked("*.py", "*.sh", "*.toml", "Makefile"), ids=lambda path: str(path.relative_to(TOP))
)
def test_every_file_has_one_licence_line(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines()[:5] if line.startswith("# SPDX-License-Identifier: ")]
    assert lines == ["# SPDX-License-Identifier: Apache-2.0"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP)))
def test_sizes_and_names(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 500, "split the module"
    assert not SAY_NOTHING.search(path.stem), "name the module after what is in it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, f"{node.name} is too long"


@pytest.mark.parametrize("path", tracked("src/*/__init__.py"), ids=lambda path: str(path.relative_to(TOP)))
def test_packages_hold_no_code(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    code = [
        node
        for node in body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__")
    ]
    assert not code


def test_no_place_of_a_builder_is_named() -> None:
    # Joined here so that this file does not find itself.
    forbidden = [
        "/wor" + "k/",
        "/tmp" + "/w/",
        "pypi" + ".org",
        "deb.debian" + ".org",
        "pythonhosted" + ".org",
        "npmjs" + ".org",
    ]
    found = [
        f"{path.relative_to(TOP)}: {word}"
        for path in tracked()
        if path.suffix not in {".png", ".gz", ".zst", ".cpio"}
        for word in forbidden
        if word in path.read_text(errors="replace")
    ]
    assert not found


def test_console_script_says_its_version() -> None:
    from rookery import __version__

    assert __version__ in (TOP / "CHANGELOG.md").read_text()
