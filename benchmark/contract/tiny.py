"""How a method's hyper-parameters are made so small that a run of it takes milliseconds."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from benchmark.config import BadConfiguration, build
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.method import Method

TINY = {
    "synthetic_size": 6,
    "outer_steps": 4,
    "outer_batch": 8,
    "steps": 6,
    "inner_steps": 4,
    "batch_size": 8,
    "iterations": 4,
    "epochs": 2,
    "population": 4,
    "generations": 4,
    "episodes_per_policy": 1,
    "max_steps": 20,
    "window": 2,
    "stages": 2,
}
"""Values of hyper-parameters that have these names in any method. A field whose default is smaller
keeps it. What else a method needs to be tiny, it says in `tiny: ClassVar[Mapping[str, Any]]`."""


class CannotBeMade(ObdBenchError):
    """A method refuses the hyper-parameters that it is checked with."""


def tiny_method(method_class: type[Method], settings: Mapping[str, Any]) -> Method:
    """The method at its smallest; settings go before its own `tiny`, and that before `TINY`.

    Raises:
        CannotBeMade: It refuses these values.
    """
    own: Mapping[str, Any] = getattr(method_class, "tiny", {})
    hints = typing.get_type_hints(method_class)
    named = {
        field.name: _smaller(TINY[field.name], field.default)
        for field in dataclasses.fields(method_class)
        if field.name in TINY and _takes_a_number(hints[field.name])
    }
    values = {**named, **own, **settings}
    try:
        return build(method_class, values, f"{method_class.__name__}.tiny or --set")
    except Exception as error:  # a method may refuse in any way
        raise CannotBeMade(
            f"{error} It was made with {values}. Where a method needs others to be tiny, it names "
            f"them in `tiny: ClassVar[Mapping[str, Any]]`, or you do with --set."
        ) from error


def require_parameters(method_class: type[Method], settings: Mapping[str, Any]) -> None:
    """Raises BadConfiguration where a setting is not one of the method's hyper-parameters."""
    names = [field.name for field in dataclasses.fields(method_class) if field.init]
    for key in settings:
        if key not in names:
            raise BadConfiguration(
                f"{method_class.__name__} has no parameter {key!r}. {did_you_mean(key, names)}"
            )


def _smaller(tiny: int, default: Any) -> int:
    return min(tiny, default) if isinstance(default, int) else tiny


def _takes_a_number(hint: Any) -> bool:
    return hint is int or int in typing.get_args(hint)
