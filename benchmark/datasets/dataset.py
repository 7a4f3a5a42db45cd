"""Offline transitions in memory, what makes them consistent, and the normalisation of returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import ChangedInPlace, ObdBenchError

FloatArray = NDArray[np.float32]
OnProgress = Callable[[int, int], None]
"""Called with (done, total)."""

_BLOCK = 1 << 16  # rows held as float64 at a time
_DTYPES = {
    "states": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
    "lengths": np.int64,
}


class DatasetProblem(ObdBenchError):
    """A dataset that is missing, truncated, altered or of the wrong shape."""


@dataclass(frozen=True)
class ReferenceReturns:
    """Mean undiscounted returns of the random policy and of the expert.

    Raises:
        DatasetProblem: They are not finite, or the expert's is not above the random policy's.
    """

    random: float
    expert: float

    def __post_init__(self) -> None:
        if not -np.inf < self.random < self.expert < np.inf:
            raise DatasetProblem(
                f"The reference returns are {self.random} of the random policy and {self.expert} "
                f"of the expert; expected two finite numbers, the expert's above the random "
                f"policy's."
            )

    def normalise(self, returns: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        """Normalized return: 0 is the random policy, 100 the expert (D4RL, arXiv 2004.07219)."""
        return 100.0 * (returns - self.random) / (self.expert - self.random)


AskedReference = ReferenceReturns | Literal["measured"] | None
"""What a user asks for: these returns, measured ones, or (None) those that are known."""


@dataclass(frozen=True)
class Dataset:
    """M transitions of E episodes.

    Args:
        name: Registered name, e.g. `hopper/medium-replay`.
        env_id: The environment that policies are scored in, e.g. `Hopper-v5`.
        states: Every observation of every episode, the last one included `[M + E, obs_dim]`.
        actions: `[M, act_dim]`; one-hot where the environment's actions are Discrete.
        rewards: `[M]`.
        terminations: `[M]` bool, true where the environment ended the episode.
        truncations: `[M]` bool, true where a time limit (or the end of the data) cut it.
        lengths: Transitions of each episode `[E]`.
        reference: Returns that normalisation stands on.
        provenance: Facts about the origin of the data (JSON), kept in their card. Under
            "warnings", sentences that whoever uses the data should have read.
    """

    name: str
    env_id: str
    states: FloatArray = field(repr=False)
    actions: FloatArray = field(repr=False)
    rewards: FloatArray = field(repr=False)
    terminations: NDArray[np.bool_] = field(repr=False)
    truncations: NDArray[np.bool_] = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)
    reference: ReferenceReturns
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def observation_dim(self) -> int:
        return int(self.states.shape[1])

    @property
    def action_dim(self) -> int:
        return int(self.actions.shape[1])

    @property
    def before_an_action(self) -> NDArray[np.bool_]:
        """Which rows of `states` are observations, and not the last one of an episode `[M + E]`."""
        rows = np.ones(len(self.states), dtype=bool)
        rows[np.cumsum(self.lengths + 1) - 1] = False
        return rows

    @cached_property
    def observations(self) -> FloatArray:
        """The observation that each action was taken in `[M, obs_dim]`."""
        return self.states[self.before_an_action]

    @cached_property
    def next_observations(self) -> FloatArray:
        """The observation that each action led to `[M, obs_dim]`."""
        follows_an_action = np.ones(len(self.states), dtype=bool)
        # Episode e starts at row starts[e] + e of `states`: e last observations are before it.
        follows_an_action[self._starts + np.arange(len(self.lengths))] = False
        return self.states[follows_an_action]

    @cached_property
    def timesteps(self) -> NDArray[np.int64]:
        """Position of each transition in its episode, from 0 `[M]`."""
        return np.arange(len(self)) - np.repeat(self._starts, self.lengths)

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode `[E]`."""
        return np.add.reduceat(self.rewards.astype(np.float64), self._starts)

    def observation_moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of `observations`, `[obs_dim]` each.

        Two passes over blocks of rows: another whole copy of the observations, or one in float64,
        need not fit in memory, and E[x^2] - E[x]^2 would cancel where the mean is far from 0.
        """
        rows, count = self.before_an_action, len(self)
        blocks = [slice(first, first + _BLOCK) for first in range(0, len(rows), _BLOCK)]
        mean = sum(self.states[b][rows[b]].sum(0, dtype=np.float64) for b in blocks) / count
        squares = sum(
            np.square(self.states[b][rows[b]].astype(np.float64) - mean).sum(0) for b in blocks
        )
        return np.asarray(mean), np.sqrt(squares / count)

    def returns_to_go(self, discount: float) -> NDArray[np.float64]:
        """Discounted sum of the rewards from each transition to its episode's last one `[M]`.

        Where an episode was truncated, this is less than the policy would have gone on to earn.
        """
        returns = self.rewards.astype(np.float64)  # G_t = r_t holds for last transitions already
        last = self._starts + self.lengths - 1
        # Backwards, G_t = r_t + discount * G_{t+1}, for the transitions of all episodes that are
        # `left` before the last at once: as many Python steps as the longest episode has.
        for left in range(1, int(self.lengths.max())):
            rows = last[self.lengths > left] - left
            returns[rows] += discount * returns[rows + 1]
        return returns

    @cached_property
    def sha256(self) -> str:
        """Digest of all that scores depend on: environment, reference returns, every array."""
        return self._digest()

    def check_unchanged(self) -> None:
        """Check that nobody has written into the arrays since `sha256` was first asked for.

        Raises:
            ChangedInPlace: Somebody has.
        """
        same = self._digest() == self.sha256
        if same and "observations" in vars(self):  # a copy, which can be written into by itself
            same = np.array_equal(self.observations, self.states[self.before_an_action])
        if not same:
            raise ChangedInPlace(
                f"A method changed the transitions of {self.name} in place, which other runs of "
                f"its pack work with. Let it change a copy (`array.copy()`)."
            )

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.env_id} {self.reference}".encode())
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The stored arrays by name."""
        return {name: getattr(self, name) for name in _DTYPES}

    @property
    def _starts(self) -> NDArray[np.int64]:
        """Index of each episode's first transition `[E]`."""
        return np.cumsum(self.lengths) - self.lengths


