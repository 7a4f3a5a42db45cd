"""No dataset is written that is not consistent, finite and of its environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.datasets.catalog import check_fits_environment, write_dataset
from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns, check_dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.lookup import UnknownEnvironment


def sound(env_id: str = "Hopper-v5", observation_dim: int = 11, action_dim: int = 3) -> Dataset:
    """Two episodes, of 3 and 2 transitions."""
    flags = np.zeros((2, 5), dtype=bool)
    flags[0, 2] = flags[1, 4] = True
    return Dataset(
        name="made/up",
        env_id=env_id,
        states=np.zeros((7, observation_dim), np.float32),
        actions=np.eye(action_dim, dtype=np.float32)[np.arange(5) % action_dim],
        rewards=np.zeros(5, np.float32),
        terminations=flags[0],
        truncations=flags[1],
        lengths=np.array([3, 2]),
        reference=ReferenceReturns(0.0, 1.0),
    )


def _set(key: str, at: Any, value: float) -> Callable[[Dataset], dict[str, Any]]:
    def change(dataset: Dataset) -> dict[str, Any]:
        array = dataset.arrays()[key].copy()
        array[at] = value
        return {key: array}

    return change


BAD: dict[str, tuple[Callable[[Dataset], dict[str, Any]], str]] = {
    "dtype": (
        lambda d: {"rewards": d.rewards.astype(np.float64)},
        "rewards is a ndarray of dtype float64, expected a numpy array of float32",
    ),
    "too few actions": (
        lambda d: {"actions": d.actions[:4]},
        r"actions has shape \[4, 3\], expected \[5, 3\] for 5 transitions in 2 episodes",
    ),
    "too few states": (
        lambda d: {"states": d.states[:5]},
        r"states has shape \[5, 11\], expected \[7, 11\]",
    ),
    "one dimension": (lambda d: {"actions": d.actions[:, 0]}, r"actions has shape \[5\]"),
    "lengths of others": (lambda d: {"lengths": np.array([3, 3])}, "for 6 transitions"),
    "an empty episode": (
        lambda d: {"lengths": np.array([5, 0])},
        "at least one transition in each",
    ),
    "no episodes": (lambda d: {"lengths": np.zeros(0, np.int64)}, "has 0 episodes"),
    "NaN": (_set("states", (3, 1), np.nan), r"states has 1 entries .*\(nan\) in row 3"),
    "infinity": (_set("rewards", 4, np.inf), r"rewards has 1 entries .*\(inf\) in row 4"),
    "no end": (_set("truncations", 4, 0), "1 episodes are without end, the first at transition 4"),
    "an end inside": (_set("terminations", 1, 1), "in the middle of an episode, the first at tr"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_inconsistent_dataset_is_refused_before_anything_is_written(
    case: str, own_datasets: Path
) -> None:
    change, message = BAD[case]
    bad, name = replace(sound(), **change(sound())), DatasetName.parse("hopper/medium@2000")
    before = sorted(name.folder.rglob("*"))

    with pytest.raises(DatasetProblem, match=message):
        check_dataset(bad)
    with pytest.raises(DatasetProblem, match=message):
        write_dataset(name, bad, seed=0, description="bad")
    assert before == sorted(name.folder.rglob("*")), "what was there stays"


def test_a_sound_one_passes_and_fits() -> None:
    check_dataset(sound())
    assert check_fits_environment(sound()).shape == (3,)
    assert check_fits_environment(sound("CartPole-v1", 4, 2)).n == 2


def test_another_environments_dimensions_are_refused() -> None:
    with pytest.raises(DatasetProblem, match=r"has 11 observation and 3 action .* has 17 and 6"):
        check_fits_environment(sound("Walker2d-v5"))


def test_discrete_actions_must_be_one_hot() -> None:
    dataset = sound("CartPole-v1", 4, 2)
    dataset.actions[3] = [0.5, 0.5]
    with pytest.raises(DatasetProblem, match=r"transition 3 is \[0.5, 0.5\].*one-hot"):
        check_fits_environment(dataset)


def test_an_environment_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(UnknownEnvironment, match="pip install gymnasium-robotics"):
        check_fits_environment(sound("AntMaze_UMaze-v4"))
