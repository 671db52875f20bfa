# SPDX-License-Identifier: Apache-2.0
"""Keys of archives, in the recipe or in files of either form: gpg reads what comes out."""

from pathlib import Path

import pytest

from lab.archives import signing_key
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import keys
from rookery.run import run


def fingerprint(armor: str) -> list[str]:
    said = run(["gpg", "--show-keys", "--with-colons"], stdin=armor.encode()).stdout
    return [line for line in said.splitlines() if line.startswith("fpr:")]


def test_a_key_in_every_form_is_the_same_key(tmp_path: Path) -> None:
    with signing_key(tmp_path / "gpg") as key:
        binary = key.export(tmp_path / "key.gpg")
        (tmp_path / "key.asc").write_text(key.armor)
        wanted = fingerprint(key.armor)
        assert wanted
        for given in (key.armor.strip(), str(binary), str(tmp_path / "key.asc")):
            armor = keys.armored(given, "of the site")
            assert fingerprint(armor) == wanted
            # The armor's checksum is right too, which gpg looks at only here.
            run(["gpg", "--dearmor"], stdin=armor.encode())
    assert keys.armored(str(tmp_path / "key.asc"), "of the site").endswith("-----END PGP PUBLIC KEY BLOCK-----\n")


def test_a_file_that_is_no_key_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "empty").touch()
    for name, kind in (("page.html", ErrorKind.INVALID), ("empty", ErrorKind.INVALID), ("none", ErrorKind.NOT_FOUND)):
        with pytest.raises(RookeryError) as caught:
            keys.armored(str(tmp_path / name), "of the repository site")
        assert caught.value.kind is kind
        assert f"{tmp_path / name} of the repository site" in str(caught.value)
