"""Matching: losses against finite differences in float64, descents that fall, resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.distribution_matching import DistributionMatching, mean_embedding
from baselines.gradient_matching import DISTANCES, GradientMatching
from baselines.iadd import IADD, weights
from baselines.loss_matching import LossMatching, losses, moments, moments_in_blocks
from baselines.matching import BCLoss, Clones, LearnedPairs, Matching, squared_distance
from baselines.selection import RandomSelection
from baselines.trajectory_matching import TrajectoryMatching
from benchmark.method import BadParameter
from benchmark.students.network import Network, Parameters
from benchmark.students.student import StudentSpec, train_students
from tests.baselines.test_meta_gradient import cloning_loss
from tests.baselines.toy import (
    ACTION_DIM,
    OBSERVATION_DIM,
    STATES,
    LinearTeacher,
    Recorder,
    distil,
    toy_problem,
)

STUDENT = StudentSpec(width=8, depth=3, steps=4)
TRAJECTORIES = {
    "experts": 2,
    "expert_epoch_steps": 3,
    "start_epochs": 2,
    "expert_span": 2,
    "synthetic_steps": 3,
}
TINY: dict[type[Matching], dict[str, Any]] = {
    GradientMatching: {"matches": 2, "network_steps": 2},
    DistributionMatching: {},
    LossMatching: {},
    TrajectoryMatching: TRAJECTORIES,
    IADD: TRAJECTORIES,
}
methods = pytest.mark.parametrize("kind", list(TINY))
heads = pytest.mark.parametrize("head", ["mean", "sampled"])


def tiny(kind: type[Matching], **parameters: Any) -> Matching:
    sizes = {"synthetic_size": 4, "outer_batch": 8, "outer_steps": 6}
    names = {field.name for field in fields(kind)}
    sizes = {name: size for name, size in sizes.items() if name in names}
    return kind(**{**sizes, **TINY[kind], **parameters})


# --- what all of them do ------------------------------------------------------------------------


@methods
@heads
@pytest.mark.parametrize("labels", ["data", "teacher"])
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_pairs_begin_as_random_real_ones_and_both_parts_move(
    kind: type[Matching], head: str, labels: str, name: str
) -> None:
    student = replace(STUDENT, head=head, name=name)
    method = tiny(kind, labels=labels)
    results = distil(method, toy_problem(method, student=student)).results
    assert list(results) == list(range(7))
    drawn = distil(RandomSelection(4), toy_problem(RandomSelection(4))).results[0]
    torch.testing.assert_close(results[0].observations, drawn.observations)
    actions = drawn.actions
    if labels == "teacher":
        actions = 3 + 2 * LinearTeacher().act(drawn.observations)
    torch.testing.assert_close(results[0].actions, actions)
    for before, after in zip(range(6), range(1, 7), strict=True):
        assert not results[before].observations.equal(results[after].observations)
        assert not results[before].actions.equal(results[after].actions)


@methods
def test_actions_stay_where_only_observations_are_optimised(kind: type[Matching]) -> None:
    method = tiny(kind, optimised="observations")
    results = distil(method, toy_problem(method)).results
    assert results[6].actions.equal(results[0].actions)
    assert not results[6].observations.equal(results[0].observations)


@methods
def test_one_pair_and_one_layer_are_enough(kind: type[Matching]) -> None:
    student = replace(STUDENT, depth=1)
    method = tiny(kind, synthetic_size=1)
    results = distil(method, toy_problem(method, student=student)).results
    assert results[6].observations.shape == (1, OBSERVATION_DIM)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (GradientMatching, "outer_steps", 0),
        (GradientMatching, "matches", -1),
        (GradientMatching, "outer_learning_rate", 0.0),
        (GradientMatching, "outer_batch", 0),
        (LossMatching, "regressors", 0),
        (TrajectoryMatching, "synthetic_steps", 0),
        (TrajectoryMatching, "inner_rate_learning_rate", -0.1),
        (IADD, "importance_learning_rate", -0.1),
    ],
)
def test_a_parameter_outside_its_range_is_refused(
    kind: type[Matching], name: str, value: float
) -> None:
    with pytest.raises(BadParameter, match=f"{name}.* is {value}; expected"):
        tiny(kind, **{name: value})


@methods
def test_needs_follow_the_labels(kind: type[Matching]) -> None:
    assert tiny(kind, labels="data").needs == frozenset({"dataset"})
    assert tiny(kind, labels="teacher").needs == frozenset({"dataset", "teacher"})


def test_the_descent_is_torchs_sgd_with_momentum() -> None:
    method = tiny(GradientMatching, outer_learning_rate=0.3, outer_momentum=0.8)
    pairs = LearnedPairs(method, toy_problem(method), Recorder())
    theirs = [t.detach().clone().requires_grad_() for t in (pairs.observations, pairs.actions)]
    optimiser = torch.optim.SGD(theirs, lr=0.3, momentum=0.8)

    def loss(observations: Tensor, actions: Tensor) -> Tensor:
        return (observations.square().sum() + 1) * actions.square().sum().sqrt()

    for _ in range(4):
        pairs.descend(loss(pairs.observations, pairs.actions))
        optimiser.zero_grad()
        torch.autograd.backward(loss(*theirs))
        optimiser.step()
    torch.testing.assert_close([pairs.observations, pairs.actions], theirs)


# --- the derivatives ----------------------------------------------------------------------------


class FixedNoise(BCLoss):
    """The same action noise at every call: a function whose differences can be taken."""

    def noise(self, actions: Tensor) -> Tensor | None:
        self.generator.manual_seed(3)
        drawn = super().noise(actions)
        return None if drawn is None else drawn.to(actions.dtype)


def random_pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, count, OBSERVATION_DIM, generator=generator, dtype=torch.float64),
        torch.randn(1, count, ACTION_DIM, generator=generator, dtype=torch.float64).tanh(),
    )


def assert_derivatives(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Autograd's gradient against central differences, in a few random directions."""
    at = tuple(tensor.requires_grad_() for tensor in random_pairs(4, seed=1))
    gradient = torch.autograd.grad(loss(*at), at)
    for seed in range(2, 5):
        along = random_pairs(4, seed)
        expected = sum(float((g * d).sum()) for g, d in zip(gradient, along, strict=True))
        ends = [
            loss(*((t.detach() + h * d).requires_grad_() for t, d in zip(at, along, strict=True)))
            for h in (1e-6, -1e-6)
        ]
        found = float((ends[0] - ends[1]).detach()) / 2e-6
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def student_and_loss(head: str, name: str) -> tuple[Parameters, BCLoss]:
    given = toy_problem(GradientMatching(), student=replace(STUDENT, head=head, name=name))
    loss = FixedNoise(given, torch.Generator())
    parameters = loss.network.initialise(torch.Generator().manual_seed(0), torch.float64)
    # Not at zero biases, where a resting ReLU of a residual network sits on its kink.
    return [(weight, bias + 0.1) for weight, bias in parameters], loss


