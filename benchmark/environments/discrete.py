"""Discrete actions as rows of numbers: one-hot in a dataset, scores from a policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray


def one_hot(actions: NDArray[Any], space: Discrete) -> NDArray[np.float32]:
    """Rows `[..., n]` with 1 for the action taken and 0 elsewhere.

    Args:
        actions: As the environment takes them, `[...]` integers.
        space: Which may start from another number than 0.
    """
    rows: NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)[actions - space.start]
    return rows


def highest(scores: NDArray[Any], space: Discrete) -> NDArray[np.int64]:
    """The action of the highest score `[...]`, the first of equals, from scores `[..., n]`."""
    return np.asarray(scores.argmax(-1) + space.start)
