"""Selection: every rule against its definition written out pair by pair, or against scipy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from baselines.selection import RandomSelection, Selection, in_blocks
from baselines.selection_by_coverage import (
    Herding,
    KCentre,
    KMeansPP,
    lloyd_step,
    nearest_states,
    seed_clusters,
)
from baselines.selection_by_value import TopQ, TopReturn
from baselines.selection_sdr import SDR
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.method import BadParameter, Problem, UndeclaredNeed
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec
from tests.baselines.toy import ACTION_DIM, OBSERVATION_DIM, LinearTeacher, Recorder

LENGTHS = (10, 25, 5, 20)
RETURNS = (3.0, 1.0, 4.0, 2.0)
STATES = sum(LENGTHS)
KINDS = (RandomSelection, KMeansPP, KCentre, Herding, TopQ, TopReturn, SDR)
MakeProblem = Callable[..., Problem]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Four invented episodes; actions lie in [1, 5]."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(LENGTHS) - 1
    rewards = np.zeros(STATES, np.float32)
    rewards[ends] = RETURNS
    return Dataset(
        name="invented",
        env_id="Invented-v0",
        states=rng.normal(2.0, 3.0, (STATES + len(LENGTHS), OBSERVATION_DIM)).astype(np.float32),
        actions=rng.uniform(1.0, 5.0, (STATES, ACTION_DIM)).astype(np.float32),
        rewards=rewards,
        terminations=np.zeros(STATES, bool),
        truncations=np.isin(np.arange(STATES), ends),
        lengths=np.array(LENGTHS),
        reference=ReferenceReturns(0.0, 1.0),
    )


@pytest.fixture
def problem(dataset: Dataset) -> MakeProblem:
    """Makes a problem; the seed is all that names it."""

    def make(
        method: Selection, seed: int = 0, teacher: type[LinearTeacher] = LinearTeacher
    ) -> Problem:
        observations = torch.from_numpy(dataset.observations)
        return Problem(
            needs=method.needs,
            student=StudentSpec(),
            scaling=Scaling(
                observations.mean(0),
                observations.std(0),
                torch.full((ACTION_DIM,), 3.0),
                torch.full((ACTION_DIM,), 2.0),
            ),
            axes={"run": f"seed{seed}"},
            loaders={
                "dataset": lambda: dataset,
                "teacher": teacher,
                "log_density": lambda: torch.from_numpy(dataset.observations[:, 1]).double(),
            },
        )

    return make


def made(kind: type[Selection], **parameters: Any) -> Selection:
    """Make a selection of a size that every rule allows, 3 of 4 episodes for `TopReturn`."""
    if issubclass(kind, TopReturn):
        parameters = {"fraction": 0.8, **parameters}
    return kind(**{"synthetic_size": 8, **parameters})


# --- what all of them do ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_submits_distinct_real_pairs_once(
    kind: type[Selection], problem: MakeProblem, dataset: Dataset
) -> None:
    monitor = Recorder()
    method = made(kind, labels="data")
    method.distill(problem(method), monitor)
    assert list(monitor.results) == [0]
    chosen = monitor.results[0]
    rows = {tuple(row): i for i, row in enumerate(dataset.observations.tolist())}
    found = [rows[tuple(row)] for row in chosen.observations.tolist()]
    assert len(set(found)) == 8
    np.testing.assert_array_equal(chosen.actions, dataset.actions[found])


class CountingTeacher(LinearTeacher):
    """Its k-th draw is 0.1 * k off its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0

    def sample(self, observations: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.draws += 1
        return self.act(observations) + 0.1 * self.draws


@pytest.mark.parametrize(("samples", "off"), [(1, 0.1), (4, 0.25)])
@pytest.mark.parametrize("kind", KINDS)
def test_relabelled_pairs_carry_the_mean_of_the_teachers_draws(
    kind: type[Selection], samples: int, off: float, problem: MakeProblem
) -> None:
    monitor = Recorder()
    method = made(kind, labels="teacher", teacher_samples=samples)
    method.distill(problem(method, teacher=CountingTeacher), monitor)
    chosen = monitor.results[0]
    expected = 3 + 2 * (LinearTeacher().act(chosen.observations) + off)
    torch.testing.assert_close(chosen.actions, expected)


def test_a_set_of_no_pairs_or_more_than_the_data_is_refused(problem: MakeProblem) -> None:
    with pytest.raises(BadParameter, match="synthetic_size of RandomSelection is 0; expected 1 or"):
        RandomSelection(synthetic_size=0)
    method = RandomSelection(synthetic_size=STATES + 1)
    with pytest.raises(BadParameter, match=f"is {STATES + 1}; expected 1 to {STATES}"):
        method.distill(problem(method), Recorder())


@pytest.mark.parametrize("kind", [RandomSelection, KMeansPP, KCentre, Herding, TopQ])
def test_all_of_the_data_can_be_chosen(kind: type[Selection], problem: MakeProblem) -> None:
    method = kind(synthetic_size=STATES)
    assert sorted(method.rows(problem(method)).tolist()) == list(range(STATES))


def test_needs_follow_the_labels_and_the_rule(problem: MakeProblem) -> None:
    def using(need: str, **parameters: Any) -> set[type[Selection]]:
        return {kind for kind in KINDS if need in made(kind, **parameters).needs}

    assert using("teacher") == {TopQ, SDR}
    assert using("teacher", labels="teacher") == set(KINDS)
    assert using("log_density") == {SDR}
    assert using("dataset") == set(KINDS)
    with pytest.raises(UndeclaredNeed):
        assert problem(KCentre()).teacher


# --- k-centre -----------------------------------------------------------------------------------


def test_k_centre_takes_the_farthest_state_each_time(problem: MakeProblem) -> None:
    method = KCentre(synthetic_size=12)
    given = problem(method)
    points = given.observations.double().numpy()
    rows = method.rows(given).tolist()
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    for k in range(1, len(rows)):
        assert rows[k] == apart[:, rows[:k]].min(1).argmax()


def test_k_centre_covers_within_twice_the_best_radius(problem: MakeProblem) -> None:
    method = KCentre(synthetic_size=3)
    given = problem(method)
    points = given.observations.double().numpy()
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    best = min(apart[:, list(c)].min(1).max() for c in combinations(range(STATES), 3))
    assert apart[:, method.rows(given).numpy()].min(1).max() <= 2 * best


# --- k-means++ ----------------------------------------------------------------------------------


def test_seeds_are_drawn_by_their_squared_distance() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros((4, 4))
    for _ in range(3000):
        first, second = seed_clusters(points, 2, generator).tolist()
        counts[first, second] += 1
    squared = (points - points.T).square().numpy()
    expected = squared / squared.sum(1, keepdims=True)
    np.testing.assert_allclose(counts.sum(1) / 3000, 0.25, atol=0.03)
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), expected, atol=0.05)


