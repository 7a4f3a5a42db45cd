"""Files in D4RL's format, made up, and D4RL's own loop over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

OBSERVATIONS, ACTIONS = 11, 3
"""Hopper's."""

Arrays = dict[str, NDArray[Any]]


def made_up(lengths: list[int], ends: str, seed: int = 0) -> Arrays:
    """Rows of random numbers in episodes of these lengths.

    Args:
        lengths: Rows of each episode.
        ends: How each ends: (t)erminal, time(o)ut, (b)oth or (n)ot at all.
        seed: Of the numbers.
    """
    total, generator = sum(lengths), np.random.default_rng(seed)
    last = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros((2, total), dtype=bool)
    terminals[last] = [end in "tb" for end in ends]
    timeouts[last] = [end in "ob" for end in ends]
    return {
        "observations": generator.standard_normal((total, OBSERVATIONS)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (total, ACTIONS)).astype(np.float32),
        "rewards": generator.standard_normal(total).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def with_next_observations(arrays: Arrays) -> Arrays:
    """As a file that has them: the next row's within an episode, another observation at its end."""
    following = np.roll(arrays["observations"], -1, axis=0)
    ended = arrays["terminals"] | arrays["timeouts"]
    ended[-1] = True
    following[ended] += 100
    return {**arrays, "next_observations": following}


def write_file(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
        file["infos/action_log_probs"] = np.zeros(len(arrays["rewards"]), np.float32)
        file["metadata/algorithm"] = "SAC"
    return path


def qlearning_view(arrays: Arrays) -> Arrays:
    """What `d4rl.qlearning_dataset(env, terminate_on_end=False)` makes of a file, row by row."""
    found: dict[str, list[Any]] = {
        key: [] for key in ("observations", "actions", "next_observations", "rewards", "terminals")
    }
    for row in range(len(arrays["rewards"]) - 1):
        if arrays["timeouts"][row]:
            continue
        found["observations"].append(arrays["observations"][row])
        found["next_observations"].append(arrays["observations"][row + 1])
        found["actions"].append(arrays["actions"][row])
        found["rewards"].append(arrays["rewards"][row])
        found["terminals"].append(bool(arrays["terminals"][row]))
    return {key: np.array(values) for key, values in found.items()}