@heads
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_gradients_are_those_of_the_loss_written_out(head: str, name: str) -> None:
    parameters, loss = student_and_loss(head, name)
    observations, actions = random_pairs(6, seed=0)
    found = [t for layer in loss.gradient(parameters, observations, actions) for t in layer]

    layers = [(weight[0], bias[0, 0]) for weight, bias in parameters]
    flat = [tensor.clone().requires_grad_() for layer in layers for tensor in layer]
    noise = loss.noise(actions)
    plain = cloning_loss(
        loss,  # type: ignore[arg-type]  # it asks for the network alone
        flat,
        observations[0],
        actions[0],
        None if noise is None else noise[0],
    )
    for one, other in zip(found, torch.autograd.grad(plain, flat), strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other)


@heads
@pytest.mark.parametrize("name", ["mlp", "residual"])
@pytest.mark.parametrize("distance", list(DISTANCES))
def test_gradient_matching_descends_its_distance(distance: str, head: str, name: str) -> None:
    parameters, loss = student_and_loss(head, name)
    wanted = loss.gradient(parameters, *random_pairs(9, seed=0))
    assert not wanted[0][0].requires_grad
    assert_derivatives(
        lambda observations, actions: DISTANCES[distance](
            wanted, loss.gradient(parameters, observations, actions)
        )
    )


