# SPDX-License-Identifier: Apache-2.0
"""What the shell completes: names of nodes and images, asked of the head. When it is away there is nothing to offer,
and nothing is said."""

from __future__ import annotations

import typer

from rookery.api import types
from rookery.api.client import Client
from rookery.cli.connection import connect
from rookery.errors import RookeryError

SETTINGS = (
    "name=",
    "mac=",
    "address=",
    "image=",
    "mode=ram",
    "kernel_arguments=",
    "may_seed=true",
    "may_seed=false",
    "groups=",
)


_asked = [False]


def was_asked() -> bool:
    """Whether any of these was asked: then a name is wanted, and no file."""
    return _asked[0]


def _client(ctx: typer.Context) -> Client:
    _asked[0] = True
    given = ctx.params
    return connect(given.get("directory"), given.get("head"), given.get("token"))


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of nodes that begin with the last part of what was typed (after a comma)."""
    before, comma, last = incomplete.rpartition(",")
    try:
        with _client(ctx) as client:
            names = [node.name for node in client.nodes().nodes]
    except RookeryError:
        return []
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def images(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of images."""
    try:
        with _client(ctx) as client:
            return [image.name for image in client.images().images if image.name.startswith(incomplete)]
    except RookeryError:
        return []


def tags(ctx: typer.Context, incomplete: str) -> list[str]:
    """The tags of the image that the command names."""
    return [tag for version in _versions(ctx) for tag in version.tags if tag.startswith(incomplete)]


def tags_and_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The tags of the image that the command names, and its versions' ids as far as they are shown."""
    versions = _versions(ctx)
    names = [tag for version in versions for tag in version.tags] + [version.id[:12] for version in versions]
    return [name for name in names if name.startswith(incomplete)]


def _versions(ctx: typer.Context) -> tuple[types.Version, ...]:
    """The versions of the image that the command names; words after an option that lacks its value are not sorted
    yet."""
    try:
        with _client(ctx) as client:
            return client.image(ctx.params.get("name") or next(iter(ctx.args), "")).versions
    except RookeryError:
        return ()


def trees(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of images that have a working tree."""
    try:
        with _client(ctx) as client:
            return [tree.name for tree in client.trees().trees if tree.name.startswith(incomplete)]
    except RookeryError:
        return []


def mirrors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of mirrors."""
    try:
        with _client(ctx) as client:
            return [mirror.name for mirror in client.mirrors().mirrors if mirror.name.startswith(incomplete)]
    except RookeryError:
        return []


def sites(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of sites whose capsules are taken."""
    try:
        with _client(ctx) as client:
            return [known.name for known in client.trusted_keys().keys if known.name.startswith(incomplete)]
    except RookeryError:
        return []


def references(ctx: typer.Context, incomplete: str) -> list[str]:
    """`name:tag` of every tagged version."""
    try:
        with _client(ctx) as client:
            versions = [version for image in client.images().images for version in image.versions]
    except RookeryError:
        return []
    found = [f"{version.image}:{tag}" for version in versions for tag in version.tags]
    return [reference for reference in found if reference.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """The keys that `node set` knows."""
    _asked[0] = True
    return [setting for setting in SETTINGS if setting.startswith(incomplete)]
