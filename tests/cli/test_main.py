# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rookery.cli.main import text_of
from rookery.errors import ErrorKind, ErrorRecord


def test_how_an_error_looks() -> None:
    record = ErrorRecord(ErrorKind.FAILED, "it broke", "$ do it\nno", "do another")
    assert text_of(record) == "error: it broke\n  $ do it\n  no\ntry: do another"
    assert text_of(ErrorRecord(ErrorKind.FAILED, "it broke")) == "error: it broke"


def test_no_head_yet(rookery: Any, tmp_path: Path) -> None:
    done = rookery("node", "list", "--dir", str(tmp_path))
    assert done.code == 3
    assert done.out == ""
    assert done.err.startswith("error: no operator token")
    assert f"try: run 'rookery init --dir {tmp_path}'" in done.err


def test_a_token_of_a_file_that_is_not_there(rookery: Any, tmp_path: Path) -> None:
    done = rookery("node", "list", "--dir", str(tmp_path), "--token", f"@{tmp_path}/none")
    assert (done.code, f"no operator token at {tmp_path}/none" in done.err) == (3, True)
    assert "try: --token @FILE names a file" in done.err


def test_a_head_that_is_not_running(rookery: Any, tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("secret\n")
    done = rookery("status", "--dir", str(tmp_path))
    assert done.code == 6
    assert f"is the head running? start it: rookery serve --dir {tmp_path}" in done.err


def test_a_head_that_has_only_begun_to_start(rookery: Any, tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("secret\n")
    lock = tmp_path / "serve.lock"
    with lock.open("w") as held:
        held.write(f"{os.getpid()}\n")
        held.flush()
        done = rookery("status", "--dir", str(tmp_path))
    assert (done.code, "the head is starting; try again in a minute" in done.err) == (6, True)
    # A head that was killed leaves the file, and its number may be another process's by now.
    assert "is the head running?" in rookery("status", "--dir", str(tmp_path)).err


def test_a_head_elsewhere_that_is_not_running(rookery: Any) -> None:
    done = rookery("status", "--head", "http://127.0.0.1:9", "--token", "secret")
    assert done.code == 6
    done = rookery("status", "--head", "ftp://127.0.0.1", "--token", "secret")
    assert (done.code, "is not a URL" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("node", "lst"), "error: no such command 'lst'"),
        (("deploy", "n1"), "error: missing option '--image'"),
        (("status", "--what"), "error: no such option: --what"),
        (("watch", "--interval", "0"), "error: invalid value for '--interval': it should be greater"),
        (("watch", "--interval", "soon"), "error: invalid value for '--interval': it should be a valid number\n"),
        (("ticket", "x", "--for", "foo"), "error: invalid value for '--for': 'foo' is not one of 'rookery', "),
    ],
)
def test_wrong_usage_is_told_like_every_error(rookery: Any, argv: tuple[str, ...], told: str) -> None:
    done = rookery(*argv)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(told)
    assert done.err.splitlines()[1:] == [f"try: rookery {argv[0]} --help"]


def test_without_a_word_the_help_is_shown(rookery: Any) -> None:
    for argv in ((), ("image",)):
        done = rookery(*argv)
        assert (done.code, "Usage: rookery" in done.out + done.err, "error:" in done.err) == (2, True, False)


def test_a_fault_of_ours_is_told_as_one(rookery: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("rookery.cli.version.platform.machine", broken)
    done = rookery("version")
    assert done.code == 70
    assert "ROOKERY_DEBUG=1" in done.err
    assert "Traceback" not in done.err
    monkeypatch.setenv("ROOKERY_DEBUG", "1")
    assert "Traceback" in rookery("version").err


def test_a_missing_library_names_what_to_install(rookery: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rookery.head.init", None)
    done = rookery("init", "--dir", str(tmp_path / "head"))
    assert done.code == 7
    assert "pip install '.[head]' in a clone" in done.err


def test_version(rookery: Any) -> None:
    from rookery import __version__

    assert json.loads(rookery("version", "--json").out)["rookery"] == __version__
    assert rookery("--version").out == f"rookery {__version__}\n"