@heads
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_trajectory_matching_descends_through_its_steps(head: str, name: str) -> None:
    method = TrajectoryMatching(**TINY[TrajectoryMatching], synthetic_size=4)
    parameters, loss = student_and_loss(head, name)
    pairs = LearnedPairs(
        method,
        toy_problem(method),
        Recorder(),
        {"log_inner_rate": (torch.tensor(-1.0).double(), 0.01)},
    )

    def distance(observations: Tensor, actions: Tensor) -> Tensor:
        pairs.values.update(observations=observations, actions=actions)
        return squared_distance(method.train(loss, parameters, pairs), parameters)

    assert_derivatives(distance)

    at = random_pairs(4, seed=1)
    rate = pairs.values["log_inner_rate"]
    (gradient,) = torch.autograd.grad(distance(*(t.requires_grad_() for t in at)), [rate])
    ends = []
    for h in (1e-6, -1e-6):
        pairs.values["log_inner_rate"] = rate.detach() + h
        ends.append(float(distance(*at).detach()))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient), rel=1e-5)


def test_distances_are_the_papers_written_out() -> None:
    def normal(seed: int) -> Parameters:
        generator = torch.Generator().manual_seed(seed)
        return Network((3, 4, 2)).initialise(generator, torch.float64)

    one, other = normal(0), normal(1)
    cosine = sum(
        1 - float(g @ h / (g.norm() * h.norm() + 1e-6))
        for (a, _), (b, _) in zip(one, other, strict=True)
        for g, h in zip(a[0], b[0], strict=True)
    )
    assert float(DISTANCES["cosine"](one, other)) == pytest.approx(cosine)
    flat = [torch.cat([t.flatten() for layer in p for t in layer]) for p in (one, other)]
    assert float(DISTANCES["squared"](one, other)) == pytest.approx(
        float((flat[0] - flat[1]).square().sum())
    )


@pytest.mark.parametrize(("depth", "skip"), [(1, None), (3, None), (4, (1, 3))])
def test_an_embedding_is_the_last_hidden_layer(depth: int, skip: tuple[int, int] | None) -> None:
    observations, actions = random_pairs(6, seed=0)
    network = Network((OBSERVATION_DIM + ACTION_DIM, *[8] * (depth - 1), 2), skip)
    parameters = network.initialise(torch.Generator().manual_seed(0), torch.float64)
    hidden = torch.cat((observations[0], actions[0]), 1)
    first = None
    for layer in range(1, depth):
        hidden = torch.relu(hidden @ parameters[layer - 1][0][0].T)
        first = hidden if first is None else first
        if skip and layer == skip[1]:
            hidden = hidden + first
    found = mean_embedding(network, parameters, observations, actions)[0]
    torch.testing.assert_close(found, hidden.mean(0))
    assert_derivatives(
        lambda one, other: (mean_embedding(network, parameters, one, other) - found).square().sum()
    )


def test_the_losses_of_regressors_are_those_of_the_pairs_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observations, actions = (tensor[0] for tensor in random_pairs(7, seed=0))
    generator = torch.Generator().manual_seed(1)
    regressors = torch.randn(
        3, OBSERVATION_DIM + 1, ACTION_DIM, generator=generator, dtype=torch.float64
    )
    expected = [
        sum(
            float((torch.cat((state, torch.ones(1).double())) @ regressor - action).square().sum())
            for state, action in zip(observations, actions, strict=True)
        )
        / 7
        for regressor in regressors
    ]
    found = losses(moments(observations, actions), regressors)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    monkeypatch.setattr("baselines.loss_matching.BLOCK", 3)
    torch.testing.assert_close(
        moments_in_blocks(observations, actions), moments(observations, actions)
    )
    assert_derivatives(
        lambda one, other: (losses(moments(one[0], other[0]), regressors) - 1).square().mean()
    )


