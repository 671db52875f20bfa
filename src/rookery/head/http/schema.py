# SPDX-License-Identifier: Apache-2.0
"""OpenAPI schemas of the dataclasses that go over the wire, with the limits that rookery.codec holds them to."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any

from rookery.codec import Length, Range
from rookery.head.http.problems import MEDIA_TYPE, SCHEMA

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type that codec reads; a dataclass is a reference into the document's components."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is typing.Annotated:
        return _limited(schema(arguments[0]), arguments[1:])
    if origin in (types.UnionType, typing.Union):
        real = [item for item in arguments if item is not types.NoneType]
        return {"anyOf": [schema(real[0]), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(arguments[1])}
    if dataclasses.is_dataclass(kind):
        return {"$ref": f"#/components/schemas/{typing.cast(type, kind).__name__}"}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"type": "string", "enum": [str(item.value) for item in kind]}
    return {"type": _SCALARS[kind]} if kind in _SCALARS else {}


def components(kinds: typing.Iterable[type]) -> dict[str, Any]:
    """The component schemas of dataclasses and of all that they hold, by class name."""
    found: dict[str, Any] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind.__name__ in found:
            continue
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = dataclasses.fields(kind)
        required = [
            f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        found[kind.__name__] = {
            "type": "object",
            "description": " ".join((kind.__doc__ or "").split()),
            "properties": {field.name: schema(hints[field.name]) for field in fields},
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }
        for hint in hints.values():
            waiting += _held(hint)
    return found


def takes(kind: type) -> dict[str, Any]:
    """What `openapi_extra` says of a route whose body is a `kind`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema(kind)}}}}


def gives(kind: type) -> dict[int | str, dict[str, Any]]:
    """What `responses` says of a route that answers with a `kind`, or with a problem."""
    return {
        200: {"description": "Done", "content": {"application/json": {"schema": schema(kind)}}},
        "default": {"description": "Problem", "content": {MEDIA_TYPE: {"schema": SCHEMA}}},
    }


def _limited(plain: dict[str, Any], limits: tuple[object, ...]) -> dict[str, Any]:
    most = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
    for limit in limits:
        if isinstance(limit, Range):
            plain = {**plain, "minimum": limit.low, "maximum": limit.high}
        elif isinstance(limit, Length) and plain.get("type") in most:
            plain = {**plain, most[plain["type"]]: limit.most}
    return plain


def _held(kind: Any) -> list[type]:
    if dataclasses.is_dataclass(kind):
        return [typing.cast(type, kind)]
    if typing.get_origin(kind) is typing.Annotated:
        return _held(typing.get_args(kind)[0])
    return [held for argument in typing.get_args(kind) for held in _held(argument)]
