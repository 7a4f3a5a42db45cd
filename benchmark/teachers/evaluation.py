"""What a teacher's deterministic policy earns."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.datasets.dataset import ReferenceReturns
from benchmark.environments.lookup import make_batched
from benchmark.environments.rollout import rollout
from benchmark.scaling import action_bounds
from benchmark.seeds import episode_seeds
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem


def evaluate_teacher(
    teacher: NetworkTeacher,
    env_id: str,
    reference: ReferenceReturns,
    episodes: int,
    seed: int,
    threads: int = 1,
) -> dict[str, float]:
    """Plays whole episodes with the teacher's deterministic action.

    Args:
        teacher: Acts in the unit box, which is mapped to the environment's bounds.
        env_id: Exact gymnasium id.
        reference: Returns that normalisation stands on.
        episodes: How many, stepped as one batch.
        seed: Of the episodes' first states.
        threads: That step the environments; the results do not depend on it.

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
        threads=threads,
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
    low, high = action_bounds(space)
    found = (teacher.observation_dim, teacher.action_dim)
    expected = (observation_dim, len(low))
    if found != expected:
        raise TeacherProblem(
            f"The teacher takes {found[0]} observations and gives {found[1]} actions; {env_id} has "
            f"{expected[0]} and {expected[1]}. Evaluate it where its dataset comes from."
        )
    center, half_range = (high + low) / 2, (high - low) / 2
    return center.astype(np.float32), half_range.astype(np.float32)
