# SPDX-License-Identifier: Apache-2.0
"""What is different between two versions, as far as the catalog tells; pure."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from rookery.head.catalog.rows import Version
from rookery.wire.manifest import Manifest, VersionKind


@dataclass(frozen=True)
class PackageChanges:
    """Packages by name. added, removed: (name, version). changed: (name, version before, version after)."""

    added: tuple[tuple[str, str], ...]
    removed: tuple[tuple[str, str], ...]
    changed: tuple[tuple[str, str, str], ...]


def packages(before: dict[str, str], after: dict[str, str]) -> PackageChanges:
    """What of the packages (name -> version) is different, by name."""
    return PackageChanges(
        added=tuple((name, after[name]) for name in sorted(after.keys() - before.keys())),
        removed=tuple((name, before[name]) for name in sorted(before.keys() - after.keys())),
        changed=tuple(
            (name, before[name], after[name])
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        ),
    )


def line(before: Version, before_manifest: Manifest, after: Version, after_manifest: Manifest) -> str:
    """What is different, in one line: `2 packages added (jq, vim), 1 changed (openssl); kernel 6.1.0-9; +3.1 MB`."""
    parts = []
    of = packages(before.packages, after.packages)
    groups = (
        ("added", [name for name, _ in of.added]),
        ("removed", [name for name, _ in of.removed]),
        ("changed", [name for name, _, _ in of.changed]),
    )
    told = [f"{len(names)} {verb} ({_some(names)})" for verb, names in groups if names]
    if told:
        parts.append(f"packages: {', '.join(told)}")
    if before_manifest.kernel_release != after_manifest.kernel_release:
        parts.append(f"kernel {after_manifest.kernel_release or 'gone'}")
    if before_manifest.architecture != after_manifest.architecture:
        parts.append(f"for {after_manifest.architecture or 'any architecture'}")
    if before.kind is not after.kind:
        parts.append(f"a {after.kind} in place of a {before.kind}")
    if not parts:
        known = {blob.sha256 for blob in before_manifest.blobs}
        names = [blob.name for blob in after_manifest.blobs if blob.sha256 not in known]
        same = "same packages, other " if after.packages else "other "
        parts.append(f"{same}{', '.join(names) or 'names of files'}")
    difference = after.size - before.size
    parts.append(f"{'+' if difference >= 0 else '-'}{abs(difference) / 1e6:.1f} MB")
    return "; ".join(parts)


# How the recipe of a version begins that was published from a working tree.
WORKING_TREE = "# From a working tree: "


def source(version: Version) -> str:
    """What a version was made from, in a few words."""
    if version.origin is not None:
        return f"capsule: {version.origin.image} of site {version.origin.key[:12]}"
    if not version.recipe:
        return {VersionKind.IMAGE: "no recipe", VersionKind.FILE: "a file", VersionKind.TREE: "a directory"}[
            version.kind
        ]
    if version.recipe.startswith(WORKING_TREE):
        return f"working tree: {version.recipe.removeprefix(WORKING_TREE).splitlines()[0][:80]}"
    try:
        recipe = tomllib.loads(version.recipe)
    except tomllib.TOMLDecodeError:
        return version.recipe.strip().splitlines()[0][:80] if version.recipe.strip() else ""
    for key in ("from", "container", "archive"):
        if isinstance(recipe.get(key), str):
            return f"recipe: {key} {recipe[key][:80]}"
    return f"recipe: {recipe.get('distribution', '')} {recipe.get('suite', '')}".rstrip(": ")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, …"
