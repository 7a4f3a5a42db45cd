"""What every dataset must satisfy before it is written, whoever made it."""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset, DatasetProblem
from benchmark.environments import make_batched

_DTYPES = {
    "states": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
    "lengths": np.int64,
}


def check_dataset(dataset: Dataset) -> None:
    """Types, shapes, finite values, and that every episode ends where `lengths` says.

    Raises:
        DatasetProblem: Naming the array, what was found and what was expected.
    """
    for name, array in dataset.arrays().items():
        if array.dtype != _DTYPES[name]:
            raise DatasetProblem(
                f"{dataset.name}: {name} has dtype {array.dtype}, expected "
                f"{np.dtype(_DTYPES[name])}. Convert it where the dataset is made."
            )
    _check_shapes(dataset)
    for name in ("states", "actions", "rewards"):
        check_finite(f"{dataset.name}: {name}", dataset.arrays()[name])
    _check_ends(dataset)


def check_finite(what: str, array: NDArray[Any]) -> None:
    """Raises DatasetProblem with the number of entries that are not finite and the first's row."""
    finite = np.isfinite(array)
    if finite.all():
        return
    at = np.unravel_index(int(finite.argmin()), array.shape)
    raise DatasetProblem(
        f"{what} has {int(array.size - np.count_nonzero(finite)):,} entries that are NaN or "
        f"infinite in float32, the first ({array[at]}) in row {int(at[0])}. Take the data from a "
        f"sound copy, or cut these episodes out of it."
    )


def check_fits_environment(dataset: Dataset) -> gymnasium.Space[Any]:
    """The action space of the dataset's environment, which its dimensions must fit.

    Raises:
        UnknownEnvironment: It is not installed; the message says what to install.
        DatasetProblem: The dataset is of another environment.
    """
    with contextlib.closing(make_batched(dataset.env_id, 1)) as environment:
        space, observation_dim = environment.action_space, environment.observation_dim
    action_dim = int(space.n) if isinstance(space, Discrete) else int(np.prod(space.shape or ()))
    found = (dataset.observation_dim, dataset.action_dim)
    if found != (observation_dim, action_dim):
        raise DatasetProblem(
            f"{dataset.name} has {found[0]} observation and {found[1]} action dimensions; "
            f"{dataset.env_id} has {observation_dim} and {action_dim}. Name the environment that "
            f"the data were collected in."
        )
    if isinstance(space, Discrete):
        _check_one_hot(dataset)
    return space


def _check_shapes(dataset: Dataset) -> None:
    episodes, total = len(dataset.lengths), int(dataset.lengths.sum())
    if dataset.lengths.ndim != 1 or total < 1 or dataset.lengths.min() < 1:
        raise DatasetProblem(
            f"{dataset.name} has {episodes} episodes with {total} transitions; expected at least "
            f"one episode, and at least one transition in each."
        )
    expected = {
        "states": (total + episodes, *dataset.states.shape[1:2]),
        "actions": (total, *dataset.actions.shape[1:2]),
        "rewards": (total,),
        "terminations": (total,),
        "truncations": (total,),
    }
    for name, shape in expected.items():
        found = dataset.arrays()[name].shape
        if found != shape or 0 in found or (name in ("states", "actions") and len(found) != 2):
            raise DatasetProblem(
                f"{dataset.name}: {name} has shape {list(found)}, expected {list(shape)} for "
                f"{total} transitions in {episodes} episodes (states and actions have two "
                f"dimensions). Mend the lengths or the array where the dataset is made."
            )


def _check_ends(dataset: Dataset) -> None:
    ended = np.flatnonzero(dataset.terminations | dataset.truncations)
    expected = np.cumsum(dataset.lengths) - 1
    if len(without := np.setdiff1d(expected, ended)):
        raise DatasetProblem(
            f"{dataset.name}: {len(without)} episodes are without end, the first at transition "
            f"{without[0]}, which is neither terminated nor truncated. Mark the last transition of "
            f"an episode that was cut as truncated."
        )
    if len(inside := np.setdiff1d(ended, expected)):
        raise DatasetProblem(
            f"{dataset.name}: {len(inside)} transitions are terminated or truncated in the middle "
            f"of an episode, the first at transition {inside[0]}. Split the episodes there."
        )


def _check_one_hot(dataset: Dataset) -> None:
    actions = dataset.actions
    wrong = np.flatnonzero(((actions != 0) & (actions != 1)).any(1) | (actions.sum(1) != 1))
    if len(wrong):
        raise DatasetProblem(
            f"{dataset.name}: the action of transition {wrong[0]} is {actions[wrong[0]].tolist()}; "
            f"{dataset.env_id} has discrete actions, which are stored one-hot (1 for the action "
            f"taken, 0 for the others)."
        )
