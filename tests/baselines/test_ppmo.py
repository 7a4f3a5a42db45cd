"""PPMO: its gradient, its advantages and its units, each against another way of computing them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.ppmo import (
    PPMO,
    RATES,
    Batch,
    Learned,
    Moments,
    PPMORun,
    distribution,
    generalised_advantages,
    inner_step,
    ppo_loss,
)
from benchmark.errors import ObdBenchError
from benchmark.evaluation import score
from benchmark.method import BadParameter, Method, Policy, Problem, State
from benchmark.protocol import Protocol
from benchmark.scaling import STD_FLOOR, Scaling
from benchmark.spec import RunSpec
from benchmark.students.optimisers import Adam
from benchmark.students.spec import RECIPES, StudentSpec
from benchmark.students.student import train_on_set
from benchmark.synthetic_set import NotFinite, SyntheticSet

SMALL: dict[str, Any] = {
    "synthetic_size": 5, "outer_steps": 2, "environments": 3, "rollout": 40, "minibatch": 32,
    "width": 8,
}  # fmt: skip
CARTPOLE = PPMO(**SMALL, head="mean")
HOPPER = PPMO(**SMALL)
DIMENSIONS = {"CartPole-v1": (4, 2, 0.5), "Hopper-v5": (11, 3, 0.0)}
"""Numbers in an observation and an action, and the middle of the actions' bounds."""


class Recorder:
    """A monitor that keeps what it is handed."""

    def __init__(self, every: int = 1) -> None:
        self.every, self.counted = every, 0
        self.results: dict[int, SyntheticSet] = {}
        self.facts: dict[str, float | str] = {}

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        assert isinstance(result, SyntheticSet)
        self.results[step] = result

    def resume(self) -> State | None:
        return None

    def save(self, step: int, state: Callable[[], State]) -> None:
        pass

    def progress(self, step: int, total: int) -> None:
        pass

    def count_environment_steps(self, steps: int) -> None:
        self.counted += steps

    def note(self, **facts: float | str) -> None:
        self.facts |= facts


def make_problem(method: Method, env_id: str) -> Problem:
    observations, actions, center = DIMENSIONS[env_id]
    half_range = torch.full((actions,), 0.5 if center else 1.0)
    return Problem(
        needs=method.needs,
        student=method.student_for(StudentSpec()),
        scaling=Scaling(
            torch.full((observations,), 7.0), torch.full((observations,), 3.0),
            torch.full((actions,), center), half_range,
        ),
        axes={"run": "0"},
        loaders={"environment": lambda: env_id},
    )  # fmt: skip


def new_run(method: PPMO, env_id: str) -> PPMORun:
    return PPMORun(method, make_problem(method, env_id), Recorder())


def draw_learned(*, discrete: bool) -> Learned:
    drawn = torch.Generator().manual_seed(3)
    shapes = (5, 4), (5, 2), (0,) if discrete else (2,)
    tensors = [torch.randn(*s, generator=drawn, dtype=torch.float64) for s in shapes]
    return Learned(*tensors, torch.tensor(0.7, dtype=torch.float64))