def test_copies_are_seeds_only_when_nothing_else_is_left() -> None:
    points = torch.tensor([[0.0], [7.0], [7.0], [7.0]])
    for seed in range(20):
        rows = seed_clusters(points, 4, torch.Generator().manual_seed(seed)).tolist()
        assert sorted(rows) == [0, 1, 2, 3]
        assert 0 in rows[:2]


def test_lloyd_steps_are_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 4, generator=generator)
    centres = points[:6]
    expected, _ = kmeans2(points.double().numpy(), centres.double().numpy(), 5, minit="matrix")
    for _ in range(5):
        centres = lloyd_step(points, centres)
    np.testing.assert_allclose(centres, expected, atol=1e-5)


def test_a_centre_without_points_stays() -> None:
    points, centres = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [50.0]])
    assert lloyd_step(points, centres).tolist() == [[1.0], [50.0]]


def test_two_centres_do_not_take_the_same_state() -> None:
    points = torch.tensor([[0.0], [5.0], [9.0]])
    assert nearest_states(points, torch.tensor([[4.0], [5.0], [6.0]])).tolist() == [1, 2, 0]


def test_lloyd_steps_bring_the_states_nearer_to_their_medoids(problem: MakeProblem) -> None:
    def cost(steps: int) -> float:
        method = KMeansPP(synthetic_size=6, lloyd_steps=steps)
        totals = []
        for seed in range(10):
            given = problem(method, seed)
            points = given.observations
            apart = torch.cdist(points, points[method.rows(given)])
            totals.append(float(apart.min(1).values.square().sum()))
        return float(np.mean(totals))

    assert cost(10) < 0.95 * cost(0)
    with pytest.raises(BadParameter, match="lloyd_steps is -1; expected 0 or more"):
        KMeansPP(lloyd_steps=-1)


# --- herding ------------------------------------------------------------------------------------


def test_herding_makes_the_best_of_every_next_pair(problem: MakeProblem) -> None:
    method = Herding(synthetic_size=15)
    given = problem(method)
    points = torch.cat((given.observations, given.actions), 1).double().numpy()
    rows: list[int] = []
    for _ in range(15):
        errors = {
            row: np.linalg.norm(points[[*rows, row]].mean(0) - points.mean(0))
            for row in set(range(STATES)) - set(rows)
        }
        rows.append(min(errors, key=errors.__getitem__))
    assert method.rows(given).tolist() == rows


