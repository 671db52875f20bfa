# SPDX-License-Identifier: Apache-2.0
"""What is taken out of a working tree before it is a version, beyond the list and but for it: the rules of the recipe
that the tree comes from, and those that captures were given.

A capture's own stand in the tree's recipe as comments, a line each, so that they go along with the version: whoever
opens it, or captures a machine that runs it, goes on with them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apply, identity
from rookery.head.build.recipe import IdentityRules

_KEEP, _REMOVE = "# image capture --keep ", "# image capture --remove "
# What package tools keep to be quick, and get again. The kernel's parts stay, unlike after a build: a golden client's
# initrd is its own.
CACHES = tuple(
    dict.fromkeys(pattern for known in apply.MANAGERS for pattern in known.cleaned if pattern.startswith("var/"))
)


def require_pattern(pattern: str) -> None:
    """Raise `invalid` for what a recipe's [identity] would not take either."""
    wrong = not pattern.startswith("/") or ".." in pattern.split("/") or len(pattern.splitlines()) != 1
    if wrong or "\0" in pattern or pattern != pattern.strip():
        raise RookeryError(
            f"{pattern[:80]!r} is not an absolute path pattern",
            kind=ErrorKind.INVALID,
            hint="as in /etc/munge/munge.key or '/etc/ssh/ssh_host_*'",
        )


def of(recipe: str) -> IdentityRules:
    """All the rules in a recipe's text. Only these count: its sources may be gone, or on another head."""
    given = _given(recipe)
    try:
        table = tomllib.loads(recipe).get("identity", {})
        keep, remove = tuple(map(str, table.get("keep", ()))), tuple(map(str, table.get("remove", ())))
    except (tomllib.TOMLDecodeError, AttributeError, TypeError):
        return given
    return IdentityRules((*keep, *given.keep), (*remove, *given.remove))


def with_given(recipe: str, before: str, given: IdentityRules) -> str:
    """The recipe's text with the rules `given` to a capture. A list that is empty is the one of the last capture, in
    the text `before`, or else the recipe's own."""
    own, last = _given(recipe), _given(before)
    lines = [line for line in recipe.splitlines(keepends=True) if not line.startswith((_KEEP, _REMOVE))]
    kept = [f"{_KEEP}{pattern}\n" for pattern in given.keep or last.keep or own.keep]
    removed = [f"{_REMOVE}{pattern}\n" for pattern in given.remove or last.remove or own.remove]
    return "".join([*kept, *removed, *lines])


def for_rsync(rules: IdentityRules) -> Iterator[str]:
    """The same as rsync's filter rules: what would be taken out need not even travel."""
    for pattern in rules.keep:
        path = _everywhere(pattern)
        yield from (f"+ {parent}" for parent in _parents(path))
        yield f"+ {path}"
        yield f"+ {path}/**"
    removed = [re.sub(r"\*+", "*", pattern.strip("/")) for pattern in rules.remove]
    for pattern in (*identity.REMOVED, *CACHES, *removed, "etc/machine-id"):
        yield f"- /{pattern}"
        yield f"- /{pattern}/**"  # where the directory itself is on the way to what is kept
    yield "- __pycache__/"
    yield "- __pycache__/**"
    yield "+ /var/log/**/"
    yield "- /var/log/**"


def _everywhere(pattern: str) -> str:
    """A pattern of what is kept, for rsync: a `*` in it also stands for slashes."""
    return "/" + re.sub(r"\*+", "**", pattern.strip("/"))


def _parents(path: str) -> Iterator[str]:
    """The directories on the way to what a pattern means: behind the first `*` it may be any."""
    before, star, _ = path.partition("**")
    parts = before.split("/")[1:-1]
    for count in range(1, len(parts) + 1):
        yield "/" + "/".join(parts[:count]) + "/"
    if star:
        yield f"{before}**/"


def _given(recipe: str) -> IdentityRules:
    lines = recipe.splitlines()
    return IdentityRules(
        tuple(line.removeprefix(_KEEP) for line in lines if line.startswith(_KEEP)),
        tuple(line.removeprefix(_REMOVE) for line in lines if line.startswith(_REMOVE)),
    )
