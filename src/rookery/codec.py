# SPDX-License-Identifier: Apache-2.0
"""JSON to frozen dataclasses and back, strictly.

The edge of the program: what comes in over the network passes here once and is typed data afterwards. An unknown key,
a missing one, a wrong type or a value beyond its limit is an error that names the place (`orders.files[2].mode`).

Supported field types: str, int, float, bool, None-unions, StrEnum, dict[str, T], tuple[T, ...] and dataclasses of them.
Limits are given with `typing.Annotated[int, Range(0, 2**63)]` and `Annotated[str, Length(255)]`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from rookery.errors import ErrorKind, RookeryError

T = TypeVar("T")
MAX_TEXT = 1 << 20
MAX_ITEMS = 100_000


@dataclass(frozen=True)
class Range:
    """Limits of a number, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Length:
    """The most characters of a text, or items of a list or map."""

    most: int


def loads(cls: type[T], data: bytes | str, *, most: int = 1 << 24, what: str = "") -> T:
    """Parse JSON text of at most `most` bytes into `cls`. Raises RookeryError `invalid` or `too-large`."""
    name = what or cls.__name__
    if len(data) > most:
        raise RookeryError(f"{name} is larger than {most} bytes", kind=ErrorKind.TOO_LARGE)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RookeryError(f"{name} is not JSON: {error}", kind=ErrorKind.INVALID) from error
    return decode(cls, value, what=name)


def dumps(value: object, *, indent: int | None = None) -> str:
    """JSON text of a dataclass (or plain JSON value)."""
    return json.dumps(encode(value), indent=indent, ensure_ascii=False)


def canonical(value: object) -> bytes:
    """The one byte form of a value: keys sorted, no white space, UTF-8. What digests and signatures are taken of."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def encode(value: object) -> Any:
    """Plain JSON value (dict, list, str, int, float, bool, None) of a dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(cls: type[T], value: object, *, what: str = "") -> T:
    """Typed data of a plain JSON value. Raises RookeryError `invalid` that names the place and what is expected."""
    return typing.cast(T, _decode(cls, value, what or getattr(cls, "__name__", "value"), ()))


def _fail(where: str, expected: str, value: object) -> RookeryError:
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return RookeryError(f"{where}: expected {expected}, got {shown}", kind=ErrorKind.INVALID)


def _decode(kind: Any, value: object, where: str, limits: tuple[object, ...]) -> object:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(kind)
        return _decode(inner, value, where, (*limits, *more))
    if origin in (types.UnionType, typing.Union):
        return _decode_union(typing.get_args(kind), value, where, limits)
    if origin is tuple:
        items = _decode_list(value, where, limits)
        (item_kind, _) = typing.get_args(kind)
        return tuple(_decode(item_kind, item, f"{where}[{index}]", ()) for index, item in enumerate(items))
    if origin is dict:
        return _decode_map(typing.get_args(kind)[1], value, where, limits)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), value, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise _fail(where, "one of " + ", ".join(str(item.value) for item in kind), value) from None
    if kind is Any or kind is object:
        return value
    return _decode_scalar(kind, value, where, limits)


def _decode_scalar(kind: Any, value: object, where: str, limits: tuple[object, ...]) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise _fail(
            where, {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind], value
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise _fail(where, "a finite number", str(value))
    most = MAX_TEXT
    for limit in limits:
        if isinstance(limit, Range) and isinstance(value, int | float) and not limit.low <= value <= limit.high:
            raise _fail(where, f"a number from {limit.low:g} to {limit.high:g}", value)
        if isinstance(limit, Length):
            most = limit.most
    if isinstance(value, str) and len(value) > most:
        raise _fail(where, f"at most {most} characters", value)
    return value


def _decode_union(kinds: tuple[Any, ...], value: object, where: str, limits: tuple[object, ...]) -> object:
    if value is None and types.NoneType in kinds:
        return None
    real = [kind for kind in kinds if kind is not types.NoneType]
    if len(real) != 1:
        raise TypeError(f"{where}: only unions with None are supported")
    return _decode(real[0], value, where, limits)


def _decode_list(value: object, where: str, limits: tuple[object, ...]) -> list[object]:
    most = next((limit.most for limit in limits if isinstance(limit, Length)), MAX_ITEMS)
    if not isinstance(value, list | tuple):
        raise _fail(where, "a list", value)
    if len(value) > most:
        raise _fail(where, f"at most {most} items", len(value))
    return list(value)


def _decode_map(item_kind: Any, value: object, where: str, limits: tuple[object, ...]) -> dict[str, object]:
    most = next((limit.most for limit in limits if isinstance(limit, Length)), MAX_ITEMS)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _fail(where, "a map with text keys", value)
    if len(value) > most:
        raise _fail(where, f"at most {most} entries", len(value))
    return {key: _decode(item_kind, item, f"{where}.{key}", ()) for key, item in value.items()}


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _decode_dataclass(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _fail(where, f"a map ({kind.__name__})", value)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(str(key) for key in value.keys() - fields.keys()):
        raise RookeryError(
            f"{where}: unknown key {unknown[0]!r}; known are {', '.join(fields)}", kind=ErrorKind.INVALID
        )
    found: dict[str, object] = {}
    for name, field in fields.items():
        if name in value:
            found[name] = _decode(_hints(kind)[name], value[name], f"{where}.{name}", ())
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RookeryError(f"{where}: the key {name!r} is missing", kind=ErrorKind.INVALID)
    try:
        return kind(**found)
    except ValueError as error:
        raise RookeryError(f"{where}: {error}", kind=ErrorKind.INVALID) from error
