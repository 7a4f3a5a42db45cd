"""Scoring of sets: the authors' recipe, how students play, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from benchmark.artefacts import scoring
from benchmark.artefacts.artefact import Artefact, ArtefactProblem
from benchmark.artefacts.score import read_score, write_score
from benchmark.artefacts.scoring import Job, Normalizer, recipe_of, score_batch, score_teacher
from benchmark.environments.batch import SlotTracker, StepResult
from benchmark.errors import ObdBenchError
from benchmark.teachers.teacher import NetworkTeacher

SETTINGS = {
    "WIDTH": 8, "ACTIVATION": "tanh", "LR": 0.01, "UPDATE_EPOCHS": 3, "MAX_GRAD_NORM": 0.5,
    "NUM_ENVS": 2, "NUM_STEPS": 10, "GREEDY_ACT": False,
}  # fmt: skip


def artefact(environment: str = "brax/hopper", **changes: Any) -> Artefact:
    """A set of four pairs, of three numbers in an observation and two in an action."""
    generator = torch.Generator().manual_seed(0)
    observations, actions = (torch.randn(4, size, generator=generator) for size in (3, 2))
    if environment.startswith("minatar/"):
        actions = torch.eye(2).repeat(2, 1)
    card = {
        "kind": "set", "name": "hades/x/D4/seed0", "file": "x.pkl", "file_sha256": "a" * 64,
        "sha256": "b" * 64,
        "environment": environment, "observation_dim": 3, "action_dim": 2,
        "normalization": {"kind": "running", "variance_floor": 1e-8}, "settings": SETTINGS,
        "evolution_settings": {"rollouts_per_candidate": 2}, "initialization_seed": 0,
    }  # fmt: skip
    tensors = {
        "observations": observations, "actions": actions,
        "sigma_observations": torch.full((4, 3), 0.1), "sigma_actions": torch.zeros(4, 2),
    }  # fmt: skip
    return Artefact(card["name"], card | changes, tensors)


class Counting:
    """Environments whose episode of seed s lasts 2 + s % 7 steps, or `length`; a reward of 1."""

    def __init__(
        self, env_id: str, size: int, length: int | None = None, dims: tuple[int, int] = (3, 2)
    ) -> None:
        self.env_id, self.size, self.length = env_id, size, length
        self.observation_dim, actions = dims
        self.max_episode_steps = None
        self.observation_space = Box(-np.inf, np.inf, (dims[0],))
        brax = env_id.startswith("brax")
        self.action_space: Any = Box(-1, 1, (actions,)) if brax else Discrete(actions)
        self.slots, self.left = SlotTracker(size), np.zeros(size, np.int64)
        self.seeds: list[list[int]] = [[] for _ in range(size)]
        self.actions: list[NDArray[Any]] = []

    def reset(self, slots: Any, seeds: Any) -> NDArray[np.float64]:
        for slot, seed in zip(self.slots.start(slots, seeds), seeds, strict=True):
            self.left[slot] = self.length or 2 + seed % 7
            self.seeds[slot].append(seed)
        return np.ones((len(slots), self.observation_dim))

    def step(self, slots: Any, actions: NDArray[Any]) -> StepResult:
        indices = self.slots.require_running(slots)
        self.actions.append(actions)
        self.left[indices] -= 1
        ended = self.left[indices] == 0
        self.slots.finish(indices, ended)
        observations = np.full((len(indices), self.observation_dim), 2.0)
        return StepResult(observations, np.ones(len(indices)), ended, np.zeros_like(ended))

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    """The environments that are made while a batch is scored."""
    found: list[Counting] = []

    def make(env_id: str, size: int) -> Counting:
        found.append(Counting(env_id, size, 13 if env_id.endswith("freeway") else None))
        return found[-1]

    monkeypatch.setattr(scoring, "make_batched", make)
    return found


def test_the_recipe_is_that_of_the_card() -> None:
    brax, minatar = recipe_of(artefact().card), recipe_of(artefact("minatar/breakout").card)
    assert (brax.student.width, brax.student.steps, brax.student.gradient_clip) == (8, 3, 0.5)
    assert (brax.statistic, brax.loss_scale, brax.actions) == ("ended", 1.0, "sampled")
    assert (minatar.statistic, minatar.loss_scale, minatar.student.gradient_clip) == (
        "latest", 0.5, None,
    )  # fmt: skip
    greedy = artefact(settings={**SETTINGS, "GREEDY_ACT": True})
    assert recipe_of(greedy.card).actions == "mode"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"environment": "images/mnist"}, "only sets for brax/... and minatar/"),
        ({"settings": {}}, "has no settings"),
        ({"evolution_settings": {}}, "rollouts_per_candidate"),
    ],
)
def test_a_card_without_a_recipe_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ArtefactProblem, match=expected):
        recipe_of(artefact(**changes).card)


def test_episodes_follow_each_other_until_the_horizon(made: list[Counting], tmp_path: Path) -> None:
    jobs = [Job(artefact(), "population", 3), Job(artefact(), "set", 2)]
    population, one = score_batch(jobs, seed=5, size=20)
    (environment,) = made
    assert environment.size == 20
    assert (len(population.returns), len(population.returns[0]), len(one.returns[0])) == (3, 4, 2)
    assert (population.students_each, one.students_each) == (2, 1)
    slot = 0
    for score in (population, one):
        for row, lengths in zip(score.returns, score.lengths, strict=True):
            for played, steps in zip(row, lengths, strict=True):
                length = 2 + environment.seeds[slot][0] % 7
                # Brax begins every episode from the first state of its environment
                assert set(environment.seeds[slot]) == {environment.seeds[slot][0]}
                assert steps == [length] * (10 // length)
                assert played == [float(length)] * (10 // length)
                slot += 1
    assert len({tuple(seeds) for seeds in environment.seeds[:slot]}) > 10
    path = write_score(tmp_path, population)
    assert read_score(path) == population
    with pytest.raises(AssertionError):  # nothing of the set is in the file
        assert str(float(jobs[0].artefact.tensors["observations"][0, 0]))[:6] in path.read_text()


def test_minatar_draws_every_episode_anew_and_plays_a_first_one_to_its_end(
    made: list[Counting],
) -> None:
    (score,) = score_batch([Job(artefact("minatar/breakout"), "set", 3)], seed=0)
    assert all(len(set(seeds)) == len(seeds) for seeds in made[0].seeds)
    assert made[0].actions[0].dtype == np.int64
    shown = []  # the latest return, step by step
    for row, lengths in zip(score.returns, score.lengths, strict=True):
        for played, steps in zip(row, lengths, strict=True):
            for step in range(1, 11):
                ended = [r for r, end in zip(played, np.cumsum(steps), strict=True) if end <= step]
                shown.append(ended[-1] if ended else 0.0)
    assert score.score == pytest.approx(np.mean(shown))
    last = [[e[-1] for e in row] for row in score.returns]
    assert np.mean(score.by_row("last")) == pytest.approx(np.mean(last))
    (long,) = score_batch([Job(artefact("minatar/freeway"), "set", 3)], seed=0)
    assert long.lengths == [[[13]] * 2] * 3
    assert (long.score, long.first) == (0.0, 13.0)  # none ended within the 10 steps that count


@pytest.mark.parametrize("greedy", [True, False])
def test_students_that_diverged_have_no_score(made: list[Counting], greedy: bool) -> None:
    """Also where the actions are discrete, of which any score names one."""
    changed = {"LR": 1e38, "GREEDY_ACT": greedy, "MAX_GRAD_NORM": 1e38}
    jobs = [Job(artefact("minatar/breakout", settings=SETTINGS | changed), "set", 1)]
    with pytest.raises(ObdBenchError, match="act NaN after 0 environment steps"):
        score_batch(jobs, seed=0)


def test_a_job_does_not_depend_on_its_batch(made: list[Counting]) -> None:
    job, other = Job(artefact(), "population", 2), Job(artefact(), "set", 1)
    (alone,) = score_batch([job], seed=1)
    together = score_batch([other, job], seed=1)[1]
    assert together.returns == alone.returns
    actions = [environment.actions[0] for environment in made]
    np.testing.assert_allclose(actions[0], actions[1][2:], rtol=1e-5)
    (others,) = score_batch([job], seed=2)
    assert others.returns != alone.returns


def test_candidates_around_an_evolved_policy_act_by_their_own_weights(
    made: list[Counting],
) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"bias_0": (8,), "weight_0": (8, 3), "bias_1": (8,), "weight_1": (8, 8),
              "bias_2": (2,), "weight_2": (2, 8)}  # fmt: skip
    weights = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    still = {f"sigma_{key}": torch.zeros(shape) for key, shape in shapes.items()}
    card = artefact("minatar/breakout", kind="policy", normalization={"kind": "none"}).card
    card = card | {
        "settings": {k: v for k, v in SETTINGS.items() if k not in ("LR", "UPDATE_EPOCHS")}
    }
    card["settings"] |= {"GREEDY_ACT": True, "ACTIVATION": "relu"}
    card["evolution_settings"] = {"rollouts_per_candidate": 1}
    (score,) = score_batch([Job(Artefact("p", card, weights | still), "population", 2)], seed=0)
    assert (score.student, score.students_each, len(score.returns)) == (None, 1, 2)
    hidden = torch.ones(3)  # the first observation
    for layer in range(3):
        hidden = weights[f"weight_{layer}"] @ hidden + weights[f"bias_{layer}"]
        hidden = hidden.relu() if layer < 2 else hidden
    assert made[0].actions[0].tolist() == [int(hidden.argmax())] * 4
    moving = {f"sigma_{key}": torch.full(shape, 0.5) for key, shape in shapes.items()}
    job = Job(Artefact("p", card, weights | moving), "population", 400)
    drawn = scoring._evolved(job, 0).parameters
    for layer, (weight, bias) in enumerate(drawn):
        off = weight - weights[f"weight_{layer}"]
        assert off.std() == pytest.approx(0.5, rel=0.05)
        assert (bias - weights[f"bias_{layer}"]).std() == pytest.approx(0.5, rel=0.1)
        assert off.mean(0).abs().max() < 0.12  # five standard errors


def test_candidates_are_drawn_by_the_state_deviation_and_a_set_is_itself() -> None:
    found = artefact()
    many = [scoring._pairs(Job(found, "population", 1), 0, row) for row in range(2000)]
    observations = torch.stack([pair[0] for pair in many])
    deviation = (observations - found.tensors["observations"]).std(0)
    torch.testing.assert_close(deviation, torch.full((4, 3), 0.1), rtol=0.1, atol=0)
    assert all(torch.equal(pair[1], found.tensors["actions"]) for pair in many)
    assert scoring._pairs(Job(found, "set", 1), 0, 3)[0] is found.tensors["observations"]


def test_running_statistics_are_those_of_all_observations_so_far() -> None:
    students, environments, steps = 3, 4, 5
    drawn = np.random.default_rng(0).normal(3, 2, (steps, students, environments, 2))
    normalizer = Normalizer(torch.zeros(3, 1, 2), torch.ones(3, 1, 2), 1e-8, running=True)
    for step in range(steps):
        found = normalizer(drawn[step].astype(np.float32))
        for student in range(students):
            seen = drawn[: step + 1, student].reshape(-1, 2)
            # the weight of the first statistics, mean 0 and variance 1, is 1e-4 observations
            expected = (drawn[step, student] - seen.mean(0)) / seen.std(0)
            np.testing.assert_allclose(found[student], expected, rtol=1e-3, atol=1e-3)


def test_constants_are_the_artefacts_and_clip_nothing() -> None:
    mean, variance = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[4.0, 0.0]]])
    normalizer = Normalizer(mean, variance, 1e-8, running=False)
    found = [normalizer(np.float32([[[3.0, 2.5]]])) for _ in range(2)]
    np.testing.assert_allclose(found, [[[[1.0, 0.5e4]]]] * 2, rtol=1e-4)


def test_a_set_for_another_environment_is_refused(made: list[Counting]) -> None:
    wrong = artefact()
    wrong.tensors["observations"] = torch.zeros(4, 5)  # type: ignore[index]
    with pytest.raises(ArtefactProblem, match="has 5 numbers per observation and 2 per action; br"):
        score_batch([Job(wrong, "set", 1)], seed=0)


def test_a_teacher_is_scored_by_its_episodes() -> None:
    weight = torch.randn(3, 11, generator=torch.Generator().manual_seed(1))
    facts = {
        "environment": "Hopper-v4", "artefact_file": "c.pt", "checkpoint_sha256": "c" * 64,
        "sha256": "d" * 64,
    }  # fmt: skip
    actor = [(weight, torch.zeros(3))]
    teacher = NetworkTeacher(actor, [], torch.zeros(11), torch.ones(11), "exploration", facts)
    score = score_teacher("obd/hopper-medium-v2", teacher, 2, [0, 1])
    assert np.shape(score.returns) == (2, 2, 1)
    assert score.score == score.first == pytest.approx(np.mean(score.returns))
    assert score.returns[0] != score.returns[1]
