"""What a teacher's deterministic policy earns."""

from __future__ import annotations

import os

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from benchmark.datasets.dataset import ReferenceReturns
from benchmark.environments import make_batched, rollout
from benchmark.seeds import episode_seeds
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem


def evaluate_teacher(
    teacher: NetworkTeacher, env_id: str, reference: ReferenceReturns, episodes: int, seed: int
) -> dict[str, float]:
    """Plays whole episodes with the teacher's deterministic action.

    Args:
        teacher: Acts in the unit box, which is mapped to the environment's bounds.
        env_id: Exact gymnasium id.
        reference: Returns that normalisation stands on.
        episodes: How many, stepped as one batch.
        seed: Of the episodes' first states.

    Returns:
        `return` (mean), `return_sd` (over these episodes), `normalized_return`, `episodes`.

    Raises:
        TeacherProblem: The teacher's dimensions are not the environment's.
        UnknownEnvironment, UnsupportedSpace, NoTimeLimit: See `rollout`.
        ValueError: `episodes` is below one.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1.")
    center, half_range = _action_bounds(teacher, env_id)

    def policy(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        actions: NDArray[np.float32] = teacher.act(torch.from_numpy(observations[0])).numpy()
        return (actions * half_range + center)[None]

    returns = rollout(
        env_id,
        policy,
        policies=1,
        episodes=episodes,
        seeds=episode_seeds(episodes, purpose="teacher evaluation", environment=env_id, seed=seed),
        threads=min(torch.get_num_threads(), os.cpu_count() or 1),
    ).returns
    mean = float(returns.mean())
    return {
        "return": mean,
        "return_sd": float(returns.std()),
        "normalized_return": float(reference.normalise(mean)),
        "episodes": episodes,
    }


def _action_bounds(
    teacher: NetworkTeacher, env_id: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Center and half range of each action `[act_dim]`, once the teacher is known to fit."""
    environment = make_batched(env_id, 1)
    try:
        space, observation_dim = environment.action_space, environment.observation_dim
    finally:
        environment.close()
    if not isinstance(space, Box):
        raise TeacherProblem(f"{env_id} acts in {space}; a teacher gives continuous actions (Box).")
    found = (teacher.observation_dim, teacher.action_dim)
    expected = (observation_dim, space.shape[0])
    if found != expected:
        raise TeacherProblem(
            f"The teacher takes {found[0]} observations and gives {found[1]} actions; {env_id} has "
            f"{expected[0]} and {expected[1]}. Evaluate it where its dataset comes from."
        )
    center, half_range = (space.high + space.low) / 2, (space.high - space.low) / 2
    return center.astype(np.float32), half_range.astype(np.float32)