def check_dataset(dataset: Dataset) -> None:
    """Check types, shapes, finite values, and that every episode ends where `lengths` says.

    Raises:
        DatasetProblem: The message names the array, what was found and what was expected.
    """
    for name, array in dataset.arrays().items():
        if not isinstance(array, np.ndarray) or array.dtype != _DTYPES[name]:
            found = getattr(array, "dtype", "none")
            raise DatasetProblem(
                f"{dataset.name}: {name} is a {type(array).__name__} of dtype {found}, expected a "
                f"numpy array of {np.dtype(_DTYPES[name])}. Convert it where the dataset is made."
            )
    _check_shapes(dataset)
    for name in ("states", "actions", "rewards"):
        check_finite(f"{dataset.name}: {name}", dataset.arrays()[name])
    _check_ends(dataset)


def check_finite(what: str, array: NDArray[Any]) -> None:
    """Raise DatasetProblem with the number of entries that are not finite and the first's row."""
    finite = np.isfinite(array)
    if finite.all():
        return
    at = np.unravel_index(int(finite.argmin()), array.shape)
    raise DatasetProblem(
        f"{what} has {int(array.size - np.count_nonzero(finite)):,} entries that are NaN or "
        f"infinite in float32, the first ({array[at]}) in row {int(at[0])}. Take the data from a "
        f"sound copy, or cut these episodes out of it."
    )


def _check_shapes(dataset: Dataset) -> None:
    episodes, total = len(dataset.lengths), int(dataset.lengths.sum())
    if dataset.lengths.ndim != 1 or total < 1 or dataset.lengths.min() < 1:
        raise DatasetProblem(
            f"{dataset.name} has {episodes} episodes with {total} transitions; expected at least "
            f"one episode, and at least one transition in each."
        )
    for name, array in dataset.arrays().items():
        if name == "lengths":
            continue
        has_columns = name in ("states", "actions")
        rows = total + episodes if name == "states" else total
        expected = (rows, *array.shape[1:2]) if has_columns else (rows,)
        if array.shape != expected or 0 in array.shape or len(expected) != 1 + has_columns:
            raise DatasetProblem(
                f"{dataset.name}: {name} has shape {list(array.shape)}, expected {list(expected)} "
                f"for {total} transitions in {episodes} episodes (states and actions have two "
                f"dimensions). Fix the lengths or the array where the dataset is made."
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
