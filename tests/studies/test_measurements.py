"""Each study against an independent way to the same number."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmark.datasets.store import DatasetName, build_dataset, load_dataset
from benchmark.environments import action_space
from benchmark.errors import ObdBenchError
from benchmark.evaluation import Protocol, score
from benchmark.scaling import Scaling
from benchmark.seeds import episode_seeds
from benchmark.teachers.teacher import NetworkTeacher
from results.shipping import SHIPPED
from studies.misalignment import Lesson, Misalignment
from studies.multi_task import Merged, MultiTask
from studies.rendered_states import RenderedStates, drawn_environment, put_into
from studies.sets import finished_set
from studies.study import NothingToStudy
from studies.transfer import Transfer

AV_PBC = {
    "hopper": "hopper-medium-expert.av_pbc.01faba63f72a.seed0",
    "halfcheetah": "halfcheetah-medium-expert.av_pbc.e942cef231c5.seed0",
}


def test_transfer_scores_a_set_as_a_run_would() -> None:
    study = Transfer(
        sweeps=("hades_cartpole",), depths=(2, 3), widths=(64,), learning_rates=(0.1,),
        steps=(5, 50), students=2, episodes=1,
    )  # fmt: skip
    items = study.items(SHIPPED)
    assert len(items) == 5  # seeds; neither policies nor fixed initialisations are sets
    item = next(iter(items))
    rows = study.measure(item, items[item], SHIPPED)
    assert [(row["grid"], row["depth"], row["steps"], row["home"]) for row in rows] == [
        ("architecture", 2, 50, False),
        ("architecture", 3, 50, True),
        ("training", 3, 5, False),
        ("training", 3, 50, True),
    ]
    found = finished_set(SHIPPED, item)
    by_hand = score(
        found.pairs,
        protocol=Protocol("x", 2, 1, 1, 1),
        student=replace(found.student, depth=2),
        scaling=found.scaling,
        environment="CartPole-v1",
        axes={"study": "transfer", "run": item, "depth": "2", "width": "64"},
    )
    assert rows[0]["return"] == by_hand.returns.mean()


def test_transfer_without_a_sweep_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(NothingToStudy, match="obdbench sweep hades_cartpole"):
        Transfer().items(tmp_path)


def test_merging_fills_up_with_zeros_and_loses_nothing() -> None:
    merged = Merged.of([finished_set(SHIPPED, run) for run in AV_PBC.values()])
    observations, actions = merged.all_pairs()
    assert observations.shape == (128, 17)
    assert actions.shape == (128, 6)
    hopper = finished_set(SHIPPED, AV_PBC["hopper"])
    assert torch.equal(
        observations[:64, :11], hopper.scaling.observations_in(hopper.pairs.observations)
    )
    assert not observations[:64, 11:].any()
    assert not actions[:64, 3:].any()


def test_a_policy_of_one_task_alone_acts_as_its_students_do() -> None:
    found = finished_set(SHIPPED, AV_PBC["hopper"])
    merged = Merged.of([found])

    def first_two(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return observations[..., 3:6]

    states = found.pairs.observations[None, :5].numpy()
    acted = merged.policy(first_two, 0)(states)  # type: ignore[arg-type]
    inputs = found.scaling.observations_in(torch.from_numpy(states))
    np.testing.assert_array_equal(acted, found.scaling.actions_out(inputs[..., 3:6]).numpy())


def test_multi_task_pairs_the_sets_of_a_seed() -> None:
    items = MultiTask().items(SHIPPED)
    assert sorted(items) == [f"{m}-seed{k}" for m in ("av_pbc", "hades") for k in range(5)]
    for source in items.values():
        datasets = [one["dataset"] for one in source["sets"]]
        assert datasets == ["halfcheetah/medium-expert", "hopper/medium-expert"]


@pytest.mark.parametrize("environment", ["hopper", "halfcheetah"])
def test_an_environment_is_put_into_the_state_of_an_observation(environment: str) -> None:
    found = finished_set(SHIPPED, AV_PBC[environment])
    env: Any = gymnasium.make(found.environment).unwrapped
    env.reset(seed=0)
    observation = found.pairs.observations[7].double().numpy().clip(-10, 10)
    put_into(env, observation)
    np.testing.assert_allclose(env._get_obs(), observation, atol=1e-12)


def test_an_observation_that_does_not_tell_the_state_is_refused() -> None:
    env = gymnasium.make("InvertedDoublePendulum-v5").unwrapped
    env.reset(seed=0)
    with pytest.raises(ObdBenchError, match="InvertedDoublePendulum"):
        put_into(env, np.zeros(9))


def test_pictures_show_the_state_and_what_follows() -> None:
    study = RenderedStates(count=1, steps=(0, 3), width=120, height=90)
    item = "hopper/medium-expert"
    rows = study.measure(item, {"run": AV_PBC["hopper"]}, SHIPPED)
    pictures = [Image.open(io.BytesIO(base64.b64decode(row["picture"]))) for row in rows]
    assert [picture.size for picture in pictures] == [(120, 90)] * 2
    environment = drawn_environment("Hopper-v5", 120, 90)
    put_into(
        environment, finished_set(SHIPPED, AV_PBC["hopper"]).pairs.observations[0].double().numpy()
    )
    drawn = np.asarray(environment.render(), dtype=float)
    environment.close()
    first, later = (np.asarray(picture.convert("RGB"), dtype=float) for picture in pictures)
    assert np.abs(first - drawn).mean() < 4  # 64 colours
    assert np.abs(later - drawn).mean() > np.abs(first - drawn).mean()


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("data")))
        name = DatasetName.parse("hopper/medium@2000")
        build_dataset(name)
        yield load_dataset(name)


def _teacher(observation_dim: int, action_dim: int, seed: int = 0) -> NetworkTeacher:
    draw = torch.Generator().manual_seed(seed)
    actor = [
        (torch.randn(8, observation_dim, generator=draw), torch.zeros(8)),
        (torch.randn(action_dim, 8, generator=draw), torch.zeros(action_dim)),
    ]
    return NetworkTeacher(
        actor, [], torch.zeros(observation_dim), torch.ones(observation_dim), "exploration", {}
    )


def test_the_error_is_the_mean_square_over_states_and_numbers_of_an_action(hopper: Any) -> None:
    teacher, scaling = _teacher(11, 3), Scaling.of(hopper, action_space("Hopper-v5"))
    lesson = Lesson.of(torch.from_numpy(hopper.observations[:50]), teacher, scaling)

    class Constant:
        count = 2

        def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
            values = np.zeros((*observations.shape[:2], 3), np.float32)
            values[1] = 0.5
            return values

    expected = [
        np.mean([(action - a) ** 2 for a in lesson.actions.numpy().ravel()]) for action in (0, 0.5)
    ]
    np.testing.assert_allclose(lesson.error(Constant()), expected, rtol=1e-5)  # type: ignore[arg-type]


def test_pivotal_states_are_those_of_gymnasiums_own_episodes_of_the_teacher(hopper: Any) -> None:
    teacher = _teacher(11, 3)
    study = Misalignment(teacher_episodes=3)
    pivotal, surrounding = study.teacher_states(hopper, teacher)
    states = []
    for seed in episode_seeds(3, study="misalignment", purpose="teacher"):
        environment = gymnasium.make("Hopper-v5")
        observation, over = environment.reset(seed=seed)[0], False
        while not over:
            states.append(observation.astype(np.float32))
            action = teacher.act(torch.from_numpy(states[-1][None]))[0].numpy()
            observation, _, terminated, truncated, _ = environment.step(action)
            over = terminated or truncated
    # Products of three rows at once round otherwise than those of one: hence a tolerance.
    np.testing.assert_allclose(np.sort(pivotal, axis=0), np.sort(states, axis=0), atol=1e-4)
    assert len(surrounding) < len(pivotal)


def test_disturbances_begin_after_the_first_period(hopper: Any) -> None:
    teacher = _teacher(11, 3)
    study = Misalignment(teacher_episodes=3, disturb_every=10**6)
    _, surrounding = study.teacher_states(hopper, teacher)
    assert len(surrounding) == 0
