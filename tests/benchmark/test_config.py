"""A setting that does not fit is refused with a message that says which one would."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from benchmark.config import BadConfiguration, build


@dataclass(frozen=True)
class Settings:
    steps: int
    learning_rate: float = 0.1
    decay: float | None = None
    name: str = "plain"
    nesterov: bool = False
    noise: Literal["fresh", "reused"] = "reused"
    sizes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Nested:
    rates: tuple[float, ...] = ()
    table: dict[str, Any] = field(default_factory=dict)


def make(**values: Any) -> Settings:
    return build(Settings, {"steps": 1, **values}, "[student] of sweep.toml")


def test_keys_left_out_keep_their_defaults() -> None:
    assert make() == Settings(steps=1)


def test_values_arrive_in_their_fields() -> None:
    built = make(learning_rate=0.5, decay=0.25, name="x", nesterov=True, noise="fresh", sizes=[3])

    assert built == Settings(1, 0.5, 0.25, "x", True, "fresh", [3])


def test_unknown_key_names_the_nearest_and_the_place() -> None:
    with pytest.raises(BadConfiguration) as error:
        make(learnin_rate=0.1)

    assert "Unknown key 'learnin_rate' in [student] of sweep.toml." in str(error.value)
    assert "Did you mean 'learning_rate'" in str(error.value)
    assert "nesterov" in str(error.value)  # all that are available are listed


def test_missing_key_is_named() -> None:
    with pytest.raises(BadConfiguration, match=r"^\[student\] of sweep\.toml lacks 'steps'\.$"):
        build(Settings, {"name": "x"}, "[student] of sweep.toml")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("steps", 1.0, "int"),
        ("steps", True, "int"),
        ("steps", "1", "int"),
        ("learning_rate", "0.1", "float"),
        ("learning_rate", True, "float"),
        ("learning_rate", None, "float"),
        ("decay", "none", "float or nothing"),
        ("decay", False, "float or nothing"),
        ("name", 3, "a string"),
        ("nesterov", 1, "bool"),
        ("noise", "frsh", "one of 'fresh', 'reused'"),
    ],
)
def test_value_of_the_wrong_type_is_refused(key: str, value: Any, expected: str) -> None:
    with pytest.raises(BadConfiguration) as error:
        make(**{key: value})

    message = str(error.value)
    assert message.startswith(f"{key} in [student] of sweep.toml is {value!r}")
    assert f"expected {expected}." in message


@pytest.mark.parametrize("key", ["learning_rate", "decay"])
def test_whole_number_stands_for_a_float_and_becomes_one(key: str) -> None:
    built = make(**{key: 1})

    assert isinstance(getattr(built, key), float)  # so that 1 and 1.0 give the same cell
    assert built == make(**{key: 1.0})


def test_optional_float_may_be_none() -> None:
    assert make(decay=None).decay is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_no_record_can_hold_is_refused(value: float) -> None:
    with pytest.raises(BadConfiguration, match="expected a finite number"):
        make(learning_rate=value)
    for settings in ({"rates": [0.1, value]}, {"table": {"a": [{"b": value}]}}):
        with pytest.raises(BadConfiguration, match="expected a finite number"):
            build(Nested, settings, "a test")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**5000], ids=["63", "-63", "5000"])
def test_integer_beyond_64_bits_is_refused(value: int) -> None:
    expected = r"expected an integer from -2\^63 to 2\^63-1"
    with pytest.raises(BadConfiguration, match=f"steps in .* is .*; {expected}"):
        make(steps=value)
    with pytest.raises(BadConfiguration, match=expected):
        build(Nested, {"table": {"a": [value]}}, "a test")
    with pytest.raises(BadConfiguration, match=r"name in .* \(int\); expected a string"):
        make(name=value)
    assert make(steps=2**63 - 1).steps == 2**63 - 1
