"""Conversion between an environment's units and the ones that students learn in.

Students see observations of zero mean and unit deviation, and give actions in the unit box. A
discrete action of n is a row of n scores: a dataset holds it one-hot (1 for the action taken, 0
elsewhere), a policy takes the action of its highest score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets.dataset import Dataset
from benchmark.errors import ObdBenchError

STD_FLOOR = 1e-3
"""Added to every standard deviation, as in the preprocessing of D4RL and OBD: a constant dimension
would be divided by zero."""


@dataclass(frozen=True)
class Scaling:
    """Observations to zero mean and unit deviation, actions to the unit box [-1, 1].

    Args:
        mean: Mean of the observations `[obs_dim]`.
        std: Standard deviation of the observations, with the floor added `[obs_dim]`.
        center: Middle of the action bounds, (high + low) / 2 `[act_dim]`.
        half_range: Half their distance, (high - low) / 2 `[act_dim]`.
    """

    mean: Tensor
    std: Tensor
    center: Tensor
    half_range: Tensor

    @classmethod
    def of(cls, dataset: Dataset, action_space: gymnasium.Space[Any]) -> Scaling:
        """Fit to a dataset's observations (sd + 1e-3) and an environment's action bounds.

        Statistics are summed in float64 and used in float32, the students' precision.

        Raises:
            ObdBenchError: The dataset's actions are not the environment's.
        """
        low, high = (torch.from_numpy(bound) for bound in action_bounds(action_space))
        if len(low) != dataset.action_dim:
            raise ObdBenchError(
                f"{dataset.name} has {dataset.action_dim} numbers per action; {dataset.env_id} "
                f"acts in {action_space}, which takes {len(low)}. Name the environment that the "
                f"data were collected in."
            )
        mean, std = map(torch.from_numpy, dataset.observation_moments())
        return cls(
            mean=mean.float(),
            std=std.float() + STD_FLOOR,
            center=(high + low) / 2,
            half_range=(high - low) / 2,
        )

    def observations_in(self, observations: Tensor) -> Tensor:
        """Normalise raw observations `[..., obs_dim]`."""
        _check_last("observations", observations, self.mean)
        return (observations - self.mean) / self.std

    def observations_out(self, observations: Tensor) -> Tensor:
        """Convert normalised observations back to raw ones `[..., obs_dim]`."""
        _check_last("observations", observations, self.mean)
        return observations * self.std + self.mean

    def actions_in(self, actions: Tensor) -> Tensor:
        """Map actions in environment units to the unit box `[..., act_dim]`."""
        _check_last("actions", actions, self.center)
        return (actions - self.center) / self.half_range

    def actions_out(self, actions: Tensor) -> Tensor:
        """Map actions in the unit box to environment units `[..., act_dim]`."""
        _check_last("actions", actions, self.center)
        return actions * self.half_range + self.center

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors, under the names that stored synthetic sets use."""
        return {
            "observation_mean": self.mean,
            "observation_std": self.std,
            "action_center": self.center,
            "action_half_range": self.half_range,
        }


def _check_last(name: str, values: Tensor, expected: Tensor) -> None:
    """Check the last dimension: torch would broadcast one of length 1 without an error."""
    if values.shape[-1:] != expected.shape:
        raise ObdBenchError(
            f"{name} have shape {list(values.shape)}; the last dimension must be {len(expected)}."
        )


def action_bounds(
    space: gymnasium.Space[Any],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of each number of an action `[act_dim]`; scores are in [0, 1].

    Raises:
        ObdBenchError: The space is neither a Box nor Discrete.
    """
    if isinstance(space, Discrete):
        return np.zeros(int(space.n), np.float32), np.ones(int(space.n), np.float32)
    if not isinstance(space, Box):
        raise ObdBenchError(f"Actions are {space}; expected a Box or Discrete space.")
    return space.low.astype(np.float32), space.high.astype(np.float32)