# --- top action value, top return ---------------------------------------------------------------


def test_top_q_takes_the_highest_values_of_the_datas_actions(
    problem: MakeProblem, dataset: Dataset
) -> None:
    for labels in ("data", "teacher"):
        method = TopQ(synthetic_size=7, labels=labels)
        values = 10 * dataset.observations[:, 0] + ((dataset.actions - 3) / 2).sum(1)
        assert method.rows(problem(method)).tolist() == np.argsort(-values)[:7].tolist()


@pytest.mark.parametrize(
    ("fraction", "episodes"), [(0.01, {2}), (0.1, {2}), (0.25, {0, 2}), (0.6, {0, 2, 3})]
)
def test_top_return_draws_from_the_best_episodes_that_fit(
    fraction: float, episodes: set[int], problem: MakeProblem
) -> None:
    size = sum(LENGTHS[e] for e in episodes)
    method = TopReturn(synthetic_size=size, fraction=fraction)
    of_row = np.repeat(np.arange(4), LENGTHS)
    rows = method.rows(problem(method))
    assert sorted(rows.tolist()) == np.flatnonzero(np.isin(of_row, list(episodes))).tolist()
    larger = TopReturn(synthetic_size=size + 1, fraction=fraction)
    with pytest.raises(BadParameter, match=rf"{size + 1}, but.*have {size} transitions. Raise fr"):
        larger.rows(problem(larger))


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(BadParameter, match=f"fraction is {fraction}; expected more than 0"):
        TopReturn(fraction=fraction)


# --- stepwise dual ranking ----------------------------------------------------------------------


def kept_by_definition(
    timesteps: np.ndarray, values: np.ndarray, density: np.ndarray, lambda1: float, lambda2: float
) -> list[int]:
    """The rule read aloud, one transition at a time."""
    kept = []
    for row, t in enumerate(timesteps):
        strictness = np.tanh(t / 100)
        group = timesteps == t
        if values[row] < np.quantile(values[group], lambda1 * strictness):
            continue
        if density[row] > np.quantile(density[group], 1 - lambda2 * strictness):
            continue
        kept.append(row)
    return kept


def test_sdr_keeps_the_valuable_and_the_thin_of_every_time_step() -> None:
    rng = np.random.default_rng(1)
    timesteps = np.concatenate([np.arange(n) for n in rng.integers(50, 300, 20)])
    values, density = rng.normal(size=(2, len(timesteps)))
    kept = SDR(lambda1=0.3, lambda2=0.1).passed(timesteps, values, density)
    assert kept.tolist() == kept_by_definition(timesteps, values, density, 0.3, 0.1)
    assert (timesteps[kept] == 0).sum() == 20, "nothing is removed at the first step"
    shares = [np.isin(np.flatnonzero(timesteps == t), kept).mean() for t in range(200)]
    assert np.mean(shares[:10]) > np.mean(shares[30:60]) > np.mean(shares[100:])


@pytest.mark.parametrize("valued", ["teacher", "data"])
def test_sdr_draws_its_budget_from_what_it_keeps(
    valued: Any, problem: MakeProblem, dataset: Dataset
) -> None:
    method = SDR(lambda1=0.9, lambda2=0.9, valued_action=valued, synthetic_size=10)
    given = problem(method)
    teacher, observations = LinearTeacher(), torch.from_numpy(dataset.observations)
    actions = teacher.act(observations) if valued == "teacher" else given.actions
    values = teacher.q(observations, actions).numpy()
    kept = kept_by_definition(dataset.timesteps, values, dataset.observations[:, 1], 0.9, 0.9)
    assert len(kept) < STATES
    assert set(method.rows(given).tolist()) <= set(kept)
    everything = SDR(lambda1=0.9, lambda2=0.9, valued_action=valued, synthetic_size=len(kept))
    assert sorted(everything.rows(problem(everything)).tolist()) == kept


def test_sdr_that_keeps_too_few_says_what_to_lower(problem: MakeProblem) -> None:
    method = SDR(lambda1=0.9, lambda2=0.9, synthetic_size=STATES)
    with pytest.raises(BadParameter, match=r"lambda2 = 0.9 leave \d+ of 60.*Lower lambda1, lam"):
        method.distill(problem(method), Recorder())
    with pytest.raises(BadParameter, match=r"lambda1 of SDR is 1.0; expected at least 0"):
        SDR(lambda1=1.0)


def test_blocks_are_the_whole() -> None:
    values = torch.arange(40_000.0)
    assert in_blocks(lambda a, b: a - 2 * b, values, values).equal(-values)