# --- what they are for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters", "factor"),
    [
        (GradientMatching, {"distance": "cosine", "outer_learning_rate": 0.01}, 0.7),
        (GradientMatching, {"distance": "squared", "outer_learning_rate": 0.3}, 0.4),
        (DistributionMatching, {"outer_learning_rate": 0.3}, 0.3),
        (LossMatching, {}, 0.1),
        (TrajectoryMatching, {"outer_learning_rate": 1.0}, 0.5),
        (IADD, {"outer_learning_rate": 1.0}, 0.5),
    ],
    ids=["cosine", "squared", "distribution", "loss", "trajectory", "iadd"],
)
def test_the_loss_falls(
    kind: type[Matching],
    parameters: dict[str, Any],
    factor: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses: list[float] = []
    descend = LearnedPairs.descend

    def watched(self: LearnedPairs, loss: Tensor) -> None:
        losses.append(float(loss.detach()))
        descend(self, loss)

    monkeypatch.setattr(LearnedPairs, "descend", watched)
    student = StudentSpec(width=16, depth=2, head="mean")
    # Minibatches far larger than the data: what is left of the loss is not their noise.
    batch = {} if kind is LossMatching else {"outer_batch": 2000}
    method = tiny(kind, synthetic_size=8, outer_steps=100, **batch, **parameters)
    distil(method, toy_problem(method, student=student), Recorder(1000))
    tenth = len(losses) // 10
    assert sum(losses[-tenth:]) < factor * sum(losses[:tenth])


def test_regression_on_matched_losses_is_regression_on_the_data() -> None:
    # The claim of the paper. A linear model of the teacher's actions is fitted to each.
    sizes = {"synthetic_size": 12, "outer_steps": 400, "outer_learning_rate": 0.05}
    method = tiny(LossMatching, labels="teacher", **sizes)
    given = toy_problem(method)
    results = distil(method, given, Recorder(400)).results
    actions = LinearTeacher().act(torch.from_numpy(given.dataset.observations))

    def fitted(observations: Tensor, actions: Tensor) -> Any:
        inputs = torch.cat((observations, torch.ones(len(observations), 1)), 1)
        return torch.linalg.lstsq(inputs, actions).solution

    best = fitted(given.observations, actions)
    apart = []
    for step in (0, 400):
        pairs = results[step]
        found = fitted(
            given.scaling.observations_in(pairs.observations),
            given.scaling.actions_in(pairs.actions),
        )
        apart.append(float((found - best).norm() / best.norm()))
    assert apart[1] < 0.05 < 0.5 < apart[0]


# --- trajectory matching ------------------------------------------------------------------------


def test_experts_are_students_cloned_from_the_teacher() -> None:
    # Both experts again, by `train_students` fed with the same draws.
    student = replace(STUDENT, head="mean", momentum=0.5)
    method = tiny(TrajectoryMatching, experts=2)
    given = toy_problem(method, student=student)
    snapshots = method.expert_trajectories(given, Recorder())  # type: ignore[attr-defined]
    assert len(snapshots) == 2 - 1 + 2 + 1

    generator = given.generator("experts")
    for _ in range(2):
        student.network(OBSERVATION_DIM, ACTION_DIM).initialise(generator)
    labels = LinearTeacher().act(torch.from_numpy(given.dataset.observations))
    rows = [torch.randint(STATES, (2, 8), generator=generator) for _ in range(9)]
    starts = [given.generator("experts") for _ in range(2)]
    student.network(OBSERVATION_DIM, ACTION_DIM).initialise(starts[1])  # the first expert's
    policy = train_students(
        student,
        lambda step: (given.observations[rows[step]], labels[rows[step]]),
        given.scaling,
        starts,
        steps=9,
    )
    for one, other in zip(snapshots[-1], policy.parameters, strict=True):
        torch.testing.assert_close(one, other)


def test_the_inner_rate_begins_at_the_students_and_can_be_held() -> None:
    for rate, held in ((0.01, False), (0.0, True)):
        method = tiny(TrajectoryMatching, inner_rate_learning_rate=rate)
        states = distil(method, toy_problem(method, student=STUDENT)).states
        first, last = (states[step].tensors["log_inner_rate"].exp() for step in (0, 6))
        assert float(first) == pytest.approx(STUDENT.learning_rate)
        assert bool(first == last) is held


# --- IADD ---------------------------------------------------------------------------------------


def test_importance_is_positive_of_mean_one_and_starts_at_one() -> None:
    torch.testing.assert_close(weights(torch.zeros(4)), torch.ones(4))
    found = weights(torch.tensor([-30.0, 0.0, 2.0]))
    assert bool((found > 0).all())
    assert float(found.mean()) == pytest.approx(1)


def test_equal_importance_is_trajectory_matching() -> None:
    results = []
    for method in (tiny(TrajectoryMatching), tiny(IADD, importance_learning_rate=0.0)):
        recorder = distil(method, toy_problem(method, student=STUDENT))
        results.append(recorder.results[6])
    torch.testing.assert_close(results[0].observations, results[1].observations)
    torch.testing.assert_close(results[0].actions, results[1].actions)
    assert [recorder.facts[f"importance_{layer}"] for layer in range(3)] == [1, 1, 1]


def test_the_loss_is_the_quotient_of_weighted_distances_and_is_differentiated() -> None:
    method = tiny(IADD)
    parameters, loss = student_and_loss("mean", "mlp")
    start, target = ([(w + shift, b - 2 * shift) for w, b in parameters] for shift in (0.1, 0.3))
    v = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    rate = torch.tensor(-1.0).double()
    others = {"log_inner_rate": (rate, 0.01), "importance": (v, 0.01)}
    pairs = LearnedPairs(method, toy_problem(method), Recorder(), others)

    def value(observations: Tensor, actions: Tensor, at: Tensor) -> Tensor:
        pairs.values.update(observations=observations, actions=actions, importance=at)
        reached = method.train(loss, parameters, pairs)  # type: ignore[attr-defined]
        return method.distance(reached, start, target, pairs)  # type: ignore[attr-defined, no-any-return]

    observations, actions = random_pairs(4, seed=1)
    pairs.values.update(observations=observations, actions=actions)
    reached = method.train(loss, parameters, pairs)  # type: ignore[attr-defined]
    positive = np.log1p(np.exp(v.numpy()))
    importance = positive / positive.mean()
    parts = []
    for other in (reached, start):
        flat = [
            np.concatenate([(p - q).detach().numpy().ravel() for p, q in zip(a, b, strict=True)])
            for a, b in zip(other, target, strict=True)
        ]
        parts.append(sum(w * (layer**2).sum() for w, layer in zip(importance, flat, strict=True)))
    found = value(*(t.requires_grad_() for t in (observations, actions)), v.requires_grad_())
    assert float(found.detach()) == pytest.approx(parts[0] / parts[1])

    (gradient,) = torch.autograd.grad(found, [v])
    for layer in range(3):
        ends = []
        for h in (1e-6, -1e-6):
            moved = v.detach().clone()
            moved[layer] += h
            ends.append(float(value(observations, actions, moved).detach()))
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[layer]), rel=1e-4)
    assert_derivatives(lambda one, other: value(one, other, v.detach()))


