"""SDW-OBD, progressive and truncated OBD: what each changes, and where it is OBD itself."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.meta_gradient import OuterBatch, Pairs
from baselines.obd import PBC, AvPBC
from baselines.outer_loop import OBD, OuterRun, inner_loop
from baselines.progressive_obd import ProgressiveAvPBC
from baselines.sdw_obd import SDWOBD, density_weights, largest_tau
from baselines.truncated_obd import TruncatedAvPBC
from benchmark.density.density import effective_support
from benchmark.method import BadParameter, Problem
from benchmark.students.network import Parameters, stack
from benchmark.students.spec import StudentSpec
from benchmark.students.student import train_on_set
from benchmark.synthetic_set import SyntheticSet
from tests.baselines.toy import SMALL, STATES, STUDENT, Killed, Recorder, distil, toy_problem

MakeProblem = Callable[..., Problem]
TINY: dict[str, Any] = {**SMALL, "outer_steps": 6}
LOG_DENSITY = torch.linspace(-90, 3, STATES, dtype=torch.float64)


@pytest.fixture
def problem() -> MakeProblem:
    return lambda method, **rest: toy_problem(method, log_density=LOG_DENSITY, **rest)


def same(one: SyntheticSet, other: SyntheticSet) -> bool:
    return torch.equal(one.observations, other.observations) and torch.equal(
        one.actions, other.actions
    )


# --- state-density weighting ------------------------------------------------------------------


@pytest.mark.parametrize(("base", "plain"), [("av_pbc", AvPBC), ("pbc", PBC)])
@pytest.mark.parametrize("weighting", ["loss", "sampling"])
def test_tau_0_is_the_base_objective_bit_for_bit(
    base: Any, plain: type[OBD], weighting: Any, problem: MakeProblem
) -> None:
    weighted = distil(SDWOBD(**TINY, base=base, tau=0, weighting=weighting), problem(SDWOBD))
    expected = distil(plain(**TINY), problem(plain))
    assert same(weighted.results[6], expected.results[6])


def test_weights_are_the_reciprocal_density_floored_with_mean_1() -> None:
    weights = density_weights(LOG_DENSITY, 0.25, 0.01)
    floor = np.quantile(LOG_DENSITY.numpy(), 0.01)
    expected = np.exp(-0.25 * np.maximum(LOG_DENSITY.numpy(), floor))
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-10)
    assert weights.mean().item() == pytest.approx(1.0)


def test_weights_survive_densities_that_floats_cannot_hold() -> None:
    weights = density_weights(torch.tensor([-3000.0, -2.0, 800.0]), 4.0, 0.0)
    assert torch.isfinite(weights).all()
    assert weights.mean().item() == pytest.approx(1.0)


def test_both_ways_of_weighting_agree_in_expectation(problem: MakeProblem) -> None:
    """The mean gradient of many sampled batches is that of the weighted loss on all states."""
    settings = {**TINY, "base": "pbc", "tau": 0.02, "outer_batch": 64}
    sampled = SDWOBD(**settings, weighting="sampling")
    given = problem(SDWOBD, student=dataclasses.replace(STUDENT, head="mean"))
    run = OuterRun(sampled, sampled.targets(given), given, Recorder())
    loop = inner_loop(given)
    fixed = run.draw(loop, 0)
    count = 400
    batches = [run.draw(loop, step).outer for step in range(count)]
    outer = OuterBatch(
        torch.cat([batch.observations for batch in batches]),
        torch.cat([batch.actions for batch in batches]),
    )
    pairs = Pairs(run.observations.expand(count, -1, -1), run.actions.expand(count, -1, -1))
    found = loop.gradient(stack([fixed.initial] * count), pairs, outer)
    stacked = torch.cat((found.observations, found.actions), 2)

    weighted = SDWOBD(**{**settings, "outer_batch": STATES})
    targets = weighted.targets(given)
    assert targets.weights is not None
    whole_data = fixed.outer._replace(
        observations=given.observations[None],
        actions=targets.actions[None],
        weights=targets.weights[None],
    )
    draw = fixed._replace(outer=whole_data)
    whole = loop.gradient(draw.initial, run.pairs(), draw.outer, draw.noise)
    expected = torch.cat((whole.observations[0], whole.actions[0]), 1)
    error = stacked.std(0) / count**0.5
    assert ((stacked.mean(0) - expected).abs() < 4.5 * error + 1e-7).all()
    assert (expected.abs() > 5 * error).any()  # or the noise would hide a difference


def test_states_are_drawn_with_their_probabilities(problem: MakeProblem) -> None:
    method = SDWOBD(**{**TINY, "outer_batch": 40_000}, tau=0.02, weighting="sampling")
    given = problem(SDWOBD)
    targets = method.targets(given)
    run = OuterRun(method, targets, given, Recorder())
    rows = run._draw_states(40_000, torch.Generator().manual_seed(0))
    found = torch.bincount(rows, minlength=STATES) / 40_000
    assert targets.probabilities is not None
    torch.testing.assert_close(found.double(), targets.probabilities, atol=0.01, rtol=0)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_auto_takes_the_largest_tau_that_keeps_the_sample(fraction: float) -> None:
    tau = largest_tau(LOG_DENSITY, fraction, 0.01)
    kept, lost = (
        effective_support(LOG_DENSITY, value, floor_quantile=0.01) for value in (tau, tau * 1.01)
    )
    assert lost < fraction <= kept
    assert SDWOBD(tau="auto", effective_sample=fraction).chosen_tau(LOG_DENSITY) == tau


def test_equal_densities_leave_all_weights_equal() -> None:
    assert largest_tau(torch.zeros(9), 0.9, 0.01) == 16.0
    torch.testing.assert_close(density_weights(torch.zeros(9), 3.0, 0.01), torch.ones(9).double())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1}, "tau is -1; expected a number of 0 or more, or 'auto'"),
        ({"tau": "most"}, "tau is 'most'"),
        ({"effective_sample": 0}, "effective_sample is 0"),
        ({"floor_quantile": 1.0}, "floor_quantile is 1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        SDWOBD(**settings)


# --- truncated back-propagation ---------------------------------------------------------------


def test_a_window_of_the_whole_training_is_av_pbc(problem: MakeProblem) -> None:
    whole = distil(TruncatedAvPBC(**TINY, window=STUDENT.steps), problem(TruncatedAvPBC))
    expected = distil(AvPBC(**TINY), problem(AvPBC))
    torch.testing.assert_close(whole.results[6].actions, expected.results[6].actions)
    torch.testing.assert_close(whole.results[6].observations, expected.results[6].observations)


@pytest.mark.parametrize("head", ["mean", "sampled"])
def test_the_gradient_is_autograds_through_the_window(head: str, problem: MakeProblem) -> None:
    """The lead without a graph, then the window unrolled by autograd."""
    student = dataclasses.replace(STUDENT, head=head, steps=6)
    method = TruncatedAvPBC(**TINY, window=2)
    given = problem(TruncatedAvPBC, student=student)
    run = OuterRun(method, method.targets(given), given, Recorder())
    loop = inner_loop(given)
    found = method._gradient(run, 3)

    draw = run.draw(loop, 3)
    end = int(torch.randint(2, 7, (), generator=given.generator("window", 3)))
    pairs = [run.observations[None].clone(), run.actions[None].clone()]
    layers = [(weight.clone(), bias.clone()) for weight, bias in draw.initial]
    for t in range(end):
        if t == end - 2:
            for pair in pairs:
                pair.requires_grad_()
        for layer in layers:
            for value in layer:
                value.requires_grad_() if value.is_leaf else value
        outputs = _forward(layers, pairs[0])
        noise = None if draw.noise is None else draw.noise[t]
        loss = (loop.head.squash(outputs, noise).action - pairs[1]).square().mean()
        flat = [value for layer in layers for value in layer]
        slopes = torch.autograd.grad(loss, flat, create_graph=t >= end - 2)
        moved = [w - loop.learning_rate * g for w, g in zip(flat, slopes, strict=True)]
        if t < end - 2:
            moved = [value.detach() for value in moved]
        layers = list(zip(moved[::2], moved[1::2], strict=True))
    acted = loop.head.squash(_forward(layers, draw.outer.observations), draw.outer.noise).action
    error = (acted - draw.outer.actions).square()
    assert draw.outer.weights is not None
    (error * draw.outer.weights[..., None]).mean().backward()  # type: ignore[no-untyped-call]
    for pair, gradient in zip(pairs, (found.observations, found.actions), strict=True):
        assert pair.grad is not None
        torch.testing.assert_close(gradient, pair.grad, rtol=1e-3, atol=1e-6)


def _forward(layers: list[tuple[Tensor, Tensor]], inputs: Tensor) -> Tensor:
    hidden = inputs
    for index, (weight, bias) in enumerate(layers):
        hidden = hidden @ weight.mT + bias
        if index + 1 < len(layers):
            hidden = hidden.relu()
    return hidden


def test_windows_differ_from_step_to_step_and_reach_every_end(problem: MakeProblem) -> None:
    given = problem(TruncatedAvPBC)
    ends = {
        int(torch.randint(1, 5, (), generator=given.generator("window", step)))
        for step in range(60)
    }
    assert ends == {1, 2, 3, 4}


def test_the_products_that_are_saved_are_counted() -> None:
    assert TruncatedAvPBC(window=100).expected_products(100) == 1
    assert TruncatedAvPBC(window=25).expected_products(100) == pytest.approx(0.375)


@pytest.mark.parametrize(
    "student",
    [dataclasses.replace(STUDENT, steps=3), dataclasses.replace(STUDENT, momentum=0.9)],
)
def test_a_window_that_does_not_fit_is_refused(student: StudentSpec, problem: MakeProblem) -> None:
    with pytest.raises(BadParameter, match="window is 4"):
        distil(TruncatedAvPBC(**TINY, window=4), problem(TruncatedAvPBC, student=student))


# --- progressive sets -------------------------------------------------------------------------


def test_one_stage_is_av_pbc(problem: MakeProblem) -> None:
    one = distil(ProgressiveAvPBC(**TINY, stages=1), problem(ProgressiveAvPBC))
    expected = distil(AvPBC(**TINY), problem(AvPBC))
    assert same(one.results[6], expected.results[6])


def test_each_stage_moves_its_own_pairs_and_leaves_the_others(problem: MakeProblem) -> None:
    recorder = Recorder(every=1)
    distil(ProgressiveAvPBC(**TINY, stages=2), problem(ProgressiveAvPBC), recorder)
    sets = [recorder.results[step].observations for step in range(7)]
    for before, after in itertools.pairwise(sets[:4]):
        assert torch.equal(before[2:], after[2:])
        assert not torch.equal(before[:2], after[:2])
    for before, after in itertools.pairwise(sets[3:]):
        assert torch.equal(before[:2], after[:2])
        assert not torch.equal(before[2:], after[2:])


def test_students_of_a_set_go_through_its_stages_in_order(problem: MakeProblem) -> None:
    result = distil(ProgressiveAvPBC(**TINY, stages=2), problem(ProgressiveAvPBC)).results[6]
    assert isinstance(result, SyntheticSet)
    assert result.stages is not None
    assert result.stages.tolist() == [0, 0, 1, 1]
    assert [result.rows(step, 4).tolist() for step in range(4)] == [[0, 1]] * 2 + [[0, 1, 2, 3]] * 2


def test_the_last_stages_gradient_follows_the_students_that_scoring_trains(
    problem: MakeProblem,
) -> None:
    """The parameters that the outer loss sees are those of a student trained as in scoring."""
    method = ProgressiveAvPBC(**TINY, stages=3)
    given = problem(ProgressiveAvPBC, student=dataclasses.replace(STUDENT, steps=7))
    loop = inner_loop(given)
    stages = method.stage_of_pairs()
    whole = SyntheticSet(torch.zeros(4, 5), torch.zeros(4, 2), stages)
    bounds = [-(-7 * k // 3) for k in range(4)]
    for stage in range(3):
        for step in range(bounds[stage], bounds[stage + 1]):
            assert (
                whole.rows(step, loop.steps).tolist()
                == torch.nonzero(stages <= stage)[:, 0].tolist()
            )


WITH_MOMENTUM = dataclasses.replace(STUDENT, steps=7, head="mean", momentum=0.9)


def trained_by_torch(
    velocity: str, stage: int, initial: Parameters, pairs: Pairs, stages: Tensor
) -> list[Tensor]:
    """Students of T = 7 steps in three stages by `torch.optim.SGD`'s rule, up to a stage's end.

    The steps of that stage are differentiable in the pairs, in float64.
    """
    parameters = [tensor.double() for layer in initial for tensor in layer]
    moving = [torch.zeros_like(tensor) for tensor in parameters]
    bounds = [-(-7 * k // 3) for k in range(4)]
    for now in range(stage + 1):
        if velocity == "restarted":
            moving = [torch.zeros_like(tensor) for tensor in parameters]
        rows = stages <= now
        observations, actions = (part[0, rows] for part in pairs)
        for _ in range(bounds[now], bounds[now + 1]):
            if now < stage:
                parameters = [tensor.detach() for tensor in parameters]
                moving = [tensor.detach() for tensor in moving]
            leaves = [t if t.requires_grad else t.requires_grad_() for t in parameters]
            loss = (acts(leaves, observations) - actions).square().mean()
            gradients = torch.autograd.grad(loss, leaves, create_graph=True)
            moving = [0.9 * v + g for v, g in zip(moving, gradients, strict=True)]
            parameters = [t - 0.1 * v for t, v in zip(leaves, moving, strict=True)]
        if now < stage:
            parameters = [tensor.detach() for tensor in parameters]
            moving = [tensor.detach() for tensor in moving]
    return parameters


def acts(parameters: list[Tensor], observations: Tensor) -> Tensor:
    first, first_bias, last, last_bias = (tensor[0] for tensor in parameters)
    return ((observations @ first.T + first_bias).relu() @ last.T + last_bias).tanh()


@pytest.mark.parametrize("velocity", ["carried", "restarted"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stages_gradient_is_that_of_a_training_written_out(
    velocity: Any, stage: int, problem: MakeProblem
) -> None:
    """The way of the pairs in one outer step of each stage, against torch's autograd in float64."""
    method = ProgressiveAvPBC(**TINY, stages=3, velocity=velocity)
    given = problem(ProgressiveAvPBC, student=WITH_MOMENTUM)
    recorder = Recorder()
    distil(method, given, recorder)
    before, after = (recorder.states[2 * stage + i].tensors for i in (0, 1))
    run, loop = method.outer_run(given, Recorder()), inner_loop(given)
    draw = run.draw(loop, 2 * stage)
    stages = method.stage_of_pairs()
    pairs = Pairs(*(before[name][None].double() for name in ("observations", "actions")))
    for part in pairs:
        part.requires_grad_()
    trained = trained_by_torch(velocity, stage, draw.initial, pairs, stages)
    weights = draw.outer.weights
    assert weights is not None
    error = acts(trained, draw.outer.observations[0].double()) - draw.outer.actions[0]
    loss = (weights[0][:, None] * error.square()).mean()
    parts = [part[0] for part in torch.autograd.grad(loss, list(pairs))]
    parts = [torch.where((stages == stage)[:, None], part, 0.0) for part in parts]
    norm = torch.cat(parts, dim=1).norm()
    for name, part in zip(("observations", "actions"), parts, strict=True):
        way = before[name] - 0.1 * part * min(1.0, 2.0 / float(norm))
        torch.testing.assert_close(after[name].double(), way, rtol=0, atol=2e-6)
        assert part.abs().max() > 1e-3, "there is something to compare"


