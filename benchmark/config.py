"""Frozen dataclasses from TOML tables, with errors that name the nearest valid key."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec

from benchmark.errors import ObdBenchError, did_you_mean

T = TypeVar("T")


class BadConfiguration(ObdBenchError):
    """A key that does not exist, or a value of the wrong type."""


def build(prototype: type[T] | T, values: Mapping[str, Any], where: str) -> T:
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
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise BadConfiguration(f"Unknown key {key!r} in {where}. {did_you_mean(key, fields)}")
        try:  # an int where the field is a float becomes one: 1 and 1.0 are the same setting
            converted[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            raise BadConfiguration(
                f"{key} in {where} is {value!r} ({type(value).__name__}); expected "
                f"{_name(hints[key])}."
            ) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise BadConfiguration(f"{key} in {where} is {value}; expected a finite number.")
    if not isinstance(prototype, type):
        return cast(T, dataclasses.replace(prototype, **converted))  # type: ignore[type-var]
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadConfiguration(f"{where} lacks {', '.join(map(repr, missing))}.")
    return cast(T, prototype(**converted))


def _name(hint: Any) -> str:
    """How a message names the type of a field."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))
