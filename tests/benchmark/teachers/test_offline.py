"""What holds for every teacher recipe: resumed, seeded, saved, refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.teachers.cal_ql import CalQL, CORLCalQL
from benchmark.teachers.iql import IQL
from benchmark.teachers.offline import OfflineRecipe
from benchmark.teachers.td3_bc import TD3BC
from benchmark.teachers.teacher import TeacherProblem
from benchmark.teachers.teacher_files import load_teacher, save_teacher

SMALL = {"steps": 12, "batch_size": 16, "width": 8, "report_every": 4, "decay_from": 0.5}
RECIPES: list[OfflineRecipe] = [
    TD3BC(**SMALL),  # type: ignore[arg-type]
    IQL(**SMALL),  # type: ignore[arg-type]
    CalQL(**SMALL, candidates=2),  # type: ignore[arg-type]
    CORLCalQL(**SMALL, candidates=2),  # type: ignore[arg-type]
]
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


class Killed(Exception):
    pass


@every_recipe
def test_a_killed_training_goes_on_to_the_same_teacher(
    recipe: OfflineRecipe, toy: Dataset, tmp_path: Path
) -> None:
    """Stopped after its second report, started again: every bit as if never stopped."""

    def kill(step: int, *_: object) -> None:
        if step == 12:
            raise Killed

    whole = recipe.train(toy, 0)
    state = tmp_path / "state"
    with pytest.raises(Killed):
        recipe.train(toy, 0, state=state, progress=kill)
    resumed = recipe.train(toy, 0, state=state)
    for (weight, bias), (expected, expected_bias) in zip(
        [*resumed.actor, *resumed.critics], [*whole.actor, *whole.critics], strict=True
    ):
        assert torch.equal(weight, expected)
        assert torch.equal(bias, expected_bias)


@every_recipe
def test_the_seed_decides(recipe: OfflineRecipe, toy: Dataset) -> None:
    observations = torch.from_numpy(toy.observations)
    first, same, other = (recipe.train(toy, seed).act(observations) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@every_recipe
def test_a_saved_teacher_acts_values_and_draws_as_before(
    recipe: OfflineRecipe, toy: Dataset, tmp_path: Path
) -> None:
    teacher = recipe.train(toy, 0)
    save_teacher(teacher, tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    observations = torch.from_numpy(toy.observations)
    actions = teacher.act(observations)
    assert actions.shape == (60, 3)
    assert torch.equal(loaded.act(observations), actions)
    assert torch.equal(loaded.q(observations, actions), teacher.q(observations, actions))
    drawn = [t.sample(observations, torch.Generator().manual_seed(0)) for t in (teacher, loaded)]
    assert torch.equal(*drawn)
    assert drawn[0].abs().max() <= 1


@every_recipe
def test_losses_are_reported(recipe: OfflineRecipe, toy: Dataset) -> None:
    reports: list[tuple[int, dict[str, float]]] = []
    recipe.train(toy, 0, progress=lambda step, _, losses, __: reports.append((step, losses)))
    assert [step for step, _ in reports] == [4, 8, 12]
    assert {"actor", "critics"} <= reports[0][1].keys()


@every_recipe
def test_a_training_that_diverges_says_so(recipe: OfflineRecipe, toy: Dataset) -> None:
    broken = dataclasses.replace(toy, rewards=np.full(60, 1e38, np.float32))
    with pytest.raises(TeacherProblem, match=f"{recipe.name} on toy diverged before step 4"):
        recipe.train(broken, 0)


@every_recipe
def test_the_state_of_another_training_is_refused(
    recipe: OfflineRecipe, toy: Dataset, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    recipe.train(toy, 0, state=state)
    with pytest.raises(TeacherProblem, match="its seed is 0, here 1"):
        recipe.train(toy, 1, state=state)
    with pytest.raises(TeacherProblem, match="its parameters is"):
        dataclasses.replace(recipe, discount=0.5).train(toy, 0, state=state)


@every_recipe
def test_a_discrete_action_is_the_one_of_the_highest_score(recipe: OfflineRecipe) -> None:
    """CartPole: the dataset's action is learned. Short episodes, so that values are soon right."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200 * 6, 4)).astype(np.float32)
    ends = np.tile([False, False, False, False, True], 200)
    data = Dataset(
        name="toy",
        env_id="CartPole-v1",
        states=states,
        actions=np.zeros((1000, 2), np.float32),
        rewards=np.ones(1000, np.float32),
        terminations=ends,
        truncations=np.zeros(1000, dtype=bool),
        lengths=np.full(200, 5),
        reference=ReferenceReturns(0.0, 1.0),
    )
    right = data.observations[:, 2] > 0
    data.actions[np.arange(1000), right.astype(int)] = 1
    longer = dataclasses.replace(
        recipe, steps=100, batch_size=32, width=32, learning_rate=1e-2, report_every=100
    )
    if isinstance(longer, CalQL):  # the policy sharpens slowly, because the loss seeks entropy
        longer = dataclasses.replace(
            longer, steps=300, learning_rate=3e-3, actor_learning_rate=1e-2
        )
    teacher = longer.train(data, 0)
    observations = torch.from_numpy(data.observations)
    chosen = teacher.act(observations).argmax(1).bool().numpy()
    assert (chosen == right).mean() > 0.9


def test_the_learning_rate_falls_to_zero_over_the_last_part() -> None:
    factors = [RECIPES[0]._decay(step) for step in range(13)]
    assert factors[:7] == [1.0] * 7
    assert factors[9] == pytest.approx(0.5)
    assert factors[12] == 0.0
    constant = dataclasses.replace(RECIPES[0], decay_from=1.0)
    assert [constant._decay(step) for step in range(12)] == [1.0] * 12


def test_actions_outside_the_environments_bounds_are_refused(toy: Dataset) -> None:
    loud = dataclasses.replace(toy, actions=toy.actions * 3)
    with pytest.raises(TeacherProblem, match="times the bounds of Hopper-v5"):
        RECIPES[0].train(loud, 0)


SETTINGS = [
    (type(recipe), field.name, type(field.default))
    for recipe in RECIPES
    for field in dataclasses.fields(recipe)
]


@pytest.mark.parametrize(
    ("recipe", "field"), [(recipe, name) for recipe, name, kind in SETTINGS if kind is int], ids=str
)
def test_counts_below_one_are_refused(recipe: type[OfflineRecipe], field: str) -> None:
    with pytest.raises(TeacherProblem, match=f"{field} of the recipe {recipe.name} is 0; expected"):
        recipe(**{field: 0})


@pytest.mark.parametrize(
    ("recipe", "field"),
    [(recipe, name) for recipe, name, kind in SETTINGS if kind is float],
    ids=str,
)
def test_rates_weights_and_fractions_below_zero_are_refused(
    recipe: type[OfflineRecipe], field: str
) -> None:
    said = f"{field} of the recipe {recipe.name} is -0.5; expected 0 to "
    with pytest.raises(TeacherProblem, match=said):
        recipe(**{field: -0.5})


@pytest.mark.parametrize("field", ["discount", "target_rate", "decay_from", "expectile"])
def test_fractions_above_one_are_refused(field: str) -> None:
    with pytest.raises(TeacherProblem, match=f"{field} of the recipe iql is 1.5; expected 0 to 1"):
        IQL(**{field: 1.5})


def test_every_kind_of_setting_is_among_those_tested() -> None:
    assert {kind for _, _, kind in SETTINGS} == {int, float, str}
    names = {name for _, name, _ in SETTINGS}
    assert names >= {"policy_delay", "candidates", "actor_layers", "alpha", "conservatism"}
