# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery import run
from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.noderange import automatic_name, expand, fold, is_automatic, natural_key, require_node_name
from rookery.head.catalog.rows import Node

GROUPS = {"all": ("gw", "n1", "n2", "n3"), "gpu": ("n2", "n3"), "rack1": ("n1", "n2")}
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.builds(lambda first, rest: ".".join([first, *rest, "c"]), LABEL, st.lists(LABEL, max_size=2)) | st.from_regex(
    r"[a-z]{1,3}-?[0-9]{1,4}([a-z][0-9]{1,3})?", fullmatch=True
)


def group(name: str) -> tuple[str, ...]:
    return GROUPS.get(name, ())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n[1-3]", "n1 n2 n3"),
        ("n[08-10]", "n08 n09 n10"),
        ("n[1-9/4]", "n1 n5 n9"),
        ("n10,n9,n9", "n9 n10"),
        ("r[1-2]n[1-2].cluster", "r1n1.cluster r1n2.cluster r2n1.cluster r2n2.cluster"),
        ("@gpu", "n2 n3"),
        ("@gpu,gw", "gw n2 n3"),
        ("@all!@gpu", "gw n1"),
        ("@gpu&@rack1", "n2"),
        ("@gpu^@rack1", "n1 n3"),
        ("@*", "gw n1 n2 n3"),
        ("n*", "n1 n2 n3"),
        ("n?!n2", "n1 n3"),
        ("q*", ""),
        ("n1!n1", ""),
        (" n1 , n2 ", "n1 n2"),
    ],
)
def test_expand(text: str, names: str) -> None:
    assert expand(text, group) == tuple(names.split())


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", ErrorKind.INVALID, "empty"),
        (" \n", ErrorKind.INVALID, "empty"),
        ("n[1-", ErrorKind.INVALID, "bracket"),
        ("n]1", ErrorKind.INVALID, "bracket"),
        ("n[3-1]", ErrorKind.INVALID, "3-1"),
        ("n[a-b]", ErrorKind.INVALID, "a-b"),
        ("n1,", ErrorKind.INVALID, "operand"),
        ("!n1", ErrorKind.INVALID, "operand"),
        ("n1 n2", ErrorKind.INVALID, "n1 n2"),
        ("N1", ErrorKind.INVALID, "N1"),
        ("n%s", ErrorKind.INVALID, "n%s"),
        ("n/../1", ErrorKind.INVALID, "n/../1"),
        ("@nope", ErrorKind.NOT_FOUND, "@nope"),
        ("@source:gpu", ErrorKind.INVALID, "groups"),
        ("@@catalog", ErrorKind.INVALID, "groups"),
        ("n[1-200001]", ErrorKind.TOO_LARGE, "200,000"),
        ("n[1-999999999999]", ErrorKind.TOO_LARGE, "200,000"),
        ("r[1-1000]n[1-1000]", ErrorKind.TOO_LARGE, "200,000"),
        ("n[1-150000],m[1-150000]", ErrorKind.TOO_LARGE, "200,000"),
        ("@g[1-999999999]", ErrorKind.TOO_LARGE, "200,000"),
        ("n[-99999999-99999999]", ErrorKind.TOO_LARGE, "200,000"),
        ("n1," * 100_000, ErrorKind.TOO_LARGE, "200,000"),
    ],
)
def test_errors_say_what_is_expected(text: str, kind: ErrorKind, words: str) -> None:
    with pytest.raises(RookeryError) as caught:
        expand(text, group)
    assert caught.value.kind is kind
    assert words in caught.value.record.message
    assert caught.value.record.hint


@given(st.text(alphabet="nx019-[],!&^@*?:/ .%", max_size=30))
def test_any_text_gives_names_or_our_error(text: str) -> None:
    told, names = None, ()
    try:
        names = expand(text, group)
    except RookeryError as error:
        told = error.record.hint
    assert told != ""
    assert [require_node_name(name) for name in names] == list(names)
    assert len(set(names)) == len(names)


@given(st.lists(NAME, max_size=30))
def test_fold_and_expand_are_inverse(names: list[str]) -> None:
    text = fold(names)
    assert (expand(text, group) if text else ()) == tuple(sorted(set(names), key=natural_key))


@given(st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=20))
def test_names_of_discovered_machines_fold_and_expand(numbers: list[int]) -> None:
    names = [automatic_name(":".join(f"{number:012x}"[at : at + 2] for at in range(0, 12, 2))) for number in numbers]
    assert all(is_automatic(name) for name in names)
    assert set(expand(fold([*names, "n1", "n2"]), group)) == {*names, "n1", "n2"}


def test_fold_is_short() -> None:
    assert fold([f"n{number:03}" for number in range(1, 101)]) == "n[001-100]"
    assert fold(iter(["n2", "n1", "n2"])) == "n[1-2]"
    assert fold([]) == ""
    assert not is_automatic("x-gw")


def test_groups_of_the_catalog(catalog: Catalog) -> None:
    catalog.add_nodes([Node(f"n{number}", attributes={"groups": "odd" if number % 2 else ""}) for number in range(6)])
    assert expand("@odd", catalog.group) == ("n1", "n3", "n5")
    assert expand("@all!@odd", catalog.group) == ("n0", "n2", "n4")


def test_group_files_of_the_system_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "groups.conf").write_text("[Main]\ndefault: local\n[local]\nmap: echo evil1\nall: echo evil2\n")
    program = (
        "from rookery.errors import RookeryError\n"
        "from rookery.head.catalog.noderange import expand\n"
        "for text in ('@gpu', '@*', '@local:gpu'):\n"
        "    try: print(expand(text, lambda name: ('n1',) if name == 'all' else ()))\n"
        "    except RookeryError as error: print(error.kind)\n"
    )
    done = run.run(
        [sys.executable, "-c", program], env={"CLUSTERSHELL_CFGDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    )
    assert done.stdout.split("\n")[:3] == ["not-found", "('n1',)", "invalid"]
