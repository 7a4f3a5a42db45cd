"""Frozen dataclasses from TOML tables, with errors that name the nearest valid key."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, TypeVar

import msgspec

from benchmark.errors import ObdBenchError, did_you_mean, short

T = TypeVar("T")

LARGEST_INTEGER = 2**63
"""Integers lie below, and not below its negative: tables and other languages have no others."""


class BadConfiguration(ObdBenchError):
    """A key that does not exist, or a value of the wrong type."""


@typing.overload
def build(prototype: type[T], values: Mapping[str, Any], where: str) -> T: ...
@typing.overload
def build(prototype: T, values: Mapping[str, Any], where: str) -> T: ...
def build(prototype: Any, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass with values from a mapping; keys left out keep their defaults.

    Args:
        prototype: A dataclass of plain values, or an instance of one whose values are the defaults.
        values: For example a table of a TOML file.
        where: What the mapping is, for messages: "[student] of sweep.toml".

    Raises:
        BadConfiguration: A key is unknown (with the nearest valid ones) or missing, or a value
            has the wrong type, or is a number that no record holds: not finite, or beyond 64 bits.
    """
    cls = prototype if isinstance(prototype, type) else type(prototype)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = _hints(cls)
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise BadConfiguration(f"Unknown key {key!r} in {where}. {did_you_mean(key, fields)}")
        converted[key] = _fit(key, value, hints[key], where)
    if not isinstance(prototype, type):
        return dataclasses.replace(prototype, **converted)
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadConfiguration(f"{where} lacks {', '.join(map(repr, missing))}.")
    return prototype(**converted)


def convert_fields(settings: Any, where: str) -> None:
    """Convert every field of a frozen dataclass to its declared type, in its `__post_init__`.

    1 and 1.0 are equal, but are written differently: ids and seeds can follow from settings only
    where those that are equal are identical.

    Args:
        settings: A dataclass of plain values.
        where: What it is, for messages: "the student".

    Raises:
        BadConfiguration: A value has the wrong type, or is a number that no record holds: not
            finite, or beyond 64 bits.
    """
    cls: Any = type(settings)
    fields = vars(settings)
    values = [getattr(settings, key) for key in _hints(cls)]
    try:
        fitting = _fitting_known(cls, where, *values)
    except TypeError:  # a value without a hash, such as a list
        fitting = _fitting(cls, where, *values)
    fields.update(fitting)


def _fitting(cls: type, where: str, *values: Any) -> dict[str, Any]:
    """The fields of a dataclass, from their values in order, each as its type."""
    hints = _hints(cls).items()
    return {k: _fit(k, v, hint, where) for (k, hint), v in zip(hints, values, strict=True)}


# A store has thousands of records, and few students. Values of other types are other keys.
_fitting_known = lru_cache(maxsize=1000, typed=True)(_fitting)


def plain(value: Any) -> Any:
    """A value with NumPy's scalars, and other arrays without dimensions, in it as Python's values.

    They compare like Python's, but no id or record can be made of them.
    """
    if type(value) in _SCALARS:
        return value
    if getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


_SCALARS = {str, int, float, bool, type(None)}


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The declared types of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _fit(key: str, value: Any, hint: Any, where: str) -> Any:
    """A value as the type of its field: NumPy's as Python's, an integer for a float as one.

    Raises:
        BadConfiguration: It has another type, or is a number that no record holds.
    """
    value = plain(value)
    try:
        converted = msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        known = [name for name in _choices(hint) if isinstance(value, str)]
        nearest = f" {did_you_mean(value, known)}" if known else ""
        raise BadConfiguration(
            f"{key} in {where} is {short(value)} ({type(value).__name__}); expected "
            f"{_name(hint)}.{nearest}"
        ) from error
    if (expected := _instead(converted)) is not None:
        raise BadConfiguration(f"{key} in {where} is {short(value)}; expected {expected}.")
    # -0.0 equals 0.0, and is written differently.
    return 0.0 if type(converted) is float and converted == 0 else converted


def in_64_bits(value: int) -> bool:
    """Whether a record can hold an integer."""
    return -LARGEST_INTEGER <= value < LARGEST_INTEGER


def _instead(value: Any) -> str | None:
    """What a record can hold instead of a plain value, or of one in it; None where it can."""
    if isinstance(value, float):
        return None if math.isfinite(value) else "a finite number"
    if isinstance(value, int):
        return None if in_64_bits(value) else "an integer from -2^63 to 2^63-1"
    children = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, list | tuple | Mapping):
        return next(filter(None, map(_instead, children)), None)
    return None


def _choices(hint: Any) -> list[str]:
    """The strings that a field may have, where its type lists them."""
    if typing.get_origin(hint) is not typing.Literal:
        return []
    return [choice for choice in typing.get_args(hint) if isinstance(choice, str)]


def _name(hint: Any) -> str:
    """How a message names the type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{_name(arguments[0])}, not an empty one"
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is list:
        return f"a list, each entry {_name(arguments[0])}"
    if origin in (dict, Mapping):
        return "a table"
    if arguments:
        return " or ".join(map(_name, arguments))
    return {str: "a string", type(None): "nothing"}.get(hint, getattr(hint, "__name__", str(hint)))
