"""Every recipe's steps against plain implementations of the papers, and the parts they share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import expectile
from torch import nn

from benchmark.datasets.dataset import Dataset
from benchmark.teachers.cal_ql import CalQL, CORLCalQL, sample
from benchmark.teachers.iql import IQL, IQLLearner, expectile_loss
from benchmark.teachers.offline import OfflineRecipe
from benchmark.teachers.td3_bc import TD3BC
from benchmark.teachers.teacher import NetworkTeacher
from tests.plain_teachers import PlainCalQL, PlainIQL, PlainTD3BC, drawn, policy_of, value_of

SMALL: dict[str, Any] = {"steps": 12, "batch_size": 16, "width": 8}

CORL = CORLCalQL(
    **SMALL,
    candidates=3,
    actor_learning_rate=3e-3,  # six steps move the scalars well beyond the tolerance
    initialisation="uniform",  # torch's own log density is not finite where tanh rounds to 1
)


def assert_same(found: nn.Module, expected: nn.Module, critic: int | None = None) -> None:
    """Equal outputs on the same random inputs, as a network or as one of two critics."""
    generator = torch.Generator().manual_seed(7)
    observations = torch.randn(9, 11, generator=generator)
    actions = torch.rand(9, 3, generator=generator) * 2 - 1
    if critic is None:
        values, truth = found(observations), expected(observations)
    else:
        values, truth = (
            found(observations, actions)[critic],
            value_of(expected, observations, actions),
        )
    torch.testing.assert_close(values, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "plain"),
    [
        (TD3BC(**SMALL), PlainTD3BC),
        (IQL(**SMALL, expectile=0.8), PlainIQL),
        (CalQL(**SMALL, candidates=3), PlainCalQL),
        (CORL, PlainCalQL),
    ],
    ids=["td3_bc", "iql", "cal_ql", "cal_ql_corl"],
)
def test_steps_equal_a_plain_implementation_of_the_paper(
    recipe: OfflineRecipe, plain: Any, toy: Dataset
) -> None:
    learner: Any = recipe.learner(toy, seed=3, device="cpu")
    truth = plain(learner, toy, recipe)
    for step in range(6):
        draws = learner.draw(step)
        learner.advance(step, draws)
        truth.step(step, draws)
    assert_same(learner.actor, truth.actor)
    for name, other in (("target_actor", None), ("value", None)):
        if hasattr(truth, name):
            assert_same(getattr(learner, name), getattr(truth, name), other)
    for i in range(2):
        assert_same(learner.critics, truth.critics[i], i)
        assert_same(learner.target_critics, truth.targets[i], i)
    if isinstance(recipe, CalQL):
        torch.testing.assert_close(learner.log_temperature, truth.log_alpha)
        found = learner.teacher(6)
        scalars = [found.log_std_multiplier, found.log_std_offset]
        assert scalars == pytest.approx([truth.multiplier.item(), truth.offset.item()], abs=1e-6)
        moved = abs(found.log_std_multiplier - 1) > 1e-3 and abs(found.log_std_offset + 1) > 1e-3
        assert moved == (recipe.log_std_scalars == "trained")
    if isinstance(recipe, IQL):
        torch.testing.assert_close(learner.log_std, truth.log_std)


def test_corls_networks_start_orthogonal_with_gain_and_without_biases(toy: Dataset) -> None:
    teacher = CORLCalQL(**SMALL).learner(toy, seed=0, device="cpu").teacher(0)
    shapes = [weight.shape for weight, _ in teacher.actor]
    assert shapes == [(8, 11), (8, 8), (8, 8), (6, 8)]
    assert [weight.shape for weight, _ in teacher.critics] == [(2, 8, 14), (2, 8, 8), (2, 1, 8)]
    weights = [w for w, _ in teacher.actor] + [w[i] for w, _ in teacher.critics for i in range(2)]
    for weight in weights:  # no matrix here has more rows than columns
        torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(len(weight)))
    assert not any(bias.any() for _, bias in [*teacher.actor, *teacher.critics])


def test_a_drawn_action_has_torchs_log_density() -> None:
    outputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double() * 0.3
    noise = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(1)).double()
    actions, log_prob = sample(outputs, noise, torch.tensor([1.3, -0.8]).double())
    mean, raw = outputs.chunk(2, -1)
    policy = torch.cat((mean, 1.3 * raw - 0.8), -1)
    torch.testing.assert_close(actions, drawn(policy, noise))
    torch.testing.assert_close(log_prob, policy_of(policy).log_prob(actions), rtol=1e-6, atol=1e-6)


def test_the_log_density_stays_finite_where_tanh_is_flat() -> None:
    outputs = torch.tensor([[40.0, 0.0]])
    _, log_prob = sample(outputs, torch.zeros(1, 1), torch.tensor([1.0, -1.0]))
    assert log_prob.item() > 70  # -log(1 - tanh(40)^2) is about 80 - 2 log 2


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_the_value_loss_is_least_at_the_expectile(tau: float) -> None:
    sample = np.random.default_rng(0).normal(size=500)
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([value], line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = expectile_loss(torch.from_numpy(sample) - value, tau)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(expectile(sample, tau), abs=1e-4)


def test_iqls_action_values_are_in_the_environments_units(toy: Dataset) -> None:
    learner = IQLLearner(IQL(**SMALL), toy, seed=0)
    teacher = learner.teacher(0)
    observations, actions = torch.from_numpy(toy.observations), torch.from_numpy(toy.actions)
    scaled = learner.critics(learner.scaling.observations_in(observations), actions)[0]
    expected = scaled.detach() / learner.reward_scale
    torch.testing.assert_close(teacher.q(observations, actions), expected)


def test_iql_draws_around_its_action_with_its_own_deviation(toy: Dataset) -> None:
    learner = IQLLearner(IQL(**SMALL), toy, seed=0)
    learner.log_std.data = torch.tensor([-3.0, -4.0, -5.0])
    teacher = learner.teacher(0)
    observations = torch.from_numpy(toy.observations[:1]).expand(20_000, -1)
    found = teacher.sample(observations, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.mean(0), teacher.act(observations)[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(found.std(0), learner.log_std.exp(), rtol=0.03, atol=0)


def test_drawing_for_many_states_holds_the_hidden_layers_of_few(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = IQLLearner(IQL(**SMALL), toy, seed=0).teacher(0)
    observations = torch.from_numpy(toy.observations)
    at_once = teacher.sample(observations, torch.Generator().manual_seed(0))
    seen: list[int] = []
    outputs = NetworkTeacher._actor_outputs

    def counted(self: NetworkTeacher, block: torch.Tensor) -> torch.Tensor:
        seen.append(len(block))
        return outputs(self, block)

    monkeypatch.setattr(NetworkTeacher, "_actor_outputs", counted)
    monkeypatch.setattr(NetworkTeacher, "BLOCK", 7)
    in_blocks = teacher.sample(observations, torch.Generator().manual_seed(0))
    assert sum(seen) == len(observations) and max(seen) == 7
    torch.testing.assert_close(in_blocks, at_once)
