"""Between an environment's units and the ones that students learn in."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.dataset import Dataset
from benchmark.errors import ObdBenchError

STD_FLOOR = 1e-3
"""Added to every standard deviation, as in D4RL's and OBD's preprocessing."""


@dataclass(frozen=True)
class Scaling:
    """Observations to zero mean and unit deviation, actions to the unit box [-1, 1].

    Args:
        mean, std: Of the observations `[obs_dim]`.
        center, half_range: Of the action bounds `[act_dim]`.
    """

    mean: Tensor
    std: Tensor
    center: Tensor
    half_range: Tensor

    @classmethod
    def of(cls, dataset: Dataset, action_space: gymnasium.spaces.Box) -> Scaling:
        """The dataset's statistics (sd + 1e-3) and the environment's action bounds."""
        low, high = (torch.from_numpy(np.asarray(b, np.float32)) for b in _bounds(action_space))
        return cls(
            mean=torch.from_numpy(dataset.observations.mean(0, dtype=np.float64)).float(),
            std=torch.from_numpy(dataset.observations.std(0, dtype=np.float64)).float() + STD_FLOOR,
            center=(high + low) / 2,
            half_range=(high - low) / 2,
        )

    def observations_in(self, observations: Tensor) -> Tensor:
        """Raw to normalised `[..., obs_dim]`."""
        _check_last("observations", observations, self.mean)
        return (observations - self.mean) / self.std

    def observations_out(self, observations: Tensor) -> Tensor:
        """Normalised to raw `[..., obs_dim]`."""
        _check_last("observations", observations, self.mean)
        return observations * self.std + self.mean

    def actions_in(self, actions: Tensor) -> Tensor:
        """Environment units to the unit box `[..., act_dim]`."""
        _check_last("actions", actions, self.center)
        return (actions - self.center) / self.half_range

    def actions_out(self, actions: Tensor) -> Tensor:
        """Unit box to environment units `[..., act_dim]`."""
        _check_last("actions", actions, self.center)
        return actions * self.half_range + self.center

    def tensors(self) -> dict[str, Tensor]:
        """Its four tensors under the names that stored synthetic sets use."""
        return {
            "observation_mean": self.mean,
            "observation_std": self.std,
            "action_center": self.center,
            "action_half_range": self.half_range,
        }


def _check_last(name: str, values: Tensor, expected: Tensor) -> None:
    """Torch would broadcast a last dimension of 1 without a word."""
    if values.shape[-1:] != expected.shape:
        raise ObdBenchError(
            f"{name} have shape {list(values.shape)}; the last dimension must be {len(expected)}."
        )


def _bounds(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    return space.low, space.high
