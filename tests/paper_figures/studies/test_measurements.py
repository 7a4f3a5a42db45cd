"""Each study against an independent way to the same number."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.datasets.catalog import build_dataset, load_dataset
from benchmark.datasets.diversity import PrincipalComponents
from benchmark.datasets.source import DatasetName
from benchmark.density.log_densities import Fit, find_or_fit
from benchmark.environments.lookup import action_space
from benchmark.errors import ObdBenchError
from benchmark.evaluation import score
from benchmark.protocol import Protocol
from benchmark.record import FILE, read_record, record_folder
from benchmark.scaling import Scaling
from benchmark.seeds import episode_seeds, torch_generator
from benchmark.students.heads import MeanHead, bc_loss_gradient
from benchmark.students.student import train_students
from benchmark.teachers.teacher import NetworkTeacher
from paper_figures.studies import state_density
from paper_figures.studies.misalignment import Lesson, Misalignment
from paper_figures.studies.multi_task import Merged, MultiTask
from paper_figures.studies.rendered_states import RenderedStates, drawn_environment, put_into
from paper_figures.studies.state_density import StateDensity
from paper_figures.studies.study import FinishedSet, NothingToStudy, finished_set, source_of
from paper_figures.studies.transfer import Transfer
from results.record_store import SHIPPED, load_sweep, sweep_records

RUNS = {
    "hopper": "hopper-medium-expert.av_pbc.ce83cc58f10c.seed0",
    "halfcheetah": "halfcheetah-medium-expert.av_pbc.a1168423116a.seed0",
}


def source(environment: str) -> dict[str, Any]:
    return source_of(read_record((SHIPPED / record_folder(RUNS[environment])) / FILE))


def shipped_set(environment: str) -> FinishedSet:
    return finished_set(SHIPPED, source(environment))


def test_transfer_scores_a_set_as_a_run_would() -> None:
    study = Transfer(
        sweeps=("hades_cartpole",), depths=(2, 3), widths=(64,), learning_rates=(0.1,),
        steps=(1, 50), students=2, episodes=1,
    )  # fmt: skip
    items = study.items(SHIPPED)
    assert len(items) == 5  # seeds; neither policies nor fixed initialisations are sets
    item = next(iter(items))
    rows = study.measure(item, items[item], SHIPPED)
    assert [(row["grid"], row["depth"], row["steps"], row["home"]) for row in rows] == [
        ("architecture", 2, 50, False),
        ("architecture", 3, 50, True),
        ("training", 3, 1, False),
        ("training", 3, 50, True),
    ]
    found = finished_set(SHIPPED, items[item])
    # One step is too few to balance for ever, so that another draw of students would show.
    for row, change in ((rows[0], {"depth": 2}), (rows[2], {"steps": 1})):
        by_hand = score(
            found.pairs,
            protocol=Protocol("x", 2, 1, 1, 1),
            student=replace(found.student, **change),
            scaling=found.scaling,
            environment="CartPole-v1",
            axes={"study": "transfer", "run": item},
        )
        assert row["return"] == by_hand.returns.mean()
    assert rows[2]["return"] < 500
    assert rows[1]["return"] == rows[3]["return"]  # one student, in both grids


def test_transfer_without_a_sweep_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(NothingToStudy, match=f"obdbench sweep hades_cartpole --store {tmp_path}$"):
        Transfer().items(tmp_path)


def test_merging_fills_up_with_zeros_and_loses_nothing() -> None:
    merged = Merged.of([shipped_set(environment) for environment in RUNS])
    observations, actions = merged.all_pairs()
    assert observations.shape == (128, 17)
    assert actions.shape == (128, 6)
    hopper = shipped_set("hopper")
    assert torch.equal(
        observations[:64, :11], hopper.scaling.observations_in(hopper.pairs.observations)
    )
    assert not observations[:64, 11:].any()
    assert not actions[:64, 3:].any()


def test_the_weighted_loss_of_merged_sets_is_the_sum_of_each_tasks_own_mean() -> None:
    sets = [shipped_set(environment) for environment in RUNS]
    merged = Merged.of(sets)
    actions = merged.all_pairs()[1].double()
    outputs = torch.randn(1, *actions.shape, dtype=torch.float64, requires_grad=True)
    weighted = bc_loss_gradient(MeanHead(), outputs, actions[None], None, merged.weights()[None])
    own = (outputs.tanh() - actions).square()[0]
    alone = own[:64, :3].mean() + own[64:].mean()  # Hopper's actions have three numbers
    torch.testing.assert_close(weighted.loss[0], alone, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(alone, outputs)
    torch.testing.assert_close(weighted.outputs, gradient, rtol=1e-6, atol=1e-12)


def test_merged_sets_keep_their_weights_and_staged_ones_are_refused() -> None:
    one, other = (shipped_set(environment) for environment in RUNS)
    weights = torch.linspace(0, 3, len(one.pairs))
    weighted = replace(one, pairs=replace(one.pairs, weights=weights))
    plain, found = (Merged.of([first, other]).weights() for first in (one, weighted))
    torch.testing.assert_close(found[:64], plain[:64] * (weights / weights.mean())[:, None])
    assert found[64:].equal(plain[64:])
    staged = replace(one.pairs, stages=torch.arange(len(one.pairs)))
    with pytest.raises(NothingToStudy, match="learned in stages, and merged sets all at once"):
        Merged.of([replace(one, pairs=staged), other])


def test_students_of_one_set_are_those_that_scoring_trains() -> None:
    found = shipped_set("hopper")
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    batch = (
        found.scaling.observations_in(found.pairs.observations).expand(2, -1, -1),
        found.scaling.actions_in(found.pairs.actions).expand(2, -1, -1),
    )
    plain = train_students(found.student, lambda step: batch, found.scaling, generators)
    states = found.pairs.observations[None, :7].numpy().repeat(2, axis=0)
    alone = Merged.of([found])
    again = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    acted = alone.policy(alone.train(again), 0)(states)
    np.testing.assert_allclose(acted, plain(states), atol=1e-6)


def test_a_task_of_fewer_numbers_sees_zeros_and_gives_its_own_numbers() -> None:
    sets = [shipped_set(environment) for environment in RUNS]
    seen: list[NDArray[np.float32]] = []

    def students(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(observations)
        return np.arange(6, dtype=np.float32) / 10 + np.zeros((*observations.shape[:2], 6), "f")

    hopper = sets[0]
    states = hopper.pairs.observations[None, :5].numpy()
    acted = Merged.of(sets).policy(students, 0)(states)  # type: ignore[arg-type]
    assert acted.shape == (1, 5, 3)
    np.testing.assert_array_equal(
        acted[0, 0], hopper.scaling.actions_out(torch.tensor([0.0, 0.1, 0.2])).numpy()
    )
    inputs = hopper.scaling.observations_in(torch.from_numpy(states)).numpy()
    np.testing.assert_array_equal(seen[0][..., :11], inputs)
    assert not seen[0][..., 11:].any()


def test_multi_task_measures_both_kinds_of_student_in_every_task() -> None:
    study = MultiTask(methods=("av_pbc",), students=2, episodes=1)
    items = study.items(SHIPPED)
    rows = study.measure("av_pbc-seed0", items["av_pbc-seed0"], SHIPPED)
    assert [(row["environment"], row["trained_on"], row["pairs"]) for row in rows] == [
        ("HalfCheetah-v5", "own", 64),
        ("HalfCheetah-v5", "merged", 128),
        ("Hopper-v5", "own", 64),
        ("Hopper-v5", "merged", 128),
    ]
    assert len({row["return"] for row in rows}) == 4
    assert rows == study.measure("av_pbc-seed0", items["av_pbc-seed0"], SHIPPED)


def test_a_set_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    folder = record_folder(RUNS["hopper"])
    shutil.copytree(SHIPPED / folder, tmp_path / folder)
    (path,) = (tmp_path / folder).glob("set-*.safetensors")
    other = (SHIPPED / folder).with_name("seed1") / path.name
    shutil.copyfile(other, path)
    with pytest.raises(ObdBenchError, match="was scored on a set of sha256"):
        finished_set(tmp_path, source("hopper"))


def test_a_sweep_of_two_cells_on_a_dataset_does_not_say_which_is_meant() -> None:
    with pytest.raises(NothingToStudy, match="are both on hopper/medium-expert"):
        RenderedStates(sweep="sizes").items(SHIPPED)


def test_multi_task_pairs_the_sets_of_a_seed() -> None:
    items = MultiTask().items(SHIPPED)
    assert sorted(items) == [f"{m}-seed{k}" for m in ("av_pbc", "hades") for k in range(5)]
    for source in items.values():
        datasets = [one["dataset"] for one in source["sets"]]
        assert datasets == ["halfcheetah/medium-expert", "hopper/medium-expert"]


@pytest.mark.parametrize("environment", ["hopper", "halfcheetah"])
def test_an_environment_is_put_into_the_state_of_an_observation(environment: str) -> None:
    found = shipped_set(environment)
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
    rows = study.measure(item, source("hopper"), SHIPPED)
    pictures = [Image.open(io.BytesIO(base64.b64decode(row["picture"]))) for row in rows]
    assert [picture.size for picture in pictures] == [(120, 90)] * 2
    environment = drawn_environment("Hopper-v5", 120, 90)
    put_into(environment, shipped_set("hopper").pairs.observations[0].double().numpy())
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


def test_surrounding_states_are_those_that_a_disturbance_led_to() -> None:
    """HalfCheetah falls never, so that all periods are there."""
    data = SimpleNamespace(env_id="HalfCheetah-v5", **_moments(17, 6))
    teacher = _teacher(17, 6)
    study = Misalignment(teacher_episodes=2, disturb_every=40, disturbed=3, watched=4)
    _, surrounding = study.teacher_states(data, teacher)  # type: ignore[arg-type]
    noise = torch_generator(study="misalignment", purpose="disturbance")
    environments = [gymnasium.make("HalfCheetah-v5") for _ in range(2)]
    seeds = episode_seeds(2, study="misalignment", purpose="teacher")
    states = [env.reset(seed=seed)[0] for env, seed in zip(environments, seeds, strict=True)]
    expected = []
    for step in range(1000):
        phase = step % 40
        if step >= 40 and 1 <= phase <= 4:
            expected += [state.astype(np.float32) for state in states]
        actions = teacher.act(torch.from_numpy(np.stack(states).astype(np.float32)))
        if step >= 40 and phase < 3:
            actions = 2 * torch.rand(actions.shape, generator=noise) - 1
        states = [
            env.step(action.numpy())[0] for env, action in zip(environments, actions, strict=True)
        ]
    assert len(expected) == 24 * 4 * 2
    np.testing.assert_array_equal(surrounding.numpy(), np.stack(expected))


def test_the_first_minibatches_of_a_longer_training_are_those_of_a_shorter_one(
    hopper: Any,
) -> None:
    scaling = Scaling.of(hopper, action_space("Hopper-v5"))
    lesson = Lesson.of(torch.from_numpy(hopper.observations), _teacher(11, 3), scaling)
    study = Misalignment(policies=2, batch_size=8)
    draws: list[list[Tensor]] = []

    class Watched(Lesson):
        @property
        def observations(self) -> Any:  # type: ignore[override]
            return self

        def __getitem__(self, rows: Tensor) -> Tensor:
            draws[-1].append(rows)
            return lesson.observations[rows]

    watched = object.__new__(Watched)
    vars(watched).update(actions=lesson.actions, scaling=scaling)
    for steps in (2, 5):
        draws.append([])
        study._train("hopper", steps, watched, scaling)
    short, long = draws
    assert len(long) == len(short) + 3
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))


def test_density_rows_are_the_sampled_states_in_the_plane_with_their_log_densities(
    hopper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    density = find_or_fit(hopper, Fit.of("knn"))
    study = StateDensity(density="knn", sample=30, methods=("av_pbc",))
    found = {
        "density_sha256": density.facts["sha256"],
        "sets": {"av_pbc": source("hopper")},
    }
    facts, *rows = study.measure(hopper.name, found, SHIPPED)
    assert facts["states"] == len(hopper)
    assert [row["whose"] for row in rows] == ["dataset"] * 30 + ["av_pbc"] * 64
    known = density.values.numpy().round(3)
    assert all(row["log_density"] in known for row in rows[:30])
    scaling = Scaling.of(hopper, action_space("Hopper-v5"))
    states = scaling.observations_in(torch.from_numpy(hopper.observations)).double().numpy()
    plane = PrincipalComponents.of(states)
    places = plane.at(states).round(3)
    for row in rows[:30]:
        (at,) = np.nonzero((places == (row["x"], row["y"])).all(1))
        assert row["log_density"] in known[at]
    with pytest.raises(ObdBenchError, match="the runs weighted with 0000"):
        study.measure(hopper.name, found | {"density_sha256": "0000"}, SHIPPED)


def test_the_density_is_the_one_that_the_shown_sets_were_weighted_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`sdr` has another fit of the same name in the same sweep."""
    monkeypatch.setattr(
        state_density, "load_dataset", lambda name: SimpleNamespace(sha256=str(name))
    )
    items = StateDensity().items(SHIPPED)
    weighted = {
        record.run_id: record.density and record.density.sha256
        for record in sweep_records(SHIPPED, load_sweep(SHIPPED, StateDensity().sweep))
    }
    assert items
    for source in items.values():
        assert source["density_sha256"] == weighted[source["sets"]["sdw_obd"]["run"]]


def _moments(observation_dim: int, action_dim: int) -> dict[str, Any]:
    """What a scaling asks of a dataset, for one that is not there."""
    moments = np.zeros(observation_dim), np.ones(observation_dim)
    return {"action_dim": action_dim, "observation_moments": lambda: moments, "name": "none"}


def test_disturbances_begin_after_the_first_period(hopper: Any) -> None:
    teacher = _teacher(11, 3)
    study = Misalignment(teacher_episodes=3, disturb_every=10**6)
    _, surrounding = study.teacher_states(hopper, teacher)
    assert len(surrounding) == 0
