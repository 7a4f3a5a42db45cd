"""Robustness: undisturbed it is the record, disturbed it is what one would do by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.evaluation import clones
from benchmark.record import FILE, ConvertedFrom, Record, read_record, record_folder
from benchmark.scaling import Scaling
from benchmark.seeds import episode_seeds
from benchmark.students.student import StudentPolicy
from benchmark.sweep import Sweep
from benchmark.teachers.teacher import NetworkTeacher
from paper_figures.studies.robustness import ACTS, Disturbed, Player, Robustness, change_gradient
from paper_figures.studies.study import NothingToStudy, finished_set, last_axes, source_of
from results.record_store import SHIPPED, save_sweep
from tests.tiny_runs import altered, execute, tiny_spec

NOTHING_CHANGED = {
    "observation_sizes": (0.0,), "action_sizes": (0.0,), "masses": (1.0,), "frictions": (1.0,),
    "students": 2, "episodes": 2,
}  # fmt: skip
SCALING = Scaling(
    mean=torch.tensor([1.0, -1.0]), std=torch.tensor([0.5, 4.0]),
    center=torch.tensor([1.0, 0.0]), half_range=torch.tensor([2.0, 0.5]),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(
    small_dataset_name: str, tiny_teacher: NetworkTeacher, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with a set and a score of the teacher."""
    folder = tmp_path_factory.mktemp("robustness")
    runs = [tiny_spec(method, small_dataset_name) for method in ("random", "teacher")]
    for run in runs:
        execute(run, folder)
    save_sweep(folder, Sweep("tiny", "", tuple(runs)))
    return folder


@pytest.fixture(scope="module")
def study(small_dataset_name: str) -> Robustness:
    return Robustness(
        sweeps=("tiny",), datasets=(small_dataset_name,), methods=("random", "teacher"),
        **NOTHING_CHANGED,
    )  # fmt: skip


def record_of(store: Path, source: dict[str, Any]) -> Record:
    return read_record(store / record_folder(source["run"]) / FILE)


@pytest.mark.parametrize("method", ["random", "teacher"])
def test_without_a_change_every_disturbance_gives_the_records_own_score(
    store: Path, study: Robustness, small_dataset_name: str, method: str
) -> None:
    source = study.items(store)[f"{small_dataset_name}-{method}"]
    record = record_of(store, source["runs"][0])
    rows = study.measure("", source, store)
    assert [row["kind"] for row in rows] == ["none", *ACTS, "mass", "friction"]
    expected = record.checkpoints[-1].normalized_return
    assert {row["normalized_return"] for row in rows} == {expected}


def test_a_shipped_record_is_played_again_with_its_seeds() -> None:
    study = Robustness(
        sweeps=("hades_cartpole",), datasets=("cartpole/mixed",), methods=("hades",), seeds=1,
        students=20, episodes=2,
        observation_sizes=(), action_sizes=(), masses=(), frictions=(),
    )  # fmt: skip
    item = study.items(SHIPPED)["cartpole/mixed-hades"]
    record = record_of(SHIPPED, item["runs"][0])
    assert last_axes(record) == record.provenance.seeds.scoring
    origin = ConvertedFrom(schema="obdbench.record/1", run_id="an older one")
    older = altered(record, provenance__converted_from=origin)
    assert last_axes(older)["step"] == record.checkpoints[-1].outer_step
    (row,) = study.measure("", item, SHIPPED)
    # Another processor may round otherwise.
    expected = record.checkpoints[-1].normalized_return
    assert row["normalized_return"] == pytest.approx(expected, rel=1e-2)


def test_changed_mass_is_that_of_gymnasiums_own_episodes(
    store: Path, study: Robustness, small_dataset_name: str
) -> None:
    heavier = replace(
        study, masses=(1.5,), observation_sizes=(), action_sizes=(), frictions=(), students=1
    )
    source = heavier.items(store)[f"{small_dataset_name}-random"]
    record = record_of(store, source["runs"][0])
    found = finished_set(store, source["runs"][0])
    protocol = replace(record.spec.protocol, students=1)
    student = clones(
        found.pairs, protocol, record.spec.scoring_student, found.scaling, record.spec.scoring_axes
    )
    returns = []
    for seed in episode_seeds(2, **record.spec.scoring_axes, purpose="evaluation episodes"):
        environment: Any = gymnasium.make("Hopper-v5")
        model = environment.unwrapped.model
        model.body_mass[:] *= 1.5
        model.body_inertia[:] *= 1.5
        mujoco.mj_setConst(model, environment.unwrapped.data)
        observation, over, total = environment.reset(seed=seed)[0], False, 0.0
        while not over:
            action = student(observation.astype(np.float32)[None, None])[0, 0]
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    assert record.normalisation is not None
    undisturbed, row = heavier.measure("", source, store)
    expected = record.normalisation.normalise(float(np.mean(returns)))
    assert row["normalized_return"] == pytest.approx(expected, rel=1e-4)
    assert row["normalized_return"] != pytest.approx(undisturbed["normalized_return"], rel=1e-2)


