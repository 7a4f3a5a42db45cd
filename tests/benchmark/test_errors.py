"""What is said of an unknown name: the nearest ones, and how to see the others."""

from __future__ import annotations

import pytest

from benchmark.datasets.d4rl import FAMILY
from benchmark.datasets.source import find_source
from benchmark.errors import did_you_mean
from benchmark.method import METHODS
from benchmark.registry import UnknownName

MANY = [f"method_{letter}" for letter in "abcdefghijklmnopqrst"]


def test_a_few_names_are_always_listed() -> None:
    assert did_you_mean("cicle", ["square", "circle"], "list them") == (
        "Did you mean 'circle'? Available: circle, square."
    )
    assert did_you_mean("x", []) == "Available: (none)."


def test_of_many_names_the_nearest_three_are_said_and_the_command_that_lists_all() -> None:
    said = did_you_mean("method_aa", MANY, "obdbench list")
    assert said.startswith("Did you mean 'method_a' or 'method_")
    assert said.count("'method_") == 3
    assert said.endswith("? Every name: obdbench list.")
    assert did_you_mean("zzz", MANY, "obdbench list") == "Every name: obdbench list."


def test_without_such_a_command_many_names_are_listed_where_none_is_near() -> None:
    assert did_you_mean("method_aa", MANY).endswith("?")
    assert did_you_mean("zzz", MANY) == f"Available: {', '.join(MANY)}."


@pytest.mark.parametrize("typed", ["HOPPER/Medium", "hopper/medium/", " hopper/medium "])
def test_case_spaces_and_slashes_do_not_hide_the_name_that_was_meant(typed: str) -> None:
    near = did_you_mean(typed, ["hopper/medium", "halfcheetah/medium", "walker2d/medium"])
    assert near.startswith("Did you mean 'hopper/medium'")


@pytest.mark.parametrize(
    ("ask", "command"),
    [
        (lambda: METHODS["av_pbcc"], "obdbench list"),
        (lambda: find_source("hopper/medum"), "obdbench data list"),
        (lambda: FAMILY.source("d4rl/hopper-medum-v2"), "obdbench data list"),
    ],
)
def test_the_command_fits_the_kind_of_the_name(ask: object, command: str) -> None:
    with pytest.raises(UnknownName, match=rf"Did you mean .*\? Every name: {command}\.") as error:
        ask()  # type: ignore[operator]
    assert str(error.value).count("'") <= 2 * 4
