"""A method sees what it declares, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import Dataset
from benchmark.errors import ChangedInPlace
from benchmark.method import (
    NEEDS,
    BadParameter,
    Method,
    Monitor,
    Problem,
    Shared,
    UndeclaredNeed,
)
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec

HALF = gymnasium.spaces.Box(np.full(3, -0.5, np.float32), np.full(3, 1.5, np.float32))

MakeProblem = Callable[..., Problem]


@pytest.fixture
def make_problem(small_dataset: Dataset) -> MakeProblem:
    """A problem whose loaders count how often each need is loaded, in `loaded`."""

    def make(*needs: str, loaded: list[str] | None = None, **axes: str | int) -> Problem:
        def load(need: str) -> Any:
            if loaded is not None:
                loaded.append(need)
            return small_dataset if need == "dataset" else f"the {need}"

        return Problem(
            needs=frozenset(needs),
            student=StudentSpec(),
            scaling=Scaling.of(small_dataset, HALF),
            axes=axes or {"run": "r"},
            loaders={need: partial(load, need) for need in NEEDS},
        )

    return make


@pytest.mark.parametrize("need", NEEDS)
def test_undeclared_need_raises_and_is_not_even_loaded(
    make_problem: MakeProblem, need: str
) -> None:
    loaded: list[str] = []
    problem = make_problem(*(n for n in NEEDS if n != need), loaded=loaded)

    with pytest.raises(UndeclaredNeed) as error:
        getattr(problem, need)

    assert f"problem.{need}" in str(error.value) and f"Add {need!r}" in str(error.value)
    assert loaded == []


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_dataset_cannot_be_reached_another_way(make_problem: MakeProblem, name: str) -> None:
    with pytest.raises(UndeclaredNeed, match=r"problem\.dataset"):
        getattr(make_problem("environment"), name)


@pytest.mark.parametrize("need", NEEDS)
def test_declared_need_is_loaded_when_first_touched_and_once(
    make_problem: MakeProblem, need: str
) -> None:
    loaded: list[str] = []
    problem = make_problem(need, loaded=loaded)
    assert loaded == []

    first = getattr(problem, need)

    assert first is getattr(problem, need)
    assert loaded == [need]


def test_dimensions_are_there_without_any_need(make_problem: MakeProblem) -> None:
    problem = make_problem()

    assert (problem.observation_dim, problem.action_dim) == (11, 3)


def test_pairs_come_in_the_units_that_students_learn_in(
    make_problem: MakeProblem, small_dataset: Dataset
) -> None:
    problem = make_problem("dataset")
    observations, actions = small_dataset.observations, small_dataset.actions

    expected = (observations - observations.mean(0, np.float64)) / (
        observations.std(0, dtype=np.float64) + 1e-3
    )
    np.testing.assert_allclose(problem.observations.numpy(), expected, rtol=1e-3, atol=1e-4)
    # Bounds are -0.5 and 1.5: the middle is 0.5 and half the range is 1.
    np.testing.assert_allclose(problem.actions.numpy(), actions - 0.5, atol=1e-6)


def test_random_numbers_depend_on_run_purpose_and_step_alone(make_problem: MakeProblem) -> None:
    def draw(purpose: str, step: int = 0, **axes: str | int) -> tuple[float, ...]:
        generator = make_problem(**axes).generator(purpose, step)
        return tuple(torch.randn(3, generator=generator).tolist())

    assert draw("noise", 5, run="a") == draw("noise", 5, run="a")
    different = {
        draw("noise", 5, run="a"),
        draw("noise", 6, run="a"),
        draw("selection", 5, run="a"),
        draw("noise", 5, run="b"),
    }
    assert len(different) == 4


def test_need_that_does_not_exist_is_refused_where_the_method_is_written() -> None:
    with pytest.raises(BadParameter) as error:

        @dataclass(frozen=True)
        class Peeking(Method):
            needs: ClassVar[frozenset[str]] = frozenset({"dataset", "enviroment"})

            def distill(self, problem: Problem, monitor: Monitor) -> None: ...

    assert "Peeking needs 'enviroment'" in str(error.value)
    assert "Did you mean 'environment'" in str(error.value)


def test_what_runs_of_a_pack_have_in_common_is_made_once_per_inputs() -> None:
    shared, made = Shared(), []

    def make(value: float) -> torch.Tensor:
        made.append(value)
        return torch.full((2,), value)

    first = shared.once(("values", "teacher a"), lambda: make(1.0))
    assert shared.once(("values", "teacher a"), lambda: make(2.0)) is first
    assert shared.once(("values", "teacher b"), lambda: make(3.0)).tolist() == [3.0, 3.0]
    assert made == [1.0, 3.0]


def test_a_shared_tensor_that_was_changed_in_place_is_refused() -> None:
    """The other runs of the pack would go on with wrong numbers."""
    shared = Shared()
    actions = shared.once("actions", lambda: torch.ones(2))
    shared.check_unchanged()
    actions.mul_(2)
    message = r"changed a tensor in place .* actions.*clone\(\)"
    with pytest.raises(ChangedInPlace, match=message):
        shared.once("actions", lambda: torch.ones(2))
    with pytest.raises(ChangedInPlace, match=message):
        shared.check_unchanged()