def test_a_carried_velocity_makes_the_students_that_scoring_trains(problem: MakeProblem) -> None:
    method = ProgressiveAvPBC(**TINY, stages=3)
    given = problem(ProgressiveAvPBC, student=WITH_MOMENTUM)
    synthetic = distil(method, given).results[6]
    generator = torch.Generator().manual_seed(3)
    (scored,) = [train_on_set(WITH_MOMENTUM, synthetic, given.scaling, [generator])]
    run, loop = method.outer_run(given, Recorder()), inner_loop(given)
    run.observations = given.scaling.observations_in(synthetic.observations)
    run.actions = given.scaling.actions_in(synthetic.actions)
    parameters = loop.network.initialise(torch.Generator().manual_seed(3))
    velocity = None
    for stage, steps in enumerate((3, 2, 2)):
        rows = torch.nonzero(method.stage_of_pairs() <= stage)[:, 0]
        pairs = Pairs(*(part[:, rows] for part in run.pairs()))
        part = dataclasses.replace(loop, steps=steps)
        parameters, velocity = part.train_on(parameters, velocity, pairs)
    states = torch.randn(9, 5, generator=generator)
    raw = given.scaling.observations_out(states)
    expected = acts([tensor for layer in parameters for tensor in layer], states)
    found = torch.from_numpy(scored(raw.numpy()[None])[0])
    torch.testing.assert_close(given.scaling.actions_in(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_killed_run_with_carried_velocities_goes_on_bit_for_bit(
    stop_at: int, problem: MakeProblem
) -> None:
    method = ProgressiveAvPBC(**TINY, stages=3)
    given = problem(ProgressiveAvPBC, student=WITH_MOMENTUM)
    whole = distil(method, given).results[6]
    recorder = Recorder(stop_at=stop_at)
    with pytest.raises(Killed):
        distil(method, given, recorder)
    again = distil(method, given, Recorder(saved=recorder.states[stop_at]))
    assert same(again.results[6], whole)


def test_without_momentum_nothing_is_carried(problem: MakeProblem) -> None:
    carried, restarted = (
        distil(ProgressiveAvPBC(**TINY, stages=2, velocity=velocity), problem(ProgressiveAvPBC))
        for velocity in ("carried", "restarted")
    )
    assert same(carried.results[6], restarted.results[6])
    assert "engine_of_later_stages" not in carried.facts
    noted = distil(ProgressiveAvPBC(**TINY), problem(ProgressiveAvPBC, student=WITH_MOMENTUM))
    assert noted.facts["engine_of_later_stages"] == "torch"


def test_an_adjoint_in_bf16_is_refused_where_velocities_are_carried() -> None:
    method = ProgressiveAvPBC(**TINY, precision="bf16-adjoint")
    method.require_student(dataclasses.replace(STUDENT))
    with pytest.raises(BadParameter, match=r"precision is .bf16-adjoint.*float32"):
        method.require_student(dataclasses.replace(STUDENT, momentum=0.5))
    with pytest.raises(BadParameter, match=r"stages is 4 and student\.steps 3"):
        ProgressiveAvPBC(**TINY).require_student(dataclasses.replace(STUDENT, steps=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stages": 5}, "stages is 5; expected at most 4"), ({"stages": 0}, "stages .* is 0")],
)
def test_more_stages_than_pairs_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        ProgressiveAvPBC(**TINY, **settings)


def test_truncation_costs_what_its_window_implies(problem: MakeProblem) -> None:
    """Counted in products, not in seconds: forward and backward steps of the inner loop."""
    student = dataclasses.replace(STUDENT, steps=20)
    given = problem(TruncatedAvPBC, student=student)
    method = TruncatedAvPBC(**TINY, window=5)
    ends = [
        int(torch.randint(5, 21, (), generator=given.generator("window", step)))
        for step in range(2000)
    ]
    cost = statistics.mean(3 * (end - 5) + 9 * 5 for end in ends) / (9 * 20)
    assert cost == pytest.approx(method.expected_products(20), rel=0.02)
