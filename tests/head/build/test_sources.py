# SPDX-License-Identifier: Apache-2.0
"""The archives of deb packages: those that a head itself uses, read from its apt configuration, and a recipe's."""

import dataclasses
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import sources
from rookery.head.build.recipe import Recipe, Repository
from rookery.head.build.sources import Archive, own_archives

ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----"

DEB822 = """\
# the archive
Types: deb deb-src
URIs: http://near.example/debian http://far.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free
Signed-By: /usr/share/keyrings/debian.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://key.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ==
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: https://vendor.example/apt
Suites: bookworm
Components: vendor
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://one.example/debian bookworm main contrib # near
deb-src http://one.example/debian bookworm main
deb http://flat.example/ ./
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text('NAME="Debian GNU/Linux"\nVERSION_CODENAME=bookworm\nID=debian\n')
    (tmp_path / "apt" / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "apt" / "sources.list.d" / "more.list").write_text(ONE_LINE)
    (tmp_path / "apt" / "sources.list.d" / "old.sources.disabled").write_text(DEB822)
    return tmp_path


def test_the_heads_own_archives_of_the_same_release(etc: Path) -> None:
    near = ("http://near.example/debian", "http://far.example/debian")
    found = own_archives("debian", "bookworm", ["main"], etc)
    assert found[0] == Archive(near, ("bookworm", "bookworm-updates"), ("main",), "/usr/share/keyrings/debian.gpg")
    assert found[1].uris == ("http://key.example/debian-security",)
    assert found[2] == Archive(("http://one.example/debian",), ("bookworm",), ("main",), "/k.gpg", {"Trusted": "yes"})
    assert len(found) == 3


def test_components_that_were_not_asked_for_are_left_out(etc: Path) -> None:
    (found,) = own_archives("debian", "bookworm", ["contrib"], etc)
    assert found.components == ("contrib",)


def test_a_component_that_the_head_does_not_use_is_where_main_is(etc: Path) -> None:
    found = own_archives("debian", "bookworm", ["main", "non-free-firmware", "contrib"], etc)
    assert [archive.components for archive in found] == [
        ("main", "non-free-firmware"),
        ("main", "non-free-firmware"),
        ("main", "non-free-firmware", "contrib"),
    ]


@pytest.mark.parametrize(("distribution", "suite"), [("debian", "trixie"), ("ubuntu", "bookworm")])
def test_another_distribution_or_release_has_none(etc: Path, distribution: str, suite: str) -> None:
    assert own_archives(distribution, suite, ["main"], etc) == ()


def test_updates_alone_are_not_an_archive(etc: Path) -> None:
    (etc / "apt" / "sources.list.d" / "more.list").write_text("deb http://one.example/debian bookworm-updates main\n")
    (etc / "apt" / "sources.list.d" / "debian.sources").unlink()
    assert own_archives("debian", "bookworm", ["main"], etc) == ()


def test_a_stanza_reads_back_as_it_was(etc: Path) -> None:
    for archive in own_archives("debian", "bookworm", ["main"], etc):
        assert sources.parse_deb822(archive.stanza()) == [archive]


def test_no_configuration_at_all(tmp_path: Path) -> None:
    assert own_archives("debian", "bookworm", ["main"], tmp_path) == ()


def test_ubuntus_own_archive_and_its_ports() -> None:
    recipe = Recipe("ubuntu", "noble", "linux-image-virtual", "x86_64", key=ARMOR)
    (archive,) = sources.of_recipe(recipe)
    assert archive.uris == ("http://archive.ubuntu.com/ubuntu",)
    assert archive.suites == ("noble", "noble-updates", "noble-security")
    assert archive.components == ("main", "universe")
    (ports,) = sources.of_recipe(dataclasses.replace(recipe, architecture="aarch64", components=("main",)))
    assert (ports.uris, ports.components) == (("http://ports.ubuntu.com/ubuntu-ports",), ("main",))


def test_a_keyring_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = dataclasses.replace(sources.FAMILIES["ubuntu"], keyring=str(tmp_path / "none.gpg"))
    monkeypatch.setitem(sources.FAMILIES, "ubuntu", family)
    with pytest.raises(RookeryError) as caught:
        sources.of_recipe(Recipe("ubuntu", "noble", "linux-image-virtual", "x86_64"))
    assert caught.value.kind is ErrorKind.MISSING
    assert "ubuntu-keyring" in caught.value.record.hint


def test_further_repositories_as_stanzas() -> None:
    recipe = Recipe(
        "debian",
        "bookworm",
        "linux-image-amd64",
        "x86_64",
        repositories=(
            Repository("site", "https://site.example/debian", ARMOR),
            Repository("flat", "file:///srv/flat", trusted=True, suites=("./",)),
        ),
    )
    stanzas = {name: archive.stanza() for name, archive in sources.further(recipe).items()}
    assert stanzas["site"] == (
        "Types: deb\nURIs: https://site.example/debian\nSuites: bookworm\nComponents: main\nSigned-By: \n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert stanzas["flat"] == "Types: deb\nURIs: file:///srv/flat\nSuites: ./\nTrusted: yes\n"


def test_a_recipes_proxy_takes_the_place_of_the_heads() -> None:
    lines = sources.acquire_settings("http://cache.example:3142")
    assert [line for line in lines if "::proxy" in line.lower()] == [
        'Acquire::http::Proxy "http://cache.example:3142";',
        'Acquire::https::Proxy "http://cache.example:3142";',
    ]


def test_a_key_of_no_archive_is_refused() -> None:
    with pytest.raises(RookeryError, match="which archive of debian it signs") as caught:
        sources.of_recipe(Recipe("debian", "no-such-release", "linux-image-amd64", "x86_64", key=ARMOR))
    assert "'mirror'" in caught.value.record.hint
