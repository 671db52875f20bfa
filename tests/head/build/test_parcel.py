# SPDX-License-Identifier: Apache-2.0
"""What is sent to a machine that builds: it is all that is needed, and says what was said."""

import dataclasses
import platform
import zipfile
from pathlib import Path

from rookery.head.build import parcel
from rookery.head.build.recipe import IdentityRules, Limits, Recipe, RecipeFile, Repository
from rookery.run import run

_ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----\n"


def full_recipe(key: str) -> Recipe:
    """A recipe in which nothing is as it is by default."""
    return Recipe(
        distribution="debian", suite="bookworm", kernel="linux-image-arm64", architecture="aarch64",
        packages=("a", "b"), mirror="http://mirror.example/debian", components=("main",), commands=("true",),
        exclude=("/usr/share/doc/*",), keep=("/usr/share/doc/a",), key=key, groups=("core",), proxy="http://proxy:1",
        files=(RecipeFile("/etc/x", bytes(range(256)), 0o600, "daemon"),), container="oci:/x:y", archive="/z",
        from_image="base:stable", identity=IdentityRules(("/a",), ("/b",)), limits=Limits(1, 2),
        repositories=(Repository("site", "http://site.example", key, False, ("bookworm",), ("main",)),),
    )  # fmt: skip


def test_a_job_arrives_as_it_was(tmp_path: Path) -> None:
    recipe = full_recipe(_ARMOR)
    usual = Recipe()
    same = [
        field.name for field in dataclasses.fields(Recipe) if getattr(recipe, field.name) == getattr(usual, field.name)
    ]
    assert same == [] or (same == ["architecture"] and platform.machine() == "aarch64"), "a new key must travel, too"
    base = parcel.SentBase(12, "ab" * 32, {"less": "590"}, "cd" * 32, "x86_64")
    (tmp_path / "program").write_bytes(parcel.pack(parcel.Job(recipe, base, "gpu")))
    assert parcel.unpack(tmp_path / "program") == parcel.Job(recipe, base, "gpu")


def test_keys_in_files_travel_as_text(tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_text(_ARMOR)
    (tmp_path / "program").write_bytes(parcel.pack(parcel.Job(full_recipe(str(tmp_path / "key.asc")))))
    recipe = parcel.unpack(tmp_path / "program").recipe
    assert recipe.key == recipe.repositories[0].key == _ARMOR


def test_the_program_needs_nothing_but_python(tmp_path: Path) -> None:
    content = parcel.pack(parcel.Job(Recipe(archive="/nowhere")))
    assert content == parcel.pack(parcel.Job(Recipe(archive="/nowhere")))
    assert len(content) < 1 << 20
    program = tmp_path / "program"
    program.write_bytes(content)
    names = zipfile.ZipFile(program).namelist()
    assert {name.split("/")[0] for name in names} == {"__main__.py", "job.json", "rookery"}
    (tmp_path / "place").mkdir()
    # -S: no packages of this machine's Python, so none of Rookery's dependencies either.
    done = run(["python3", "-I", "-S", program, tmp_path / "place"], check=False, cwd=tmp_path)
    assert '"message": "there is nothing at /nowhere"' in done.stdout, done
    assert done.stderr == ""
    assert not (tmp_path / "place").exists()
