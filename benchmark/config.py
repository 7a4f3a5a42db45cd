"""Frozen dataclasses from TOML tables, with errors that name the nearest valid key."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from benchmark.errors import ObdBenchError, did_you_mean

T = TypeVar("T")


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
            has the wrong type or is not finite (a record could not hold it).
    """
    cls = prototype if isinstance(prototype, type) else type(prototype)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls, include_extras=True)
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise BadConfiguration(f"Unknown key {key!r} in {where}. {did_you_mean(key, fields)}")
        try:  # an int where the field is a float becomes one: 1 and 1.0 are the same setting
            converted[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            known = [name for name in _choices(hints[key]) if isinstance(value, str)]
            hint = f" {did_you_mean(value, known)}" if known else ""
            raise BadConfiguration(
                f"{key} in {where} is {value!r} ({type(value).__name__}); expected "
                f"{_name(hints[key])}.{hint}"
            ) from error
        if not _finite(converted[key]):
            raise BadConfiguration(f"{key} in {where} is {value}; expected a finite number.")
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


def _finite(value: Any) -> bool:
    """Whether no number of a plain value is infinite or nan, however deep it lies."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


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