def plain_loss(
    flat: list[Tensor], learned: Learned, batch: Batch, values: Tensor, settings: PPMO
) -> Tensor:
    """The loss of PPO after the inner step, with the network's derivatives written out by hand.

    Sums over pairs and layers are loops and `einsum`s, distributions their formulas.
    """
    (w1, w2, w3), (b1, b2, b3) = flat[:6:2], flat[1:6:2]
    x, y, target, rate = learned
    h1 = torch.tanh(torch.einsum("ni,hi->nh", x, w1) + b1)
    h2 = torch.tanh(torch.einsum("nh,kh->nk", h1, w2) + b2)
    out = torch.einsum("nk,ak->na", h2, w3) + b3
    discrete = len(target) == 0
    if discrete:
        delta3 = 2 * (out.tanh() - y) * (1 - out.tanh() ** 2) / y.numel()
    else:
        delta3 = 2 * (out - y) / y.numel()
    delta2 = torch.einsum("na,ak->nk", delta3, w3) * (1 - h2**2)
    delta1 = torch.einsum("nk,kh->nh", delta2, w2) * (1 - h1**2)
    steps = [
        torch.einsum("nh,ni->hi", delta1, x), delta1.sum(0),
        torch.einsum("nk,nh->kh", delta2, h1), delta2.sum(0),
        torch.einsum("na,nk->ak", delta3, h2), delta3.sum(0),
    ]  # fmt: skip
    w1, b1, w2, b2, w3, b3 = (old - rate * step for old, step in zip(flat[:6], steps, strict=True))
    s = batch.observations
    out = (((s @ w1.T + b1).tanh() @ w2.T + b2).tanh()) @ w3.T + b3
    if discrete:
        logs = out - out.exp().sum(1, keepdim=True).log()
        log_probability = torch.stack(
            [row[int(a)] for row, a in zip(logs, batch.actions, strict=True)]
        )
        entropy = -(logs.exp() * logs).sum(1)
    else:
        log_std = rate * 2 * target / len(target)  # one step from 0
        z = (batch.actions - out) / log_std.exp()
        log_probability = -(z**2 / 2 + log_std + math.log(2 * math.pi) / 2).sum(1)
        entropy = (log_std + (1 + math.log(2 * math.pi)) / 2).sum().expand(len(s))
    a = batch.advantages
    a = (a - a.mean()) / ((a - a.mean()).square().mean().sqrt() + 1e-8)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(s)):
        ratio = (log_probability[i] - batch.log_probabilities[i]).exp()
        low, high = 1 - settings.ratio_clip, 1 + settings.ratio_clip
        # The smaller of the two: beyond the bound on the side that a favours, nothing moves.
        held = (a[i] > 0 and ratio > high) or (a[i] < 0 and ratio < low)
        total = total - (high if a[i] > 0 else low) * a[i] if held else total - ratio * a[i]
        total = total + settings.value_weight * 0.5 * (values[i] - batch.returns[i]) ** 2
        total = total - settings.entropy_weight * entropy[i]
    return total / len(s)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_gradient_through_the_inner_step_is_that_of_finite_differences(discrete: bool) -> None:
    settings = dataclasses.replace(CARTPOLE if discrete else HOPPER, ratio_clip=0.1)
    network = RECIPES["ppmo"].network(4, 2)
    network = dataclasses.replace(
        network, sizes=(4, 8, 8, 2), output_gain=1.0, constants=0 if discrete else 2
    )
    drawn = torch.Generator().manual_seed(0)
    initial = network.initialise(drawn, torch.float64)
    initial = [(w.requires_grad_(), b.requires_grad_()) for w, b in initial]
    learned = draw_learned(discrete=discrete)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, dtype=torch.float64)

    states = normal(12, 4)
    actions = torch.arange(12) % 2 if discrete else normal(12, 2)
    before = distribution(network, inner_step(network, initial, learned), states)
    # Old log-probabilities around the new ones, so that some ratios are beyond the clip.
    batch = Batch(
        states,
        actions,
        before.log_prob(actions).detach() + 0.2 * normal(12),
        normal(12),
        normal(12),
    )
    values = normal(12)

    leaves = Learned(*(tensor.clone().requires_grad_() for tensor in learned))
    policy = distribution(network, inner_step(network, initial, leaves), states)
    loss = ppo_loss(policy, values, batch, settings)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)

    flat = [tensor.detach() for weight, bias in initial[:3] for tensor in (weight[0], bias[0, 0])]
    assert loss.item() == pytest.approx(
        plain_loss(flat, learned, batch, values, settings).item(), rel=1e-10
    )
    for index, gradient in enumerate(gradients):
        for place in range(learned[index].numel()):
            moved = []
            for step in (1e-6, -1e-6):
                tensors = [tensor.clone() for tensor in learned]
                tensors[index].view(-1)[place] += step
                moved.append(plain_loss(flat, Learned(*tensors), batch, values, settings))
            expected = (moved[0] - moved[1]).item() / 2e-6
            assert gradient.flatten()[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_advantages_are_the_discounted_sums_of_errors_of_the_rest_of_the_episode() -> None:
    rng = np.random.default_rng(0)
    steps, slots, discount, trace = 9, 4, 0.9, 0.7
    rewards, values, after = rng.normal(size=(3, steps, slots))
    terminated = rng.random((steps, slots)) < 0.15
    ended = terminated | (rng.random((steps, slots)) < 0.15)  # others reach a time limit
    assert terminated.any() and (ended & ~terminated).any()
    expected = np.zeros((steps, slots))
    for slot in range(slots):
        for start in range(steps):
            factor = 1.0
            for t in range(start, steps):
                value_after = 0.0 if terminated[t, slot] else after[t, slot]
                error = rewards[t, slot] + discount * value_after - values[t, slot]
                expected[start, slot] += factor * error
                factor *= discount * trace
                if ended[t, slot]:
                    break
    arrays = (rewards, values, after, terminated, ended)
    found = generalised_advantages(*map(torch.from_numpy, arrays), discount, trace)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(50.0, [0.1, 3.0], size=(70, 2))
    moments = Moments(2)
    assert moments.std.tolist() == [1.0, 1.0] and moments.tensors[1].tolist() == [0.0, 0.0]
    for part in np.split(values, [1, 31]):
        moments.add(torch.from_numpy(part)[None])
    np.testing.assert_allclose(moments.tensors[1].numpy(), values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.std.numpy(), values.std(0), rtol=1e-11)


@pytest.mark.parametrize(("method", "env_id"), [(CARTPOLE, "CartPole-v1"), (HOPPER, "Hopper-v5")])
def test_a_student_of_the_recipe_acts_as_the_actor_after_its_inner_step(
    method: PPMO, env_id: str
) -> None:
    """The set alone is enough: its units, its rate and its pairs make the actor of PPO."""
    method = dataclasses.replace(method, inner_learning_rate=2.0)
    run = new_run(method, env_id)
    run.seen.add(run.roll_out(run.fresh_actor(0), 0).observations)
    initial = run.fresh_actor(1)
    rollout = run.roll_out(initial, 1)
    student = train_on_set(
        run.problem.student, run.synthetic_set(), run.problem.scaling,
        [run.problem.generator("actor", 1)],
    )  # fmt: skip
    seen = rollout.observations.flatten(0, 1)
    acted = torch.from_numpy(student(seen.numpy()[None])[0])
    trained = inner_step(run.actor, initial, run.parts()[0])
    with torch.no_grad():
        policy: Any = distribution(run.actor, trained, run.scaling.observations_in(seen))
    if method.head == "mean":
        assert acted.argmax(1).equal(policy.probs.argmax(1))
        scores = (acted - 0.5) * 2  # tanh of the logits, in the units of scores
        logits = torch.from_numpy(np.arctanh(scores.double().numpy())).float()
        torch.testing.assert_close(logits.softmax(1), policy.probs, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(acted, policy.mean.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    untrained = run.actor.forward(initial, run.scaling.observations_in(seen)[None]).outputs[0]
    assert (untrained[:, : acted.shape[1]] - acted).abs().max() > 0.05, "the step does something"


def test_a_set_carries_the_statistics_of_all_that_its_actors_saw_before() -> None:
    run = new_run(CARTPOLE, "CartPole-v1")
    raw = run.synthetic_set().training
    assert raw is not None and raw.scaling.mean.eq(0).all()
    assert raw.scaling.std.tolist() == pytest.approx([1 + STD_FLOOR] * 4)
    seen = [run.roll_out(run.fresh_actor(step), step).observations for step in range(2)]
    for observations in seen:
        run.seen.add(observations)
    rows = torch.cat(seen).reshape(-1, 4).double().numpy()
    pairs, learned = run.synthetic_set(), run.parts()[0]
    assert pairs.training is not None
    scaling = pairs.training.scaling
    np.testing.assert_allclose(scaling.mean, rows.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scaling.std, rows.std(0) + STD_FLOOR, rtol=1e-5)
    back = (pairs.observations - scaling.mean) / scaling.std
    torch.testing.assert_close(back, learned.observations.detach(), rtol=1e-4, atol=1e-5)


def test_a_rollout_goes_on_where_it_was_and_starts_anew_where_an_episode_ended() -> None:
    run = new_run(CARTPOLE, "CartPole-v1")
    rollout = run.roll_out(run.fresh_actor(0), 0)
    assert run.monitor.counted == 120  # type: ignore[attr-defined]
    ended = rollout.ended[:-1]
    assert bool(ended.any()) and bool((~ended).any())
    before, after = rollout.next_observations[:-1], rollout.observations[1:]
    assert after[~ended].equal(before[~ended])
    assert after[ended].abs().max() <= 0.05, "CartPole starts within 0.05 of 0"
    assert before[ended][:, 2].abs().min() > 0.2, "and ends where the pole falls"
    assert rollout.rewards.eq(1).all() and set(rollout.actions.flatten().tolist()) == {0, 1}
    other = run.roll_out(run.fresh_actor(1), 1)
    assert not other.observations[0].equal(rollout.observations[0])


def test_rewards_are_divided_by_the_deviation_of_their_discounted_sums() -> None:
    run = new_run(dataclasses.replace(CARTPOLE, value_weight=1.0), "CartPole-v1")
    rollout = run.roll_out(run.fresh_actor(0), 0)
    batch = run.with_advantages(rollout)
    sums = np.zeros((40, 3))
    for slot in range(3):
        total = 0.0
        for t in range(40):
            total = 0.99 * total + float(rollout.rewards[t, slot])
            sums[t, slot] = total
            total = 0.0 if rollout.ended[t, slot] else total
    with torch.no_grad():
        values = run.values(run.scaling.observations_in(rollout.observations))
        after = run.values(run.scaling.observations_in(rollout.next_observations))
    expected = generalised_advantages(
        rollout.rewards / (sums.std() + STD_FLOOR), values, after, rollout.terminated,
        rollout.ended, 0.99, 0.95,
    )  # fmt: skip
    torch.testing.assert_close(batch.advantages, expected.flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.returns, (expected + values).flatten(), rtol=1e-4, atol=1e-5)


def test_the_learned_rate_stays_within_its_bounds() -> None:
    run = new_run(dataclasses.replace(CARTPOLE, outer_learning_rate=200.0), "CartPole-v1")
    initial = run.fresh_actor(0)
    batch = run.with_advantages(run.roll_out(initial, 0))
    run.update(initial, batch)
    rate = run.parts()[0].rate.item()
    assert min(abs(rate / bound - 1) for bound in RATES) < 1e-5


def test_its_adam_and_clip_are_those_of_torch() -> None:
    run = new_run(CARTPOLE, "CartPole-v1")
    theirs = run.learned.detach().clone().requires_grad_()
    adam = Adam([theirs], epsilon=1e-5)  # torch's function
    drawn = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e-3, 100.0, 1.0):
        gradient = scale * torch.randn(len(theirs), generator=drawn)
        theirs.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([theirs], CARTPOLE.outer_gradient_clip)
        adam.step([theirs.grad], CARTPOLE.outer_learning_rate)
        run.follow(gradient)
    torch.testing.assert_close(run.learned, theirs, rtol=1e-6, atol=1e-7)


def test_an_update_that_is_not_finite_says_what_to_lower() -> None:
    run = new_run(CARTPOLE, "CartPole-v1")
    initial = run.fresh_actor(0)
    batch = run.with_advantages(run.roll_out(initial, 0))
    with pytest.raises(NotFinite, match=r"What PPMO learns is not finite.*outer_learning_rate"):
        run.update(initial, batch._replace(returns=batch.returns * math.nan))


def test_fresh_actors_of_the_set_earn_five_times_what_those_of_its_start_do() -> None:
    method = PPMO(
        synthetic_size=16, outer_steps=12, environments=4, minibatch=256, width=32, head="mean",
        outer_learning_rate=5e-3,
    )  # fmt: skip
    problem, monitor = make_problem(method, "CartPole-v1"), Recorder(every=12)
    method.distill(problem, monitor)
    assert monitor.counted == 12 * 800

    def earn(pairs: SyntheticSet) -> float:
        protocol = Protocol("ten", students=10, episodes=1, checkpoint_every=1, last=1)
        returns = score(
            pairs, protocol=protocol, student=problem.student, scaling=problem.scaling,
            environment="CartPole-v1", axes={"test": 0},
        ).returns  # fmt: skip
        return float(returns.mean())

    start, end = earn(monitor.results[0]), earn(monitor.results[12])
    assert start < 60 and end > 200, (start, end)
    assert float(monitor.facts["inner_learning_rate"]) > 0.1


def test_a_head_for_other_actions_is_refused_with_the_right_one() -> None:
    for method, env_id, right in (
        (HOPPER, "CartPole-v1", "mean"),
        (CARTPOLE, "Hopper-v5", "gauss"),
    ):
        with pytest.raises(BadParameter, match=f'{env_id} are .* Set head = "{right}'):
            new_run(method, env_id)


def test_it_brings_its_student_and_leaves_the_one_that_scores() -> None:
    chosen: dict[str, Any] = {"method": "ppmo", "dataset": "hopper/medium", "seed": 0}
    chosen |= {"protocol": Protocol("one", 1, 1, 1, 1), "where": "a test"}
    spec = RunSpec.create(**chosen, parameters={}, student=StudentSpec(width=32))
    assert spec.student == spec.scoring_student == RECIPES["ppmo"]
    other = RunSpec.create(**chosen, parameters={"width": 8}, evaluation_student=StudentSpec())
    assert other.student == dataclasses.replace(RECIPES["ppmo"], width=8)
    assert other.scoring_student == StudentSpec()
    with pytest.raises(ObdBenchError, match=r'Discrete\(2\)\. Set head = "categorical" or "mean"'):
        RunSpec.create(**chosen | {"dataset": "cartpole/mixed"}, parameters={})
