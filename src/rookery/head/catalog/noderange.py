# SPDX-License-Identifier: Apache-2.0
"""Noderanges: many nodes in few words, in the syntax of ClusterShell's NodeSet.

`n[001-100]` counts, `,` adds, `!` takes away, `&` keeps what is in both, `^` what is in one of two; `@gpu` is a group
(nodes whose attribute `groups` lists it), `@all` or `@*` every node, `n*` every node whose name fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
from ClusterShell.NodeUtils import GroupResolver, GroupResolverError, GroupSource, GroupSourceError
from ClusterShell.RangeSet import RangeSetException

from rookery.errors import ErrorKind, RookeryError

MOST_NODES = 200_000
MOST_TEXT = 1 << 18
MOST_NAME = 64  # HOST_NAME_MAX of Linux
EXPECTED = "expected names and ranges such as 'n[001-100],gw1', '@group', '@all' or 'n[1-9]!n3'"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DIGITS = re.compile(r"(\d+)")
_BRACKET_OR_OPERATOR = re.compile(r"\[([^\[\]]*)\]|[,!&^]")
_SPAN = re.compile(r"\s*(-?\d+)\s*-\s*(-?\d+)\s*(?:/(\d+))?\s*")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_AUTOMATIC = re.compile(r"x-[0-9a-f]{12}(-\d+)?")


def require_node_name(text: str) -> str:
    """`text` when it can be a node's name and so its host name (RFC 1123, lower case; 64 characters as on Linux).

    Raises RookeryError `invalid`.
    """
    labels = text.split(".")
    if len(text) > MOST_NAME or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise RookeryError(
            f"{text[:80]!r} cannot be the name of a node",
            kind=ErrorKind.INVALID,
            hint="use a host name: lower-case letters, digits, '-' and '.', at most 64 characters, not digits alone",
        )
    return text


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """What to sort names by so that n2 comes before n10."""
    return tuple((1, int(part), part) if part.isdigit() else (0, 0, part) for part in _DIGITS.split(name) if part)


def automatic_name(mac: str) -> str:
    """The name of a machine that nobody named: `x-525400123456` for its MAC 52:54:00:12:34:56."""
    return f"x-{mac.replace(':', '')}"


def is_automatic(name: str) -> bool:
    """Whether a name was made by `automatic_name`."""
    return _AUTOMATIC.fullmatch(name) is not None


def groups_of(attributes: dict[str, str]) -> tuple[str, ...]:
    """The groups in a node's attributes. Raises RookeryError `invalid` for a name that no noderange could say."""
    groups = tuple(dict.fromkeys(part.strip() for part in attributes.get("groups", "").split(",") if part.strip()))
    for group in groups:
        if not _GROUP.fullmatch(group) or group == "all":
            raise RookeryError(
                f"{group[:80]!r} cannot be a group",
                kind=ErrorKind.INVALID,
                hint="use letters, digits, '.', '_' and '-'; 'all' is every node already",
            )
    return groups


def expand(text: str, group: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """The names in a noderange, in natural order, none twice, whether there are such nodes or not; may be none.

    group: the names in one group, empty for an unknown one; `all` is every node (Catalog.group).
    Raises RookeryError: `invalid` for a syntax error, a name that no node can have, or an empty text;
    `not-found` for an unknown group; `too-large` beyond 200,000 nodes.
    """
    if not text.strip():
        raise RookeryError("the noderange is empty", kind=ErrorKind.INVALID, hint=EXPECTED)
    shown = text if len(text) <= 80 else text[:77] + "..."
    _require_bounded(text, shown)
    try:
        names = [str(name) for name in NodeSet(text, resolver=_resolver(group))]
    except RookeryError:
        raise
    except (GroupResolverError, GroupSourceError) as error:
        raise RookeryError(
            f"noderange {shown!r}: no groups but @NAME are known", kind=ErrorKind.INVALID, hint=EXPECTED
        ) from error
    except (NodeSetException, RangeSetException, ValueError, LookupError, TypeError) as error:
        raise RookeryError(f"noderange {shown!r}: {error}", kind=ErrorKind.INVALID, hint=EXPECTED) from error
    for name in names:
        require_node_name(name)
    return tuple(sorted(names, key=natural_key))


def fold(names: Iterable[str]) -> str:
    """The shortest noderange for names; empty for none. `expand` gives the same names again."""
    # The digits among a MAC's hex digits are no counters: folding them is slow, and nobody could read the result.
    unique = set(names)
    automatic = sorted(name for name in unique if is_automatic(name))
    counted = NodeSet.fromlist(sorted(unique.difference(automatic)), resolver=RESOLVER_NOGROUP)
    return ",".join([*([str(counted)] if counted else []), *automatic])


class _Groups(GroupSource):  # type: ignore[misc] # ClusterShell has no types
    """The catalog's groups, asked one at a time."""

    def __init__(self, group: Callable[[str], tuple[str, ...]]) -> None:
        super().__init__("catalog")
        self._group = group

    def resolv_map(self, group: str) -> str:
        names = self._group(group)
        if not names and group != "all":
            raise RookeryError(
                f"there is no group @{group[:80]}",
                kind=ErrorKind.NOT_FOUND,
                hint="a node is in the groups that its attribute 'groups' lists",
            )
        return "\n".join(names)

    def resolv_all(self) -> str:
        return "\n".join(self._group("all"))

    def resolv_list(self) -> list[str]:
        raise GroupSourceError("groups are not listed by a noderange", self)


def _resolver(group: Callable[[str], tuple[str, ...]]) -> GroupResolver:
    # Given a resolver of ours, ClusterShell does not read the groups.conf of the system.
    return GroupResolver(_Groups(group))


def _require_bounded(text: str, shown: str) -> None:
    """Refuse what names too many nodes before ClusterShell builds them all in memory."""
    total, count = 0, 1
    for found in _BRACKET_OR_OPERATOR.finditer(text):
        if found[1] is None:
            total, count = total + count, 1
        else:
            count *= sum(_span(part) for part in found[1].split(","))
    total += count
    if total > MOST_NODES or len(text) > MOST_TEXT:
        raise RookeryError(
            f"noderange {shown!r} names more than {MOST_NODES:,} nodes", kind=ErrorKind.TOO_LARGE, hint=EXPECTED
        )


def _span(part: str) -> int:
    if not (found := _SPAN.fullmatch(part)):
        return 1
    first, last, step = (int(number or 1) for number in found.groups())
    return max(0, last - first) // max(1, step) + 1
