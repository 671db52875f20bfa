# SPDX-License-Identifier: Apache-2.0
"""`key=value` settings of nodes: what they mean, and what they would change; pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from rookery.api.types import Change, Changes
from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot.answer import require_kernel_arguments
from rookery.head.catalog.noderange import fold
from rookery.head.catalog.rows import Node
from rookery.wire.facts import normalize_mac

OWN = ("name", "mac", "address", "image", "mode", "kernel_arguments", "may_seed")
MODES = ("ram",)
MOST_VALUE = 4096
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def changed(node: Node, settings: Mapping[str, str], image_of: Callable[[str], str]) -> Node:
    """`node` with `settings`. image_of gives the `name:tag` that an image reference is stored as, and raises for an
    unknown one. Raises RookeryError `invalid` that names the key."""
    fields: dict[str, object] = {}
    attributes = dict(node.attributes)
    for key, value in settings.items():
        if len(value) > MOST_VALUE:
            raise _invalid(key, f"at most {MOST_VALUE} characters", value[:40])
        if key in OWN:
            name, meaning = _own(key, value, image_of)
            fields[name] = meaning
        elif not _ATTRIBUTE.fullmatch(key):
            raise RookeryError(
                f"{key[:80]!r} is no key of a node",
                kind=ErrorKind.INVALID,
                hint=f"keys are {', '.join(OWN)}, or your own of lower-case letters, digits, '_', '.' and '-'",
            )
        elif value:
            attributes[key] = value
        else:
            attributes.pop(key, None)
    return dataclasses.replace(node, **{**fields, "attributes": attributes})  # type: ignore[arg-type]


def differences(pairs: Sequence[tuple[Node, Node]], *, applied: bool) -> Changes:
    """What is different between nodes before and after, nodes that change alike folded together."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for before, after in pairs:
        was, becomes = shown(before), shown(after)
        for key in dict.fromkeys([*was, *becomes]):
            if was.get(key, "") != becomes.get(key, ""):
                found.setdefault((key, was.get(key, ""), becomes.get(key, "")), []).append(before.name)
    changes = tuple(Change(fold(names), *what) for what, names in found.items())
    return Changes(fold(before.name for before, _ in pairs), changes, applied)


def shown(node: Node) -> dict[str, str]:
    """A node's settings as text; the inverse of `changed`."""
    return {
        "name": node.name,
        "mac": ",".join(node.macs),
        "address": node.address or "",
        "image": node.image or "",
        "mode": node.mode,
        "kernel_arguments": node.kernel_arguments,
        "may_seed": "true" if node.may_seed else "false",
        **node.attributes,
    }


def fields_changed(before: Node, after: Node) -> dict[str, object]:
    """The fields of `after` that differ, by name: what Catalog.update_nodes takes."""
    names = [field.name for field in dataclasses.fields(Node)]
    return {name: getattr(after, name) for name in names if getattr(before, name) != getattr(after, name)}


def _own(key: str, value: str, image_of: Callable[[str], str]) -> tuple[str, object]:
    """The field of rows.Node, and its value."""
    if key == "mac":
        try:
            return "macs", tuple(dict.fromkeys(normalize_mac(part) for part in value.split(",") if part.strip()))
        except ValueError as error:
            raise RookeryError(f"mac: {error}", kind=ErrorKind.INVALID) from error
    if key == "image":
        return "image", image_of(value) if value else None
    if key == "kernel_arguments":
        return key, require_kernel_arguments(value)
    if key == "may_seed":
        if value not in _TRUTH:
            raise _invalid(key, "true or false", value)
        return key, _TRUTH[value]
    if key == "mode":
        if (value or MODES[0]) not in MODES:
            raise _invalid(key, f"one of {', '.join(MODES)}", value)
        return key, value or MODES[0]
    if key == "address":
        return key, value or None  # the catalog checks what it is
    return key, value


def _invalid(key: str, expected: str, value: str) -> RookeryError:
    return RookeryError(f"{key}: expected {expected}, got {value!r}", kind=ErrorKind.INVALID)
