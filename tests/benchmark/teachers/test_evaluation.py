"""A teacher's return is that of a plain loop over its deterministic policy."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import ReferenceReturns
from benchmark.environments.contacts import FORMER, adds_margins
from benchmark.environments.lookup import UnknownEnvironment
from benchmark.seeds import episode_seeds
from benchmark.teachers.teacher import (
    NetworkTeacher,
    TeacherProblem,
    evaluate_teacher,
    measured_return,
)

REFERENCE = ReferenceReturns(random=-100.0, expert=300.0)


def teacher_of(observation_dim: int, action_dim: int) -> NetworkTeacher:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(action_dim, observation_dim, generator=generator)
    return NetworkTeacher(
        actor=[(weight, torch.zeros(action_dim))],
        critics=[],
        observation_mean=torch.zeros(observation_dim),
        observation_std=torch.ones(observation_dim),
        action_noise="exploration",
        facts={},
    )


@pytest.mark.parametrize(
    ("env_id", "observation_dim", "action_dim"),
    [("Hopper-v4", 11, 3), ("Walker2d-v5", 17, 6), ("Pendulum-v1", 3, 1)],  # Pendulum acts in +-2
)
def test_the_return_is_that_of_a_plain_loop(
    env_id: str, observation_dim: int, action_dim: int
) -> None:
    teacher = teacher_of(observation_dim, action_dim)
    found = evaluate_teacher(teacher, env_id, REFERENCE, episodes=3, seed=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gymnasium.logger, "min_level", gymnasium.logger.ERROR)  # v4 is deprecated
        environment = gymnasium.make(env_id)
    if env_id == "Hopper-v4" and adds_margins(mujoco.__version__):
        environment.unwrapped.model.geom_margin[:] = 0.0005  # type: ignore[attr-defined]
    high = environment.action_space.high  # type: ignore[attr-defined]
    returns = []
    for seed in episode_seeds(3, purpose="teacher evaluation", environment=env_id, seed=4):
        observation, _ = environment.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            # A batch of the same size, for the same rounding.
            raw = torch.from_numpy(observation.astype(np.float32)).expand(3, -1)
            action = teacher.act(raw)[0].numpy() * high
            observation, reward, terminated, truncated, _ = environment.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    environment.close()
    assert found["episodes"] == 3
    assert found["return"] == pytest.approx(np.mean(returns), rel=1e-4)
    assert found["return_sd"] == pytest.approx(np.std(returns), rel=1e-3)
    assert found["normalized_return"] == pytest.approx((found["return"] + 100) / 4)


def test_a_return_with_other_contacts_is_not_known() -> None:
    measured = {"return": 7.0}
    facts = {"environment": "Hopper-v4", "evaluation": measured}
    assert measured_return(facts) == {}
    assert measured_return(facts | {"contacts": FORMER}) == measured
    assert measured_return(facts | {"environment": "Hopper-v5"}) == measured
    assert measured_return({}) == {}


def test_the_seed_decides() -> None:
    teacher = teacher_of(11, 3)
    first, again, other = (
        evaluate_teacher(teacher, "Hopper-v5", REFERENCE, episodes=2, seed=s) for s in (0, 0, 1)
    )
    assert first == again
    assert first["return"] != other["return"]


def test_one_episode_has_no_spread() -> None:
    found = evaluate_teacher(teacher_of(11, 3), "Hopper-v5", REFERENCE, episodes=1, seed=0)
    assert found["return_sd"] == 0.0


@pytest.mark.parametrize(
    ("env_id", "dims", "message"),
    [
        ("Walker2d-v5", (11, 6), "takes 11 observations and gives 6 actions; Walker2d-v5 has 17"),
        ("Walker2d-v5", (17, 3), "gives 3 actions; Walker2d-v5 has 17 and 6"),
        ("CartPole-v1", (4, 1), "gives 1 actions; CartPole-v1 has 4 and 2"),
    ],
)
def test_a_teacher_of_another_environment_is_refused(
    env_id: str, dims: tuple[int, int], message: str
) -> None:
    with pytest.raises(TeacherProblem, match=message):
        evaluate_teacher(teacher_of(*dims), env_id, REFERENCE, episodes=1, seed=0)


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(UnknownEnvironment, match="Hopper-v5"):
        evaluate_teacher(teacher_of(11, 3), "Hoper-v5", REFERENCE, episodes=1, seed=0)
    with pytest.raises(ValueError, match="episodes is 0, expected at least 1"):
        evaluate_teacher(teacher_of(11, 3), "Hopper-v5", REFERENCE, episodes=0, seed=0)


def test_a_discrete_environment_is_played_with_the_highest_score() -> None:
    """A CartPole teacher that always pushes right earns what gymnasium says of that."""
    teacher = teacher_of(4, 2)
    weight, _ = teacher.actor[-1]
    teacher.actor[-1] = (torch.zeros_like(weight), torch.tensor([-0.5, 0.5]))
    found = evaluate_teacher(teacher, "CartPole-v1", REFERENCE, episodes=3, seed=0)
    seeds = episode_seeds(3, purpose="teacher evaluation", environment="CartPole-v1", seed=0)
    returns = []
    for seed in seeds:
        environment = gymnasium.make("CartPole-v1")
        environment.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = environment.step(1)
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    assert found["return"] == pytest.approx(np.mean(returns))
