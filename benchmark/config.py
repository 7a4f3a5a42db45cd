"""Frozen dataclasses from TOML tables, with errors that name the nearest valid key."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from benchmark.errors import ObdBenchError, did_you_mean

T = TypeVar("T")


class BadConfiguration(ObdBenchError):
    """A key that does not exist, or a value of the wrong type."""


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass from a mapping; keys left out keep their defaults.

    Args:
        cls: A dataclass of plain values.
        values: E.g. a table of a TOML file.
        where: What the mapping is, for messages: "[student] of sweep.toml".

    Raises:
        BadConfiguration: A key is unknown (with the nearest valid ones) or missing, or a value
            has the wrong type or is not finite (a record could not hold it).
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            raise BadConfiguration(f"Unknown key {key!r} in {where}. {did_you_mean(key, fields)}")
        if not _fits(value, hints[key]):
            raise BadConfiguration(
                f"{key} in {where} is {value!r} ({type(value).__name__}); expected "
                f"{_name(hints[key])}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise BadConfiguration(f"{key} in {where} is {value}; expected a finite number.")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadConfiguration(f"{where} lacks {', '.join(map(repr, missing))}.")
    return cls(**{key: _converted(value, hints[key]) for key, value in values.items()})


def _converted(value: Any, hint: Any) -> Any:
    """An int as a float where the field is one, so that 1 and 1.0 are the same setting."""
    options = typing.get_args(hint) if typing.get_origin(hint) is not None else (hint,)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in options and int not in options else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has a type that a field admits; an int may stand for a float."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    return True


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))