def test_importance_is_learned_and_noted() -> None:
    method = tiny(IADD, importance_learning_rate=1.0)
    recorder = distil(method, toy_problem(method, student=STUDENT))
    first, last = (recorder.states[step].tensors["importance"] for step in (0, 6))
    assert first.equal(torch.zeros(3))
    assert not last.equal(first)
    noted = [recorder.facts[f"importance_{layer}"] for layer in range(3)]
    assert noted == pytest.approx(weights(last).tolist())
    assert "inner_learning_rate" in recorder.facts


def test_a_student_that_is_not_trained_by_sgd_is_refused_with_the_way_out() -> None:
    student = replace(STUDENT, optimizer="adam")
    method = tiny(TrajectoryMatching)
    with pytest.raises(BadParameter, match=r"optimizer is 'adam'.*\[evaluation_student\]"):
        distil(method, toy_problem(method, student=student))


def test_gradient_matching_trains_its_student_between_two_matches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    learn, descend = Clones.learn, LearnedPairs.descend

    def learning(self: Clones, observations: Tensor, actions: Tensor) -> None:
        events.append("train")
        learn(self, observations, actions)

    def descending(self: LearnedPairs, loss: Tensor) -> None:
        events.append("match")
        descend(self, loss)

    monkeypatch.setattr(Clones, "learn", learning)
    monkeypatch.setattr(LearnedPairs, "descend", descending)
    method = tiny(GradientMatching, outer_steps=2, matches=3, network_steps=2)
    distil(method, toy_problem(method))
    assert events == 2 * ["match", "train", "train", "match", "train", "train", "match"]


def test_gradient_matching_trains_its_students_as_any_student() -> None:
    # `Clones.learn` is what `train_students` does, whichever the optimiser.
    for optimizer in ("sgd", "adam"):
        student = replace(STUDENT, head="sampled", optimizer=optimizer)
        given = toy_problem(GradientMatching(), student=student)
        generator = torch.Generator().manual_seed(2)
        clones = Clones(given, BCLoss(given, generator))
        pairs = (given.observations[None, :7], given.actions[None, :7])
        for _ in range(5):
            clones.learn(*pairs)
        again = torch.Generator().manual_seed(2)
        policy = train_students(student, lambda step: pairs, given.scaling, [again], steps=5)  # noqa: B023
        for one, other in zip(clones.parameters, policy.parameters, strict=True):
            torch.testing.assert_close(one, other)
