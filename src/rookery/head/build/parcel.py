# SPDX-License-Identifier: Apache-2.0
"""What is sent to a machine that builds for this head: a program of one file, with the recipe in it.

The builders need Python's standard library only, so they travel with every build: nothing of Rookery has to be
installed there, and no version of it has to fit (docs/decisions/0015-builders-travel.md).
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import rookery
from rookery.codec import Range
from rookery.head.build import keys
from rookery.head.build.recipe import IdentityRules, Limits, Recipe, RecipeFile, Repository

JOB = "job.json"
# What of this package goes along: modules, or directories for all modules that are directly in them.
_TAKEN = (".", "head/__init__.py", "head/progress.py", "head/build")
_MAIN = "from rookery.head.build.there import main\nmain()\n"
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class SentBase:
    """The image to build upon, which is sent after the program: the size and the digest of its root squashfs, and
    otherwise as builder.BasePart."""

    size: int
    sha256: str
    packages: dict[str, str]
    version: str
    architecture: str


@dataclass(frozen=True)
class Job:
    """A recipe, the image to build upon where it has one, and what the new one will be called."""

    recipe: Recipe
    base: SentBase | None = None
    name: str = ""


@dataclass(frozen=True)
class SentFile:
    """A file that is sent: bytes, and SHA-256 in hex."""

    size: Annotated[int, Range(0, 1 << 50)]
    sha256: str


@dataclass(frozen=True)
class SentImage:
    """What was built: root, kernel and drivers, whose bytes follow, and otherwise as image.BuiltImage."""

    files: tuple[SentFile, ...]
    kernel_release: str
    architecture: str
    packages: dict[str, str]
    notes: tuple[str, ...] = ()


def pack(job: Job) -> bytes:
    """The program, to be run by `python3 -I FILE DIRECTORY`: a zip archive of sources (there.py is what it does).

    Public keys that the recipe names by their files go along as text. Raises as keys.armored does.
    """
    sources = Path(rookery.__file__).parent
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)

        add("__main__.py", _MAIN.encode())
        add(JOB, json.dumps(_frozen(job)).encode())
        for name in _TAKEN:
            place = sources / name
            for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
                add(f"rookery/{path.relative_to(sources)}", path.read_bytes())
    return content.getvalue()


def unpack(program: Path) -> Job:
    """The job out of a program that `pack` made."""
    with zipfile.ZipFile(program) as archive:
        data = json.loads(archive.read(JOB))
    recipe = {name: _tuples(value) for name, value in data["recipe"].items()}
    recipe["files"] = tuple(
        RecipeFile(**{**file, "content": base64.b64decode(file["content"])}) for file in recipe["files"]
    )
    recipe["repositories"] = tuple(Repository(**_all_tuples(one)) for one in recipe["repositories"])
    recipe["identity"] = IdentityRules(**_all_tuples(recipe["identity"]))
    recipe["limits"] = Limits(**recipe["limits"])
    return Job(Recipe(**recipe), SentBase(**data["base"]) if data["base"] else None, data["name"])


def _frozen(job: Job) -> dict[str, Any]:
    recipe = job.recipe
    mended = dataclasses.replace(
        recipe,
        key=keys.armored(recipe.key, "of the recipe") if recipe.key else "",
        repositories=tuple(
            dataclasses.replace(one, key=keys.armored(one.key, f"of the repository {one.name}") if one.key else "")
            for one in recipe.repositories
        ),
    )
    data = dataclasses.asdict(dataclasses.replace(job, recipe=mended))
    for file in data["recipe"]["files"]:
        file["content"] = base64.b64encode(file["content"]).decode()
    return data


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _all_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in values.items()}
