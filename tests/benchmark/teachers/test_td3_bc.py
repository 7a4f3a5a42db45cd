"""TD3+BC: against a plain implementation, and resumable to the same bits."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.teachers.td3_bc import TD3BC, _Learner
from benchmark.teachers.teacher import TeacherProblem, load_teacher, save_teacher

RECIPE = TD3BC(steps=12, batch_size=16, width=8, report_every=4, decay_from=0.5)


@pytest.fixture
def dataset() -> Dataset:
    """Three random episodes of 20 steps: the algorithm does not care where data come from."""
    rng = np.random.default_rng(0)
    ends = np.zeros(60, dtype=bool)
    ends[[19, 39, 59]] = True
    return Dataset(
        name="toy",
        env_id="Hopper-v5",
        states=rng.normal(size=(63, 5)).astype(np.float32),
        actions=rng.uniform(-1, 1, (60, 2)).astype(np.float32),
        rewards=rng.normal(size=60).astype(np.float32),
        terminations=ends,
        truncations=np.zeros(60, dtype=bool),
        lengths=np.array([20, 20, 20]),
        reference=ReferenceReturns(0.0, 1.0),
    )


def _plain(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(weight.detach().clone())
        linear.bias = nn.Parameter(bias.detach().clone())
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def test_steps_equal_a_plain_implementation_of_the_paper(dataset: Dataset) -> None:
    """Separate critics, separate losses, parameter by parameter updates, eq. 1 to 5 as printed."""
    recipe = RECIPE
    learner = _Learner(recipe, dataset, seed=3, device="cpu")
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    actor = _plain([(m.weight, m.bias) for m in learner.actor if isinstance(m, nn.Linear)])
    stacked = list(zip(learner.critics.weights, learner.critics.biases, strict=True))
    critics = [_plain([(w[i], b[i]) for w, b in stacked]) for i in range(2)]
    targets = copy.deepcopy([actor, *critics])
    actor_optimizer = torch.optim.Adam(actor.parameters(), recipe.learning_rate)
    critic_optimizers = [torch.optim.Adam(c.parameters(), recipe.learning_rate) for c in critics]

    states = torch.from_numpy(dataset.observations)
    mean, std = states.mean(0), states.std(0, correction=0) + 1e-3
    for step in range(6):
        learner.step(actor=step % 2 == 0)

        rows = torch.randint(60, (16,), generator=generator)
        noise = (0.2 * torch.randn(16, 2, generator=generator)).clamp(-0.5, 0.5)
        s = (states[rows] - mean) / std
        s2 = (torch.from_numpy(dataset.next_observations)[rows] - mean) / std
        a = torch.from_numpy(dataset.actions)[rows]
        r = torch.from_numpy(dataset.rewards)[rows]
        d = torch.from_numpy(dataset.terminations)[rows].float()
        with torch.no_grad():
            a2 = (torch.tanh(targets[0](s2)) + noise).clamp(-1, 1)
            q2 = [t(torch.cat((s2, a2), 1))[:, 0] for t in targets[1:]]
            y = r + recipe.discount * (1 - d) * torch.minimum(*q2)
        for critic, optimizer in zip(critics, critic_optimizers, strict=True):
            loss = nn.functional.mse_loss(critic(torch.cat((s, a), 1))[:, 0], y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if step % 2 == 0:
            pi = torch.tanh(actor(s))
            q = critics[0](torch.cat((s, pi), 1))[:, 0]
            loss = -(recipe.alpha / q.abs().mean().detach()) * q.mean()
            loss = loss + nn.functional.mse_loss(pi, a)
            actor_optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            actor_optimizer.step()
            for target, source in zip(targets, [actor, *critics], strict=True):
                for t, p in zip(target.parameters(), source.parameters(), strict=True):
                    t.data = 0.995 * t.data + 0.005 * p.data

    probe = torch.randn(7, 5, generator=generator)
    torch.testing.assert_close(learner.actor(probe), actor(probe), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(learner.target_actor(probe), targets[0](probe), rtol=1e-4, atol=1e-6)
    pairs = torch.cat((probe, torch.zeros(7, 2)), 1)
    for i, critic in enumerate(critics):
        found = learner.critics(probe, torch.zeros(7, 2))[i]
        torch.testing.assert_close(found, critic(pairs)[:, 0], rtol=1e-4, atol=1e-6)


def test_a_killed_training_goes_on_to_the_same_teacher(dataset: Dataset, tmp_path: Path) -> None:
    """Stopped after its second report, started again: every bit as if never stopped."""
    whole = RECIPE.train(dataset, 0)

    class Killed(Exception):
        pass

    def kill(step: int, *_: object) -> None:
        if step == 12:
            raise Killed

    state = tmp_path / "state"
    with pytest.raises(Killed):
        RECIPE.train(dataset, 0, state=state, progress=kill)
    resumed = RECIPE.train(dataset, 0, state=state)
    for (weight, bias), (expected, expected_bias) in zip(
        [*resumed.actor, *resumed.critics], [*whole.actor, *whole.critics], strict=True
    ):
        assert torch.equal(weight, expected)
        assert torch.equal(bias, expected_bias)


def test_the_seed_decides(dataset: Dataset) -> None:
    observations = torch.from_numpy(dataset.observations)
    first, same, other = (RECIPE.train(dataset, seed).act(observations) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_learning_rate_falls_to_zero_over_the_last_part() -> None:
    factors = [RECIPE._decay(step) for step in range(13)]
    assert factors[:7] == [1.0] * 7
    assert factors[9] == pytest.approx(0.5)
    assert factors[12] == 0.0
    constant = dataclasses.replace(RECIPE, decay_from=1.0)
    assert [constant._decay(step) for step in range(12)] == [1.0] * 12


def test_a_saved_teacher_acts_and_values_as_before(dataset: Dataset, tmp_path: Path) -> None:
    teacher = RECIPE.train(dataset, 0)
    save_teacher(teacher, tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    observations = torch.from_numpy(dataset.observations)
    actions = teacher.act(observations)
    assert torch.equal(loaded.act(observations), actions)
    assert torch.equal(loaded.q(observations, actions), teacher.q(observations, actions))
    assert loaded.facts["dataset_sha256"] == dataset.sha256


def test_actions_outside_the_unit_box_are_refused(dataset: Dataset) -> None:
    wide = dataclasses.replace(dataset, actions=dataset.actions * 3)
    with pytest.raises(TeacherProblem, match=r"toy has actions up to .*\[-1, 1\]"):
        RECIPE.train(wide, 0)