class Linear:
    """Two policies a = W s without a scaling of their own, and what they were shown."""

    count = 2
    weights = torch.tensor([[[1.0, -2.0], [0.5, 3.0]], [[-1.0, 0.0], [2.0, 1.0]]])

    def __init__(self) -> None:
        self.seen: list[NDArray[np.float32]] = []

    def mode(self, observations: Tensor) -> Tensor:
        return observations @ self.weights.mT

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(observations)
        return np.broadcast_to(np.float32([2.9, -0.4]), observations.shape).copy()


def disturbed(kind: Any, size: float) -> tuple[Disturbed, Linear]:
    policy = Linear()
    player = Player(policy, policy.mode, SCALING, "")
    return Disturbed(player, kind, size, torch.Generator().manual_seed(3)), policy


def test_an_attack_goes_up_the_squared_change_that_a_linear_policy_has() -> None:
    acting, policy = disturbed("attack", 0.3)
    states = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    acting(states)
    start = 2 * torch.rand((2, 5, 2), generator=torch.Generator().manual_seed(3)) - 1
    weights = policy.weights
    # |W d|^2 at d has the gradient 2 W^T W d.
    gradient = 2 * (0.3 * SCALING.std * start) @ weights.mT @ weights
    expected = states + (0.3 * SCALING.std * gradient.sign()).numpy()
    np.testing.assert_allclose(policy.seen[0], expected, rtol=1e-6)
    assert len(np.unique(np.sign(policy.seen[0] - states))) == 2


def test_the_gradient_of_a_students_change_is_that_of_differences_in_float64(
    store: Path, study: Robustness, small_dataset_name: str
) -> None:
    source = study.items(store)[f"{small_dataset_name}-random"]["runs"][0]
    found = finished_set(store, source)
    record = record_of(store, source)
    student = clones(
        found.pairs, record.spec.protocol, record.spec.student, found.scaling, last_axes(record)
    )
    assert isinstance(student, StudentPolicy)
    scaling = Scaling(*(tensor.double() for tensor in vars(found.scaling).values()))
    parameters = [(weight.double(), bias.double()) for weight, bias in student.parameters]
    student = replace(student, scaling=scaling, parameters=parameters)
    draw = torch.Generator().manual_seed(0)
    states = found.pairs.observations.double()[:3].expand(2, -1, -1)
    change = 0.1 * torch.randn(states.shape, generator=draw, dtype=torch.float64)

    def squared(at: Tensor) -> float:
        return float((student.mode(states + at) - student.mode(states)).square().sum())

    gradient, step = change_gradient(student.mode, states, change), 1e-6
    for place in np.ndindex(*states.shape):
        moved = torch.zeros_like(states)
        moved[place] = step
        difference = (squared(change + moved) - squared(change - moved)) / (2 * step)
        assert float(gradient[place]) == pytest.approx(difference, rel=1e-4, abs=1e-7)
    assert not change_gradient(student.mode, states, 0 * change).any()  # hence the random start


def test_noise_on_observations_is_in_standard_deviations_of_the_dataset() -> None:
    acting, policy = disturbed("observation noise", 0.2)
    states = np.zeros((2, 5000, 2), np.float32)
    acting(states)
    np.testing.assert_allclose(policy.seen[0].std((0, 1)), 0.2 * SCALING.std, rtol=0.03)
    assert not states.any()  # what was given is not changed


def test_noise_on_actions_is_in_half_ranges_and_stays_in_the_bounds() -> None:
    acting, policy = disturbed("action noise", 0.1)
    states = np.zeros((2, 5000, 2), np.float32)
    actions = acting(states)
    assert policy.seen[0] is states
    first, second = actions[..., 0], actions[..., 1]
    assert first.max() == 3.0 and (first == 3.0).mean() > 0.25  # 2.9 is 0.05 below its bound
    assert second.min() == -0.5
    np.testing.assert_allclose((first[first < 2.9] - 2.9).std(), 0.1 * 2 * 0.6028, rtol=0.05)
    np.testing.assert_allclose(np.median(second), -0.4, atol=0.003)


def test_another_teacher_than_the_records_is_refused(store: Path, study: Robustness) -> None:
    (source,) = [s for name, s in study.items(store).items() if name.endswith("teacher")]
    other = {"runs": [{**source["runs"][0], "sha256": "f" * 64}]}
    with pytest.raises(NothingToStudy, match=r"a teacher of sha256 f{16}, and td3_bc of"):
        study.measure("", other, store)


def test_what_is_missing_or_ambiguous_is_named(
    store: Path, study: Robustness, small_dataset_name: str
) -> None:
    with pytest.raises(
        NothingToStudy, match=f"Make them: obdbench sweep sdw_main --store {store}$"
    ):
        replace(study, sweeps=("tiny", "sdw_main")).items(store)
    twice = tiny_spec("random", small_dataset_name, synthetic_size=5)
    execute(twice, store)
    save_sweep(store, Sweep("twice", "", (twice,)))
    with pytest.raises(NothingToStudy, match="are both of random on hopper"):
        replace(study, sweeps=("tiny", "twice")).items(store)


def test_the_source_of_a_teachers_score_has_its_digest(store: Path, study: Robustness) -> None:
    (source,) = [s for name, s in study.items(store).items() if name.endswith("teacher")]
    record = record_of(store, source["runs"][0])
    assert record.teacher is not None
    assert source["runs"][0]["sha256"] == record.teacher.sha256
    assert source_of(altered(record, teacher=None))["sha256"] is None
